"""Restoring versions from what DVC holds; tests/scenarios/test_moves.py does it in clones of a trained project."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from flows.project.project import Project
from flows.promotion import ledger, model_registry
from flows.promotion.gates.scoring import check_model_predicts
from flows.reports.status import report_status
from flows.versioning import dvc_repo
from flows.versioning.restoration import find_bundle, open_registry
from imageset.exceptions import UserError
from lightning_modules.tracking.tags import RESTORED_IN_TAG, RESTORED_RUN_TAG
from tests.helpers.models import make_untrained_bundle
from tests.helpers.servers import serve_mlflow

RUN_ID = "ab" * 16


def write_trained(project: Path, digest_of: Path) -> None:
    """data/models/classifier as a training leaves it."""
    folder = project / "data/models/classifier"
    shutil.copytree(digest_of, folder)
    (folder / "history.csv").write_text("epoch,train_loss,val_loss\n0,2.0,1.5\n1,1.0,0.5\n")
    (folder / "run.json").write_text(json.dumps({"run_id": RUN_ID, "dataset": {"name": "digits"}}))


def decide(project: Path, version: int, bundle: str, **aliases: int) -> dict:
    entry = {
        "event": ledger.DECISION,
        "model": "digits",
        "version": version,
        "run": RUN_ID,
        "serves": True,
        "reason": "better",
        "bundle": bundle,
        "before": {},
        "after": aliases,
        "tags": {"convoy.decision": "better"},
    }
    line = ledger.append_entry(Project(project), entry)
    ledger.append_entry(Project(project), {"event": ledger.DONE, "of": line["number"]})
    return line


@pytest.fixture
def clone(project, monkeypatch) -> Path:
    """A project with a bundle that nothing in MLflow knows, and a ledger that says it serves as version 3."""
    monkeypatch.chdir(project)
    (project / "dvc.yaml").write_text("stages: {}\n")
    (project / "params.yaml").write_text("name: digits\ntrain: {}\n")
    bundle = make_untrained_bundle(project)
    write_trained(project, project / "bundle")
    decide(project, 3, bundle.digest, champion=3, previous=2)
    return project


def test_a_version_keeps_its_number_and_the_next_one_follows_the_last_of_the_ledger(clone):
    decide(clone, 5, "a challenger that is nowhere", champion=3, challenger=5)
    client = open_registry(Project(clone))
    version = model_registry.require_champion(client, "digits")
    assert (version.number, version.decision) == (3, "better")
    assert model_registry.read_aliases(client, "digits") == {"champion": 3}
    assert [int(found.version) for found in client.search_model_versions("name = 'digits'")] == [3]
    run = model_registry.find_run(client, RUN_ID[:6])
    assert run.info.run_id == version.run_id and run.info.status == "FINISHED"
    assert [point.value for point in client.get_metric_history(run.info.run_id, "val_loss")] == [1.5, 0.5]
    again = model_registry.register_model(client, "digits", version.run_id, model_registry.find_model_uri(run))
    assert again.number == 6


@pytest.mark.long
def test_two_clones_with_one_server_restore_a_version_once(clone, tmp_path_factory, empty_mlflow_db, monkeypatch):
    folder = tmp_path_factory.mktemp("shared")
    projects = [Path(shutil.copytree(clone, folder / name)) for name in ("first", "second")]
    code = (
        "from pathlib import Path; from flows.project.project import Project; "
        "from flows.versioning.restoration import open_registry; open_registry(Project(Path.cwd()))"
    )
    with serve_mlflow(folder / "server", empty_mlflow_db) as uri:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        both = [
            subprocess.Popen([sys.executable, "-c", code], cwd=project, stderr=subprocess.PIPE, text=True)
            for project in projects
        ]
        said = [process.communicate(timeout=300)[1] for process in both]
        assert [process.returncode for process in both] == [0, 0], said
        client = open_registry(Project(projects[0]), RUN_ID)
        assert [int(found.version) for found in client.search_model_versions("name = 'digits'")] == [3]
        assert model_registry.read_aliases(client, "digits") == {"champion": 3}
        (run,) = client.search_runs([client.get_experiment_by_name("digits").experiment_id])
        assert run.info.run_id == model_registry.require_champion(client, "digits").run_id


@pytest.mark.parametrize(("is_own", "num_left"), [(True, 1), (False, 2)])
def test_only_the_half_run_of_a_killed_restoration_of_this_project_is_deleted(clone, is_own, num_left):
    client = open_registry(Project(clone))
    finished = client.get_run(model_registry.require_champion(client, "digits").run_id)
    place = finished.data.tags[RESTORED_IN_TAG] if is_own else "elsewhere:/project"
    client.delete_registered_model("digits")
    client.delete_run(finished.info.run_id)
    half = client.create_run(finished.info.experiment_id, tags={RESTORED_RUN_TAG: RUN_ID, RESTORED_IN_TAG: place})
    open_registry(Project(clone))
    left = [run.info.run_id for run in client.search_runs([finished.info.experiment_id])]
    assert len(left) == num_left and (half.info.run_id in left) is not is_own


def test_nothing_is_restored_twice(clone):
    client = open_registry(Project(clone))
    first = model_registry.require_champion(client, "digits").run_id
    client = open_registry(Project(clone), RUN_ID)
    assert model_registry.require_champion(client, "digits").run_id == first
    assert len(client.search_runs([client.get_experiment_by_name("digits").experiment_id])) == 1


@pytest.mark.parametrize("part", ["", "*/models/*/artifacts/artifacts/bundle/weights.safetensors"])
def test_files_that_were_removed_from_mlflows_folder_are_named_and_restored(clone, part):
    client = open_registry(Project(clone))
    before = model_registry.require_champion(client, "digits")
    assert "is missing" not in report_status(Project(clone))
    for path in list((clone / "mlartifacts").glob(part)) if part else [clone / "mlartifacts"]:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    (line,) = [line for line in report_status(Project(clone)).splitlines() if "is missing; the next" in line]
    assert line.startswith("problems  digits version 3 (champion): ")
    after = model_registry.require_champion(open_registry(Project(clone)), "digits")
    assert after == before and check_model_predicts(after.uri)
    assert "is missing" not in report_status(Project(clone))


def test_files_that_dvc_does_not_have_either_are_one_line(clone):
    open_registry(Project(clone))
    shutil.rmtree(clone / "mlartifacts")
    shutil.rmtree(clone / "data/models/classifier")
    with pytest.raises(UserError, match="digits version 3 of the ledger cannot be restored"):
        open_registry(Project(clone))


def test_a_bundle_with_another_digest_is_not_believed(clone):
    (line,) = [entry for entry in ledger.read_ledger(Project(clone)) if entry["event"] == ledger.DECISION]
    with (
        pytest.raises(UserError, match="digits version 3 of the ledger cannot be restored"),
        find_bundle(Project(clone), {**line, "bundle": "another"}),
    ):
        pass


def test_a_model_that_serves_is_left_as_it_is(clone):
    client = open_registry(Project(clone))
    client.delete_registered_model_alias("digits", "champion")  # by hand
    assert "champion" not in model_registry.read_aliases(open_registry(Project(clone)), "digits")


def test_a_bundle_is_fetched_from_dvc_and_leaves_nothing_behind(clone):
    for command in ("git init -q", f"{sys.executable} -m dvc init -q",
                    f"{sys.executable} -m dvc add -q data/models/classifier"):  # fmt: skip
        subprocess.run(command.split(), cwd=clone, check=True)
    (out,) = yaml.safe_load((clone / "data/models/classifier.dvc").read_text())["outs"]
    stage = {"cmd": "x", "outs": [{**out, "path": "data/models/classifier"}]}
    lock = {"schema": "2.0", "stages": {"train": stage}}
    (clone / "dvc.lock").write_text(yaml.safe_dump(lock))
    project = Project(clone)
    assert dvc_repo.read_cached_file(project, out["md5"], "run.json") is not None
    shutil.rmtree(clone / "data/models/classifier")
    (clone / "data/models/classifier.dvc").unlink()
    (clone / "data/.fetched-0-killed").mkdir()
    assert model_registry.require_champion(open_registry(project), "digits").number == 3
    assert not [*(clone / "data").glob(".fetched*")]
