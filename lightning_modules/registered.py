"""A trained bundle as an MLflow model: signature, input example, requirements, code."""

import io
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from imageset.store import ImageStore
from lightning_modules.bundle import MANIFEST, WEIGHTS, BundleInfo
from lightning_modules.reference import REFERENCE
from lightning_modules.tracking import TrackedRun

REQUIRED = ("jsonargparse", "mlflow", "numpy", "pandas", "pillow", "pyarrow", "pytorch-lightning", "pyyaml",
            "safetensors", "simplejpeg", "torch", "torchvision")  # fmt: skip
SEEN = "training/pictures.parquet"  # artifact of the run: what the model learnt from


def log_model(run: TrackedRun, bundle: Path, info: BundleInfo, store: ImageStore) -> str:
    """Log the bundle in `bundle` to the run as a pyfunc model, and beside it which pictures it learnt from.

    Returns the model's URI, `models:/m-...`.
    """
    import shutil
    import tempfile

    import mlflow
    import pandas as pd
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema
    from mlflow.types.schema import AnyType, Array, Object, Property

    one = Object([Property("label", DataType.string), Property("probability", DataType.double)])
    labels = [ColSpec(Array(one), "labels", required=False)] if info.multi_label else []
    signature = ModelSignature(
        inputs=Schema([
            ColSpec(DataType.binary, "image", required=False),
            ColSpec(DataType.string, "path", required=False),
            ColSpec(AnyType(), "pixels", required=False),
        ]),
        outputs=Schema([
            ColSpec(DataType.string, "label", required=False),
            ColSpec(DataType.double, "probability", required=False),
            ColSpec(DataType.string, "status"),
            ColSpec(DataType.string, "error", required=False),
            *labels,
        ]),
    )  # fmt: skip
    example = pd.DataFrame({"image": [png(image) for image in example_images(store)]})
    with tempfile.TemporaryDirectory() as scratch:
        seen = Path(scratch) / Path(SEEN).name
        pq.write_table(seen_pictures(store), seen, compression="zstd")
        run.client.log_artifact(run.run_id, str(seen), Path(SEEN).parent.name)
        folder = Path(scratch) / "bundle"
        folder.mkdir()
        for name in (WEIGHTS, MANIFEST, REFERENCE):
            if (bundle / name).exists():
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


def seen_pictures(store: ImageStore) -> pa.Table:
    """`image_id`, `group` and `phash` of the training split: enough to tell whether a picture of another dataset,
    one that belongs with it, or one that looks like it was learnt from."""
    rows = store.split("train").rows
    image_id = pa.array([bytes.fromhex(one) for one in rows["image_id"].to_pylist()], pa.binary(32))
    return pa.table({"image_id": image_id, "group": rows["group"], "phash": rows["phash"]})


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
