"""A project that is moved, copied or cloned, and DVC's experiments: what the issue of 2026-11-27 lists."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tests.helpers.project import ServedProject, run_convoy, set_params

pytestmark = pytest.mark.long  # `make projects`

COMMIT = ("-c", "user.name=Test", "-c", "user.email=test@localhost", "commit", "-q", "-m")


def call(folder: Path, *command: str) -> str:
    env = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    done = subprocess.run(command, cwd=folder, env={**env, "DVC_NO_ANALYTICS": "1"}, text=True, check=False,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)  # fmt: skip
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}"
    return done.stdout


def call_dvc(folder: Path, *arguments: str) -> str:
    return call(folder, sys.executable, "-m", "dvc", *arguments)


def convoy(folder: Path, *arguments: str, status: int = 0) -> str:
    done = run_convoy(folder, *arguments)
    assert done.returncode == status, done.stdout
    return done.stdout


def wait_for_queue(project: Path) -> None:
    """Wait until DVC's worker has run the only experiment in the queue."""
    deadline = time.monotonic() + 900
    while "Success" not in (said := call_dvc(project, "queue", "status")):
        assert "Failed" not in said and time.monotonic() < deadline, said
        time.sleep(3)


def open_store(folder: Path) -> MlflowClient:
    uri = f"sqlite:///{folder}/mlflow.db"
    return MlflowClient(uri, registry_uri=uri)  # else the registry that another test has connected to


def read_note(folder: Path) -> dict:
    return json.loads((folder / "data/models/classifier/run.json").read_text())


def snapshot(folder: Path) -> dict[str, bytes]:
    """All that a command may not change in an original: the store, the data, git, and what DVC keeps."""
    names = ("mlflow.db", "mlartifacts", "data", "dvc.lock", ".dvc/cache")
    paths = [path for name in names for path in [folder / name, *(folder / name).rglob("*")] if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


@pytest.fixture(autouse=True)
def prefect(prefect_server, monkeypatch):
    monkeypatch.setenv("PREFECT_API_URL", prefect_server)


@pytest.fixture(scope="module")
def published(served: ServedProject, tmp_path_factory) -> Path:
    """A copy of a served project whose data is pushed to a remote of DVC, and whose small files are committed."""
    folder = tmp_path_factory.mktemp("published") / "project"
    shutil.copytree(served.folder, folder, symlinks=True)
    call_dvc(folder, "remote", "add", "-q", "-d", "store", str(folder.parent / "remote"))
    call_dvc(folder, "push", "-q")
    call(folder, "git", "add", "-A")
    call(folder, "git", *COMMIT, "trained")
    return folder


@pytest.fixture
def clone(published, tmp_path) -> Path:
    call(tmp_path, "git", "clone", "-q", str(published), "clone")
    return tmp_path / "clone"


def test_a_moved_project_predicts_trains_and_promotes_at_its_new_place(served, tmp_path):
    before = tmp_path / "before"
    shutil.copytree(served.folder, before, symlinks=True)
    convoy(before, "predict", str(served.pictures))
    after = before.rename(tmp_path / "nach her ü")
    said = convoy(after, "predict", str(served.pictures))
    assert f"mlflow: {after} was {before}; its runs and models are found here now" in said
    set_params(after, train__seed_everything=7)
    convoy(after, "run", str(served.pictures))
    assert not before.exists()
    assert (after / "mlartifacts/digits-few" / read_note(after)["run_id"]).is_dir()
    runs = [json.loads(line)["run"] for line in (after / "data/ledger.jsonl").read_text().splitlines()
            if '"decision"' in line]  # fmt: skip
    assert "that both were tested on" in convoy(after, "compare", *runs[:2])


def test_a_copy_is_a_project_of_its_own(served, tmp_path):
    before = snapshot(served.folder)
    copy = tmp_path / "copy"
    shutil.copytree(served.folder, copy, symlinks=True)
    set_params(copy, train__seed_everything=8)
    convoy(copy, "run", str(served.pictures))
    convoy(copy, "predict", str(served.pictures))
    assert snapshot(served.folder) == before
    assert (copy / "mlartifacts/digits-few" / read_note(copy)["run_id"]).is_dir()


def test_a_clone_predicts_with_what_the_ledger_says_is_serving(published, clone, served):
    original = read_note(published)["run_id"]
    said = convoy(clone, "status")
    assert "digits-few version 1 by the ledger; MLflow here has no champion of it" in said
    call_dvc(clone, "pull", "-q")
    said = convoy(clone, "predict", str(served.pictures))
    assert "restored: digits-few version 1 serves, as the ledger says" in said
    client = open_store(clone)
    version = client.get_model_version_by_alias("digits-few", "champion")
    assert version.version in (1, "1")
    run = client.get_run(version.run_id)
    assert run.info.status == "FINISHED" and run.data.tags["convoy.restored_run"] == original
    known = open_store(published).get_run(original)
    for name in ("test_accuracy", "best_val_loss", "val_accuracy"):
        assert run.data.metrics[name] == pytest.approx(known.data.metrics[name])
    assert run.data.params == known.data.params
    assert "restored" not in convoy(clone, "predict", str(served.pictures))
    assert "already serves" in convoy(clone, "promote", original[:8])
    assert "0 are right only in" in convoy(clone, "compare", original[:8], original)


def test_a_clone_goes_on_with_training_and_keeps_the_numbers_of_versions(clone, served):
    call_dvc(clone, "pull", "-q")
    set_params(clone, train__seed_everything=9)
    convoy(clone, "run", str(served.pictures))
    lines = [json.loads(line) for line in (clone / "data/ledger.jsonl").read_text().splitlines()]
    (decision,) = [line for line in lines if line["event"] == "decision" and line["version"] == 2]
    assert decision["champion"] == 1
    assert decision["dvc"].endswith(".dir")


def test_a_bare_clone_fetches_an_earlier_champion_from_dvc(published, clone, served):
    call_dvc(clone, "pull", "-q")
    shutil.rmtree(clone / "data/models/classifier")
    shutil.rmtree(clone / ".dvc/cache")
    assert "version 1 serves, as the ledger says" in convoy(clone, "predict", str(served.pictures))
    assert not [*(clone / "data").glob(".fetched*")]
    assert not (clone / "data/models/classifier").exists()


def test_a_clone_whose_remote_cannot_be_reached_says_so_in_one_line(clone, served):
    call_dvc(clone, "remote", "modify", "store", "url", str(clone.parent / "nowhere"))
    said = convoy(clone, "predict", str(served.pictures), "--model", "digits-few", status=2)
    errors = [line for line in said.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and "cannot be reached or does not have" in errors[0], said
    assert "DVC's remote 'store'" in errors[0] and str(clone.parent / "nowhere") in errors[0]
    assert "Traceback" not in said


def test_a_restoration_that_was_killed_is_begun_again(clone, served):
    call_dvc(clone, "pull", "-q")
    code = (
        "import os\nfrom flows.promotion import model_registry\n"
        "from flows.project.project import Project\nfrom flows.versioning.restoration import open_registry\n"
        "model_registry.finish_restoration = lambda *rest: os._exit(9)\nopen_registry(Project.find())\n"
    )
    killed = subprocess.run([sys.executable, "-c", code], cwd=clone, check=False, capture_output=True)
    assert killed.returncode == 9, killed.stderr.decode()
    assert not open_store(clone).get_registered_model("digits-few").aliases
    assert "version 1 serves, as the ledger says" in convoy(clone, "predict", str(served.pictures))
    (version,) = open_store(clone).search_model_versions("name = 'digits-few'")
    assert int(version.version) == 1


def test_the_last_training_of_a_clone_is_found_by_its_old_id(published, clone):
    call_dvc(clone, "pull", "-q")
    (clone / "data/ledger.jsonl").unlink()
    said = convoy(clone, "promote")
    assert "digits-few version 1 serves: the first model of digits-few" in said


@pytest.mark.parametrize("way", [("--temp",), ("--queue",)])
def test_an_experiment_of_dvc_logs_to_the_store_of_its_project(published, tmp_path, way):
    project = tmp_path / "project"
    shutil.copytree(published, project, symlinks=True)
    before = read_note(project)["run_id"]
    call_dvc(project, "exp", "run", *way, "-n", "quick", "-S", "train.seed_everything=11")
    if way == ("--queue",):
        call_dvc(project, "queue", "start", "-j", "1")
        wait_for_queue(project)
    call_dvc(project, "exp", "apply", "quick")
    run_id = read_note(project)["run_id"]
    assert run_id != before
    run = open_store(project).get_run(run_id)
    assert run.info.status == "FINISHED" and "test_accuracy" in run.data.metrics
    assert run.info.artifact_uri.startswith((project / "mlartifacts").as_uri())
    assert "digits-few version 2" in convoy(project, "promote")
    assert not [*(project / ".cache").glob("train/*/run_id")]


def test_an_experiment_in_the_workspace_logs_to_the_store_of_its_project(published, tmp_path):
    project = tmp_path / "project"
    shutil.copytree(published, project, symlinks=True)
    call_dvc(project, "exp", "run", "-S", "train.seed_everything=12")
    assert open_store(project).get_run(read_note(project)["run_id"]).info.status == "FINISHED"
