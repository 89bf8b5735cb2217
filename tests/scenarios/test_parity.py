"""One picture, one prediction: in the test, by `convoy predict`, and by the served model."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from PIL import Image

from flows.project.project import Project
from flows.promotion import model_registry
from imageset.raw.ingestion import ingest_source
from imageset.sources.factory import open_source
from tests.helpers.project import ROOT, copy_params, run_stage, set_params

ODD = (
    "exif",
    "cmyk",
    "palette",
    "palette-see-through",
    "grey",
    "sixteen-bit",
    "see-through",
    "gif",
    "progressive",
)


def write_odd(path: Path, kind: str, rng: np.random.Generator) -> None:
    """A smooth random picture, 40 x 56 px, saved as `kind`."""
    small = rng.integers(0, 256, (5, 7, 3), np.uint8)
    picture = Image.fromarray(small).resize((56, 40), Image.Resampling.BICUBIC)
    match kind:
        case "exif":
            exif = Image.Exif()
            exif[0x0112] = 6
            picture.save(path.with_suffix(".jpg"), exif=exif, quality=92)
        case "cmyk":
            picture.convert("CMYK").save(path.with_suffix(".jpg"), quality=92)
        case "palette":
            picture.quantize(32).save(path.with_suffix(".png"))
        case "palette-see-through":
            picture.quantize(32).save(path.with_suffix(".png"), transparency=3)
        case "grey":
            picture.convert("L").save(path.with_suffix(".jpg"), quality=92)
        case "sixteen-bit":
            grey = np.asarray(picture.convert("L")).astype(np.uint16) * 257
            Image.fromarray(grey).save(path.with_suffix(".png"))
        case "see-through":
            picture.putalpha(Image.fromarray(np.asarray(picture)[..., 0]))
            picture.save(path.with_suffix(".png"))
        case "gif":
            picture.save(path.with_suffix(".gif"))
        case "progressive":
            picture.save(path.with_suffix(".jpg"), progressive=True, quality=92)


@pytest.fixture(scope="module")
def odd(tmp_path_factory, empty_mlflow_db) -> Path:
    """A project that was trained on odd pictures, with odd pictures in its test split."""
    project = tmp_path_factory.mktemp("odd")
    copy_params(project)
    shutil.copy(ROOT / "dvc.yaml", project)
    shutil.copy(empty_mlflow_db, project / "mlflow.db")
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        for label in ("a", "b"):
            folder = project / "odd" / split / label
            folder.mkdir(parents=True)
            for number, kind in enumerate(ODD * 2):
                write_odd(folder / f"{number:02d}-{kind}", kind, rng)
    ingest_source(open_source(str(project / "odd")), project / "data/raw")
    set_params(project, train__trainer__max_epochs=1, normalize__size_px=32)
    for module, stage in (("imageset", "normalize"), ("lightning_modules", "fit"), ("lightning_modules", "test")):
        code, output = run_stage(project, stage, module)
        assert code == 0, output
    return project


def test_a_picture_is_predicted_the_same_everywhere(odd, tmp_path, monkeypatch):
    import mlflow

    from flows.predict import predict_source
    from flows.prediction.options import PredictOptions

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with (odd / "data/models/report/predictions.csv").open() as file:
        tested = {row["image_id"]: row for row in csv.DictReader(file)}
    assert len(tested) == 4 * len(ODD)

    client = model_registry.connect_registry(Project(odd))
    note = json.loads((odd / "data/models/classifier/run.json").read_text())
    version = model_registry.register_model(client, "odd", note["run_id"], note["model_uri"])
    params = Project(odd).load_params("predict") | {"engine": "pytorch", "precision": "fp32"}
    predict_source.fn(
        PredictOptions(str(odd / "odd/test"), tmp_path / "out.parquet"), version, Project(odd), params
    )
    predicted = {row["image_id"]: row for row in pq.read_table(tmp_path / "out.parquet").to_pylist()}

    files = [path for path in sorted((odd / "odd/test").rglob("*")) if path.is_file()]
    served = mlflow.pyfunc.load_model(version.uri).predict(
        pd.DataFrame({"image": [path.read_bytes() for path in files]})
    )
    by_uri = {row["uri"]: row for row in predicted.values()}
    assert predicted.keys() == tested.keys() and set(served["status"]) == {"ok"}
    for path, label, probability in zip(files, served["label"], served["probability"], strict=True):
        row = by_uri[path.relative_to(odd / "odd/test").as_posix()]
        test = tested[row["image_id"]]
        assert row["label"] == test["predicted"] == label, path.name
        assert row["probability"] == pytest.approx(float(test["probability"]), abs=1e-5), path.name
        assert row["probability"] == pytest.approx(probability, abs=1e-5), path.name
