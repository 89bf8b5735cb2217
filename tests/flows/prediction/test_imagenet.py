import io
import os
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from flows.predict import find_model, read_model_name
from flows.prediction import imagenet
from flows.prediction.cache import PREDICTION_SCHEMA
from flows.project.exceptions import NoChampion
from flows.project.project import Project
from flows.promotion import model_registry
from tests.helpers.photographs import read_recognizable_photographs
from tests.helpers.project import ROOT, copy_params, run_convoy

NOBODY = "http://127.0.0.1:9"  # no server answers there
VERSION = int("57934424", 16)  # the file of the weights is called efficientnet-lite0-57934424.pth


@pytest.fixture
def photographs(tmp_path) -> Path:
    """A folder with eight photographs, or large parts of them, and a file that is no picture."""
    (tmp_path / "home").mkdir()
    folder = tmp_path / "empty" / "photos"
    folder.mkdir(parents=True)
    for name, (data, _) in read_recognizable_photographs().items():
        (folder / f"{name}.jpg").write_bytes(data)
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 broken")
    return folder


def predict(folder: Path, *arguments: str, **environment: str):
    """Call the command where no server answers, with a home of its own."""
    away = {"PREFECT_API_URL": f"{NOBODY}/api", "MLFLOW_TRACKING_URI": NOBODY, "HOME": str(folder.parent / "home")}
    cache = {"XDG_CACHE_HOME": str(folder.parent / "cache")}
    return run_convoy(
        folder, "predict", "photos", "--model", "imagenet", *arguments, **{**away, **cache, **environment}
    )


def test_photographs_are_tagged_in_an_empty_folder_without_any_server(photographs):
    folder = photographs.parent
    done = predict(folder, "--tag", "xmp", "--review", "2")
    assert done.returncode == 0, done.stdout
    assert (
        done.stdout.splitlines()[-1]
        == f"predictions.parquet: 9 rows by imagenet version {VERSION}, 1 of them errors"
    )
    table = pq.read_table(folder / "predictions.parquet")
    rows = {row["uri"]: row for row in table.to_pylist()}
    assert table.schema.names == PREDICTION_SCHEMA.names
    for name, (_, label) in read_recognizable_photographs().items():
        row = rows[f"{name}.jpg"]
        assert (row["label"], row["status"], row["error"]) == (label, "ok", None)
    palace, broken = rows["palace.jpg"], rows["broken.jpg"]
    assert (palace["model_name"], palace["model_version"]) == ("imagenet", VERSION)
    assert palace["dataset_fingerprint"] is None  # none of ours
    assert palace["top_k"][0]["label"] == "palace" and len(palace["top_k"]) == 3
    assert (broken["label"], broken["status"]) == (None, "error") and broken["error"].startswith("truncated")
    with Image.open(io.BytesIO((folder / "predictions.tagged" / "palace.jpg").read_bytes())) as picture:
        assert b"<rdf:li>palace</rdf:li>" in picture.info["xmp"]
    assert sorted(os.listdir(folder)) == [
        "photos",
        "predictions.parquet",
        "predictions.review",
        "predictions.tagged",
    ]

    again = predict(folder, "--out", "again.parquet")
    assert "9 of them were predicted before, taken from the cache" in again.stdout
    assert pq.read_table(folder / "again.parquet").equals(table)


@pytest.mark.long
def test_photographs_are_tagged_in_a_project_that_has_trained_nothing(
    photographs, empty_mlflow_db, prefect_server
):
    folder = photographs.parent
    copy_params(folder)
    shutil.copy(ROOT / "dvc.yaml", folder)
    shutil.copy(empty_mlflow_db, folder / "mlflow.db")
    done = predict(folder, PREFECT_API_URL=prefect_server, MLFLOW_TRACKING_URI=f"sqlite:///{folder}/mlflow.db")
    assert done.returncode == 0, done.stdout
    assert pq.read_table(folder / "predictions.parquet")["label"].to_pylist()[1] == "daisy"
    assert (folder / ".cache" / "predictions").is_dir()
    assert not (folder.parent / "cache" / "convoy").exists() and "monitor" not in done.stdout


@pytest.mark.parametrize("missing", ["dvc.yaml", "params.yaml"])
def test_a_folder_with_one_of_the_two_files_is_no_project(tmp_path, monkeypatch, missing):
    monkeypatch.chdir(tmp_path)
    for name in ("dvc.yaml", "params.yaml"):
        Path(name).write_text("{}")
    assert Project.find_or_none() == Project(tmp_path)
    Path(missing).unlink()
    assert Project.find_or_none() is None


def test_the_parameters_outside_a_project_are_those_of_a_new_project():
    ours = yaml.safe_load((ROOT / "params.yaml").read_text())
    assert imagenet.load_default_params() == ours["predict"]


def test_each_folder_outside_a_project_has_its_own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folders = set()
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        folders.add(imagenet.find_cache_folder(None))
    assert len(folders) == 2 and {folder.parent for folder in folders} == {tmp_path / "cache" / "convoy"}
    assert imagenet.find_cache_folder(Project(tmp_path)) == tmp_path / ".cache"


def test_a_registered_model_of_that_name_comes_first(project):
    here = Project(project)
    version = find_model.fn("imagenet", here)
    assert version == imagenet.make_imagenet_version() and not imagenet.is_registered(version)
    client = model_registry.connect_registry(here)
    client.create_registered_model("imagenet")
    client.create_model_version("imagenet", str(project))
    assert find_model.fn("imagenet", here) == version  # it does not serve
    client.set_registered_model_alias("imagenet", "champion", "1")
    registered = find_model.fn("imagenet", here)
    assert registered.number == 1 and imagenet.is_registered(registered)


def test_before_a_model_serves_the_error_names_the_one_that_is_installed(project):
    hint = r"until then, `convoy predict PHOTOS --model imagenet` tags with ImageNet's 1,000 classes$"
    copy_params(project, "pets")
    assert read_model_name(Project(project)) == "pets"
    with pytest.raises(NoChampion, match=rf"no model 'cats' serves .*; {hint}"):
        find_model.fn("cats", Project(project))
