import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from mlflow.entities import Param

from lightning_modules.tracking.client import connect_to_mlflow, ensure_experiment
from lightning_modules.tracking.journal_replay import apply_entry
from lightning_modules.tracking.tags import MODEL_TAG

WRITES = """
import sys
from pathlib import Path
from lightning_modules.tracking.client import connect_to_mlflow, ensure_experiment

client = connect_to_mlflow(Path(sys.argv[1]))
experiment = ensure_experiment(client, "flowers", Path(sys.argv[1]))
(before,) = client.search_runs([experiment])
client.log_text(before.info.run_id, "no", "report/answer.txt")
client.log_text(client.create_run(experiment).info.run_id, "new", "new.txt")
"""  # in a process of its own: MLflow keeps the artifact folder of each run in memory


@pytest.fixture
def store(tmp_path, monkeypatch, empty_mlflow_db) -> Path:
    """A project with one run, its file, its dataset and a registered version."""
    import mlflow

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    folder = tmp_path / "before"
    folder.mkdir()
    shutil.copy(empty_mlflow_db, folder / "mlflow.db")
    client = connect_to_mlflow(folder)
    run = client.create_run(ensure_experiment(client, "flowers", folder))
    client.log_batch(run.info.run_id, params=[Param("network", "small")])
    client.log_text(run.info.run_id, "yes", "report/answer.txt")
    client.set_tag(run.info.run_id, "mlflow.source.name", f"{folder}/train.py")
    client.set_tag(run.info.run_id, "note", f"see {folder}/notes.txt")
    with mlflow.start_run(run.info.run_id):
        model = mlflow.pyfunc.log_model(
            name="classifier", python_model=lambda model_input: model_input, pip_requirements=["mlflow"]
        )
    dataset = {"do": "dataset", "name": "flowers", "digest": "1", "path": f"{folder}/data", "context": "training"}
    apply_entry(client, run.info.run_id, dataset)
    client.set_tag(run.info.run_id, MODEL_TAG, model.model_id)
    client.create_registered_model("flowers")
    place = client.get_logged_model(model.model_id).artifact_location
    client.create_model_version("flowers", place, run.info.run_id, model_id=model.model_id)
    return folder


def dump(folder: Path) -> str:
    with closing(sqlite3.connect(folder / "mlflow.db")) as connection:
        return "\n".join(connection.iterdump())


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def read_answer(folder: Path) -> str:
    client = connect_to_mlflow(folder)
    (run,) = client.search_runs([client.get_experiment_by_name("flowers").experiment_id])
    return Path(client.download_artifacts(run.info.run_id, "report/answer.txt")).read_text()


def read_model_folder(folder: Path) -> Path:
    from mlflow.artifacts import download_artifacts

    connect_to_mlflow(folder)
    return Path(download_artifacts(artifact_uri="models:/flowers/1"))


def test_a_moved_store_names_its_new_folder_everywhere(store, tmp_path, capsys):
    after = store.rename(tmp_path / "näch ste %20 one")
    assert read_answer(after) == "yes"
    assert (read_model_folder(after) / "MLmodel").is_file()
    lines = [line for line in dump(after).splitlines() if "/before/" in line]
    assert len(lines) == 1 and "see " in lines[0]  # what a person wrote stays
    assert capsys.readouterr().err == f"mlflow: {after} was {store}; its runs and models are found here now\n"
    assert not store.exists()


def test_a_moved_store_is_mended_once_and_again_after_the_next_move(store, tmp_path, capsys):
    read_answer(first := store.rename(tmp_path / "one"))
    capsys.readouterr()
    read_answer(first)
    assert capsys.readouterr().err == ""
    assert read_answer(first.rename(tmp_path / "two")) == "yes"


@pytest.mark.parametrize("place", ["before/below", "."])
def test_a_store_moves_into_its_former_folder_or_out_of_it(store, tmp_path, place):
    aside = store.rename(tmp_path / "aside")
    after = tmp_path / place
    after.mkdir(parents=True, exist_ok=True)
    for path in list(aside.iterdir()):
        path.rename(after / path.name)
    assert read_answer(after) == "yes"
    assert read_model_folder(after).is_dir()
    assert "below/below" not in dump(after)


def test_a_copy_writes_only_into_itself(store, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(store, copy)
    before = snapshot(store)
    subprocess.run([sys.executable, "-c", WRITES, str(copy)], check=True, capture_output=True)
    assert snapshot(store) == before
    assert [path.read_text() for path in copy.glob("mlartifacts/flowers/*/artifacts/new.txt")] == ["new"]
    assert read_answer(store) == "yes"


def test_artifacts_that_a_copy_left_out_are_fetched_from_the_original(store, tmp_path, capsys):
    copy = tmp_path / "copy"
    shutil.copytree(store, copy, ignore=shutil.ignore_patterns("mlartifacts"))
    before = snapshot(store)
    assert read_answer(copy) == "yes"
    assert read_model_folder(copy).is_dir() and len([*copy.glob("mlartifacts/flowers/models/*/artifacts")]) == 1
    assert "2 folders of artifacts copied from there" in capsys.readouterr().err
    assert snapshot(store) == before


def test_places_elsewhere_are_left_alone(store, tmp_path):
    disk = tmp_path / "disk" / "mlartifacts" / "big"
    disk.mkdir(parents=True)
    client = connect_to_mlflow(store)
    client.create_experiment("big", disk.as_uri())
    client.create_experiment("bucket", "s3://bucket/mlartifacts/bucket")
    client = connect_to_mlflow(store.rename(tmp_path / "after"))
    assert client.get_experiment_by_name("big").artifact_location == disk.as_uri()
    assert client.get_experiment_by_name("bucket").artifact_location == "s3://bucket/mlartifacts/bucket"


def test_two_processes_mend_a_store_at_the_same_time(store, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(store, copy, ignore=shutil.ignore_patterns("mlartifacts"))
    code = (
        "import sys; from pathlib import Path; from lightning_modules.tracking.local_store import relocation; "
        "relocation.relocate_store(Path(sys.argv[1]))"
    )
    both = [subprocess.Popen([sys.executable, "-c", code, str(copy)], stderr=subprocess.PIPE, text=True)
            for _ in range(2)]  # fmt: skip
    said = [process.communicate(timeout=120)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert sorted(text.count("\n") for text in said) == [0, 1]
    assert read_answer(copy) == "yes"
