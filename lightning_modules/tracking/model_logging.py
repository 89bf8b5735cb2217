"""Log a trained bundle as an MLflow model, with signature, input example, requirements and code."""

import io
import json
import shutil
import sys
from importlib.metadata import packages_distributions, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from imageset.store.reader import ImageStore
from imageset.utils.atomic_write import replace_folder
from lightning_modules.bundle import (
    CODE_FOLDER,
    FORGOTTEN_NOTE,
    MANIFEST_FILE,
    REFERENCE_FILE,
    WEIGHTS_FILE,
    BundleInfo,
)
from lightning_modules.project_code.modules import list_imported_packages
from lightning_modules.tracking.tags import MODEL_TAG, TRAINING_IMAGES_ARTIFACT

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from lightning_modules.tracking.run import TrackedRun


REQUIRED_PACKAGES = (
    "jsonargparse", "mlflow", "numpy", "pandas", "pillow", "pyarrow", "pytorch-lightning", "pyyaml", "safetensors",
    "simplejpeg", "torch", "torchvision",
)  # fmt: skip


def log_model(run: "TrackedRun", bundle: Path, info: BundleInfo, store: ImageStore) -> str | None:
    """Log the bundle in the folder `bundle` to the run as a pyfunc model, and the list of its training images.

    Returns:
        The model's URI, `models:/m-...`; None if the model waits for an MLflow server that is unavailable.
    """
    log_training_images(run, list_training_images(store.split("train").rows))
    return log_bundle(run, bundle, info, read_example_images(store))


def log_training_images(run: "TrackedRun", training_images: pa.Table) -> None:
    """Log the list of the images that the model was trained on."""
    import tempfile

    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / Path(TRAINING_IMAGES_ARTIFACT).name
        pq.write_table(training_images, path, compression="zstd")
        run.log_artifact(path, Path(TRAINING_IMAGES_ARTIFACT).parent.name)


def log_bundle(run: "TrackedRun", bundle: Path, info: BundleInfo, examples: np.ndarray) -> str | None:
    """Log a bundle to the run as a pyfunc model; `examples` are images, uint8 (N, H, W, C). See `log_model`."""
    import tempfile

    with tempfile.TemporaryDirectory() as scratch:
        model = Path(scratch) / "model"
        prepare_model(model, bundle, info, examples)
        uri: str | None = run.log_entry({"do": "model"}, model)
        return uri


def prepare_model(model: Path, bundle: Path, info: BundleInfo, examples: np.ndarray) -> None:
    """Write what a pyfunc model is built from into the folder `model`, which does not exist yet.

    Args:
        model: the folder that `upload_model` and `save_model` read.
        bundle: the folder of the bundle.
        info: its description.
        examples: images, uint8 (N, H, W, C).
    """
    (model / "bundle").mkdir(parents=True)
    for name in (WEIGHTS_FILE, MANIFEST_FILE, REFERENCE_FILE, FORGOTTEN_NOTE):
        if (bundle / name).exists():
            shutil.copy2(bundle / name, model / "bundle" / name)
    if (bundle / CODE_FOLDER).exists():
        shutil.copytree(bundle / CODE_FOLDER, model / "bundle" / CODE_FOLDER)
    copy_packages(model / "code")
    images = pa.table({"image": [encode_example_image(image) for image in examples]})
    pq.write_table(images, model / "examples.parquet")
    about = {
        "requirements": list_requirements(bundle / CODE_FOLDER),
        "multi_label": info.multi_label,
        "metadata": {"dataset": info.dataset, "classes": list(info.classes)},
    }
    (model / "about.json").write_text(json.dumps(about))


def upload_model(client: "MlflowClient", run_id: str, folder: Path) -> str:
    """Send the model that `log_model` prepared, unless the run has its model already; return the model's URI.

    Args:
        client: from `connect_to_mlflow`.
        run_id: MLflow's id of the run.
        folder: the prepared files: `about.json`, `examples.parquet`, `bundle/` and `code/`.
    """
    import mlflow

    if model_id := client.get_run(run_id).data.tags.get(MODEL_TAG):
        return f"models:/{model_id}"
    with mlflow.start_run(run_id=run_id):
        logged: Any = mlflow.pyfunc.log_model(name="classifier", **_read_model_arguments(folder))
    client.set_tag(run_id, MODEL_TAG, logged.model_id)
    return f"models:/{logged.model_id}"


def save_model(folder: Path, target: Path, run_id: str, model_id: str) -> None:
    """Write the files of the model that `prepare_model` prepared into `target`, where those of a run were.

    Args:
        folder: the prepared files.
        target: replaced as a whole.
        run_id: MLflow's id of the run that logged the model.
        model_id: MLflow's id of the model.
    """
    import mlflow
    from mlflow.models import Model

    model = Model(run_id=run_id, model_id=model_id)
    with replace_folder(target) as temporary:
        mlflow.pyfunc.save_model(path=str(temporary), mlflow_model=model, **_read_model_arguments(folder))


def _read_model_arguments(folder: Path) -> dict[str, Any]:
    """Return the arguments for MLflow of a model that `prepare_model` prepared."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema
    from mlflow.types.schema import AnyType, Array, Object, Property

    about = json.loads((folder / "about.json").read_text())
    labelled = Object([Property("label", DataType.string), Property("probability", DataType.double)])
    labels = [ColSpec(Array(labelled), "labels", required=False)] if about["multi_label"] else []
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
    return {
        "python_model": str(_find_model_code(code)),
        "artifacts": {"bundle": str(folder / "bundle")},
        "code_paths": [str(path) for path in sorted(code.iterdir())],
        "pip_requirements": about["requirements"],
        "signature": signature,
        "input_example": pq.read_table(folder / "examples.parquet").to_pandas(),
        "metadata": about["metadata"],
    }


def _find_model_code(code: Path) -> Path:
    """Return the file that defines the pyfunc model.

    A journal that was written before the modules moved into sub-packages holds it as served.py.
    """
    package = code / "lightning_modules"
    paths = package / "inference" / "pyfunc_model.py", package / "served.py"
    return next(path for path in paths if path.exists())


def list_training_images(rows: pa.Table) -> pa.Table:
    """Return `image_id`, `group` and `phash` of the training split, given its rows of index.parquet.

    They suffice to tell whether the model was trained on an image of another dataset, on one of its group, or on
    one that looks like it.
    """
    image_id = pa.array([bytes.fromhex(hex_id) for hex_id in rows["image_id"].to_pylist()], pa.binary(32))
    return pa.table({"image_id": image_id, "group": rows["group"], "phash": rows["phash"]})


def read_example_images(store: ImageStore) -> np.ndarray:
    """Return the first two images of the training split, uint8 (2, H, W, C)."""
    split = store.split("train")
    return split.read_batch(np.arange(min(2, len(split))))


def encode_example_image(image: np.ndarray) -> bytes:
    """Encode an image, uint8 (H, W, 1 or 3), as a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image).save(buffer, "PNG")
    return buffer.getvalue()


def list_requirements(code: Path) -> list[str]:
    """Return the distributions that the model needs, each with its version.

    Args:
        code: the folder of the project's own modules in the bundle, if the bundle has any.
    """
    names = set(REQUIRED_PACKAGES)
    if code.exists():
        files = {path.relative_to(code).as_posix(): path.read_bytes() for path in code.rglob("*.py")}
        distributions = packages_distributions()
        for package in list_imported_packages(files):
            names.update(distributions.get(package, ()))
    return [f"{name}=={version(name)}" for name in sorted(names)]


def copy_packages(folder: Path) -> None:
    """Copy the two packages that the model needs into `folder`, without compiled files."""
    for name in ("imageset", "lightning_modules"):
        source = Path(sys.modules[name].__file__ or "").parent
        shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
