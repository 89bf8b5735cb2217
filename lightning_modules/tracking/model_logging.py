"""A trained bundle as an MLflow model: signature, input example, requirements, code."""

import io
import json
import shutil
import sys
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from imageset.store.reader import ImageStore
from lightning_modules.bundle import MANIFEST_FILE, REFERENCE_FILE, WEIGHTS_FILE, BundleInfo
from lightning_modules.tracking.tags import MODEL_TAG, TRAINING_IMAGES_ARTIFACT

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from lightning_modules.tracking.run import TrackedRun


REQUIRED_PACKAGES = ("jsonargparse", "mlflow", "numpy", "pandas", "pillow", "pyarrow", "pytorch-lightning", "pyyaml",
            "safetensors", "simplejpeg", "torch", "torchvision")  # fmt: skip


def log_model(run: "TrackedRun", bundle: Path, info: BundleInfo, store: ImageStore) -> str | None:
    """Log the bundle in `bundle` to the run as a pyfunc model, and beside it which pictures it learnt from.

    Returns the model's URI, `models:/m-...`; None where it waits for an MLflow server that is away.
    """
    import tempfile

    with tempfile.TemporaryDirectory() as scratch:
        seen = Path(scratch) / Path(TRAINING_IMAGES_ARTIFACT).name
        pq.write_table(list_training_images(store), seen, compression="zstd")
        run.log_artifact(seen, Path(TRAINING_IMAGES_ARTIFACT).parent.name)
        model = Path(scratch) / "model"
        (model / "bundle").mkdir(parents=True)
        for name in (WEIGHTS_FILE, MANIFEST_FILE, REFERENCE_FILE):
            if (bundle / name).exists():
                shutil.copy2(bundle / name, model / "bundle" / name)
        copy_packages(model / "code")
        examples = pa.table({"image": [encode_example_image(image) for image in read_example_images(store)]})
        pq.write_table(examples, model / "examples.parquet")
        about = {
            "requirements": [f"{name}=={version(name)}" for name in REQUIRED_PACKAGES],
            "multi_label": info.multi_label,
            "metadata": {"dataset": info.dataset, "classes": list(info.classes)},
        }
        (model / "about.json").write_text(json.dumps(about))
        uri: str | None = run.log_entry({"do": "model"}, model)
        return uri


def upload_model(client: "MlflowClient", run_id: str, folder: Path) -> str:
    """Send what `log_model` has gathered; returns the model's URI. A run's model is sent once."""
    import mlflow
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema
    from mlflow.types.schema import AnyType, Array, Object, Property

    if sent := client.get_run(run_id).data.tags.get(MODEL_TAG):
        return f"models:/{sent}"
    about = json.loads((folder / "about.json").read_text())
    one = Object([Property("label", DataType.string), Property("probability", DataType.double)])
    labels = [ColSpec(Array(one), "labels", required=False)] if about["multi_label"] else []
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
    code = folder / "code"
    with mlflow.start_run(run_id=run_id):
        logged: Any = mlflow.pyfunc.log_model(
            name="classifier",
            python_model=str(_find_model_code(code)),
            artifacts={"bundle": str(folder / "bundle")},
            code_paths=[str(path) for path in sorted(code.iterdir())],
            pip_requirements=about["requirements"],
            signature=signature,
            input_example=pq.read_table(folder / "examples.parquet").to_pandas(),
            metadata=about["metadata"],
        )
    client.set_tag(run_id, MODEL_TAG, logged.model_id)
    return f"models:/{logged.model_id}"


def _find_model_code(code: Path) -> Path:
    """Return the file that defines the pyfunc model; a journal written before version 0.2 holds it as served.py."""
    package = code / "lightning_modules"
    places = package / "inference" / "pyfunc_model.py", package / "served.py"
    return next(place for place in places if place.exists())


def list_training_images(store: ImageStore) -> pa.Table:
    """`image_id`, `group` and `phash` of the training split: enough to tell whether a picture of another dataset,
    one that belongs with it, or one that looks like it was learnt from."""
    rows = store.split("train").rows
    image_id = pa.array([bytes.fromhex(one) for one in rows["image_id"].to_pylist()], pa.binary(32))
    return pa.table({"image_id": image_id, "group": rows["group"], "phash": rows["phash"]})


def read_example_images(store: ImageStore) -> np.ndarray:
    """The first two pictures of the training split, uint8 (2, H, W, C)."""
    split = store.split("train")
    return split.read_batch(np.arange(min(2, len(split))))


def encode_example_image(image: np.ndarray) -> bytes:
    """uint8 (H, W, 1 or 3) -> the bytes of a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image).save(buffer, "PNG")
    return buffer.getvalue()


def copy_packages(folder: Path) -> None:
    """The two packages that the model needs, without compiled leftovers."""
    for name in ("imageset", "lightning_modules"):
        source = Path(sys.modules[name].__file__ or "").parent
        shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
