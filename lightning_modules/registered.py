"""A trained bundle as an MLflow model: signature, input example, requirements, code."""

import io
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from imageset.store import ImageStore
from lightning_modules.bundle import MANIFEST, WEIGHTS, BundleInfo
from lightning_modules.tracking import TrackedRun

REQUIRED = ("jsonargparse", "mlflow", "numpy", "pandas", "pillow", "pyarrow", "pytorch-lightning", "pyyaml",
            "safetensors", "torch", "torchvision")  # fmt: skip


def log_model(run: TrackedRun, bundle: Path, info: BundleInfo, store: ImageStore) -> str:
    """Log the bundle in `bundle` to the run as a pyfunc model; returns its URI, `models:/m-...`."""
    import shutil
    import tempfile

    import mlflow
    import pandas as pd
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema

    signature = ModelSignature(
        inputs=Schema([ColSpec(DataType.binary, "image")]),
        outputs=Schema([
            ColSpec(DataType.string, "label", required=False),
            ColSpec(DataType.double, "probability", required=False),
            ColSpec(DataType.string, "status"),
            ColSpec(DataType.string, "error", required=False),
        ]),
    )  # fmt: skip
    example = pd.DataFrame({"image": [png(image) for image in example_images(store)]})
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "bundle"
        folder.mkdir()
        for name in (WEIGHTS, MANIFEST):
            shutil.copy2(bundle / name, folder / name)
        with mlflow.start_run(run_id=run.run_id):
            logged: Any = mlflow.pyfunc.log_model(
                name="classifier",
                python_model=str(Path(__file__).with_name("served.py")),
                artifacts={"bundle": str(folder)},
                code_paths=package_copies(Path(scratch)),
                pip_requirements=[f"{name}=={version(name)}" for name in REQUIRED],
                signature=signature,
                input_example=example,
                metadata={"dataset": info.dataset, "classes": list(info.classes)},
            )
    return f"models:/{logged.model_id}"


def example_images(store: ImageStore) -> np.ndarray:
    """The first two pictures of the training split, uint8 (2, H, W, C)."""
    split = store.split("train")
    return split.batch(np.arange(min(2, len(split))))


def png(image: np.ndarray) -> bytes:
    """uint8 (H, W, 1 or 3) -> the bytes of a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image).save(buffer, "PNG")
    return buffer.getvalue()


def package_copies(scratch: Path) -> list[str]:
    """The two packages that the model needs, without compiled leftovers."""
    import shutil

    copies = []
    for name in ("imageset", "lightning_modules"):
        source = Path(sys.modules[name].__file__ or "").parent
        shutil.copytree(source, scratch / name, ignore=shutil.ignore_patterns("__pycache__"))
        copies.append(str(scratch / name))
    return copies
