"""One small sweep on real digits: killed in its first training, gone on with, its best trained once more."""

import json
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from flows.project import params_yaml
from flows.project.project import Project
from flows.promotion import model_registry
from flows.sweeps.search import SweepResult, digest_code, run_sweep
from flows.sweeps.study import FOLDER_ATTR, VALUES_ATTR, open_study, parse_space
from imageset.exceptions import UserError
from tests.helpers.images import write_digit_images
from tests.helpers.project import make_project, run_convoy, run_stage

LR = "train.model.optimizer.init_args.lr"
SWEEP = {
    "space": {LR: [0.002, 1e-7, 2e-7]}, "metric": "val_loss", "trials": 3, "timeout_min": None, "processes": 1,
    "pruner": "median", "startup_trials": 1, "warmup_epochs": 0, "seed": 0,
}  # fmt: skip
CALL = (
    "import json, sys; from pathlib import Path; from flows.sweeps.search import run_sweep; "
    "from flows.project.project import Project; run_sweep(Project(Path.cwd()), json.loads(sys.argv[1]))"
)


@dataclass
class Done:
    project: Path
    swept: SweepResult
    page: str
    killed_in: str  # the MLflow run that was under way


def change(project: Path, **changes) -> None:
    document = params_yaml.read_commented_yaml(project / "params.yaml")
    for name, value in changes.items():
        section, key = name.split("__")
        document[section][key] = params_yaml.to_yaml_value(value)
    params_yaml.write_commented_yaml(project / "params.yaml", document)


@pytest.fixture(scope="module")
def project(tmp_path_factory, empty_mlflow_db) -> Path:
    """A project with a normalized dataset, where nothing was trained."""
    from imageset.raw.ingestion import ingest_source
    from imageset.sources.factory import open_source

    folder = make_project(tmp_path_factory.mktemp("sweep"))
    shutil.copy(empty_mlflow_db, folder / "mlflow.db")
    source = write_digit_images(tmp_path_factory.mktemp("source") / "digits-few")
    ingest_source(open_source(str(source)), folder / "data/raw")
    params = (folder / "params.yaml").read_text()
    (folder / "params.yaml").write_text(params.replace("max_epochs: 15", "max_epochs: 10"))
    change(folder, sweep__space=SWEEP["space"], sweep__trials=3, sweep__processes=1, sweep__startup_trials=1,
           sweep__warmup_epochs=0, train__threads=1)  # fmt: skip
    code, output = run_stage(folder, "normalize", "imageset")
    assert code == 0, output
    return folder


@pytest.fixture(scope="module")
def done(project) -> Done:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.chdir(project)
        process = subprocess.Popen([sys.executable, "-c", CALL, json.dumps(SWEEP)], cwd=project)
        until = time.monotonic() + 600
        try:
            while not (notes := list(project.glob(".cache/sweep/*/0000/.cache/train/*/run_id"))):
                assert process.poll() is None and time.monotonic() < until
                time.sleep(0.05)
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
        killed_in = notes[0].read_text()
        swept, page = run_sweep(Project(project), SWEEP)
    return Done(project, swept, page, killed_in)


@pytest.fixture
def client(done, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return model_registry.connect_registry(Project(done.project))


def test_a_killed_sweep_goes_on_in_the_same_runs(done, client):
    swept = done.swept
    assert swept.num_complete + swept.num_pruned == 3 and swept.num_pruned >= 1
    parent = client.get_run(swept.run_id)
    assert parent.info.status == "FINISHED"
    experiments = [one.experiment_id for one in client.search_experiments()]
    runs = client.search_runs(experiments)
    assert "RUNNING" not in {one.info.status for one in runs}
    assert swept.best_run == done.killed_in  # what was begun before the kill was ended, in its own run
    nested = [one for one in runs if one.data.tags.get("mlflow.parentRunId") == swept.run_id]
    assert len(nested) == len(runs) - 1 >= 2
    assert parent.data.tags["convoy.best_run"] == swept.best_run
    assert json.loads(parent.data.params[f"space.{LR}"]) == SWEEP["space"][LR]


def test_what_promises_little_is_ended_and_says_so(done, client):
    study = open_study(done.swept.folder, SWEEP, 10)
    pruned = [one for one in study.trials if one.state.name == "PRUNED"]
    assert pruned
    for one in pruned:
        run = client.get_run(one.user_attrs["run"])
        assert run.info.status == "KILLED" and run.data.tags["convoy.pruned"].startswith("after epoch")
        assert one.user_attrs[VALUES_ATTR][LR] < 1e-6
        assert max(one.intermediate_values) < 9
        assert not (done.swept.folder / f"{one.user_attrs[FOLDER_ATTR]:04d}").exists()


def test_the_pictures_and_the_table_are_the_sweeps_artifacts(done, client):
    names = {Path(one.path).name for one in client.list_artifacts(done.swept.run_id, "sweep")}
    assert names == {"parallel_coordinates.png", "history.png", "sweep.md"}
    assert (done.swept.folder / "parallel_coordinates.png").read_bytes().startswith(b"\x89PNG")
    assert done.swept.best_run in done.page


def test_the_project_is_left_alone_but_for_its_parameters(done):
    assert not (done.project / "data/models").exists()
    text = (done.project / "params.yaml").read_text()
    assert yaml.safe_load(text)["train"]["model"]["optimizer"]["init_args"]["lr"] == 0.002
    assert done.swept.values == {LR: 0.002}
    assert "# any torch.optim class" in text and "weights: null " in text


@pytest.mark.long
def test_the_best_numbers_trained_again_give_the_best_model_again(done, client):
    code, output = run_stage(done.project, "fit")
    assert code == 0, output
    run = client.get_run(json.loads((done.project / "data/models/classifier/run.json").read_text())["run_id"])
    assert run.data.metrics["best_val_loss"] == done.swept.value
    best = client.get_run(done.swept.best_run).data
    assert {k: v for k, v in run.data.metrics.items() if k.startswith("best_")} == {
        k: v for k, v in best.metrics.items() if k.startswith("best_")
    }


def test_called_again_the_command_trains_nothing_and_says_what_was_best(done, client, prefect_server):
    from prefect.artifacts import Artifact

    said = run_convoy(done.project, "sweep", PREFECT_API_URL=prefect_server)
    assert said.returncode == 0, said.stdout
    assert f"(run {done.swept.best_run})" in said.stdout
    assert "params.yaml holds these values already" in said.stdout
    assert f"MLflow run {done.swept.run_id}" in said.stdout
    assert done.swept.best_run in str(Artifact.get("sweep").data)


def test_verify_says_what_can_be_verified_instead_of_a_sweep_or_of_a_training_of_one(done):
    parent, nested = done.swept.run_id, done.swept.best_run
    nested_is = f"is a training of the sweep {parent}, and no commit holds its values; `dvc repro` trains"
    for run_id, is_what in ((nested, nested_is), (parent, "is a sweep, which trains many times; `dvc repro`")):
        said = run_convoy(done.project, "verify", run_id)
        assert said.returncode == 2 and said.stdout.startswith(f"error: run {run_id} {is_what}"), said.stdout
        assert said.stdout.count("\n") == 1 and said.stdout.endswith("as a run that `convoy verify` accepts\n")


@pytest.mark.long
def test_a_sweep_stops_when_its_time_is_over_and_goes_on_later_with_hyperband(done, tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    project = tmp_path / "project"
    shutil.copytree(done.project, project, ignore=shutil.ignore_patterns(".cache", "mlartifacts", ".git"))
    path = project / "params.yaml"
    path.write_text(path.read_text().replace("max_epochs: 10", "max_epochs: 4"))
    rules = {**SWEEP, "pruner": "hyperband", "seed": 1, "space": {LR: [0.002, 1e-7, 2e-7, 3e-7]}}
    with pytest.raises(UserError, match="no training is complete, so there is no best one; give it more time"):
        run_sweep(Project(project), {**rules, "timeout_min": 0.0})
    swept, _ = run_sweep(Project(project), {**rules, "timeout_min": 1e-4})
    assert (swept.num_complete, swept.num_pruned, swept.num_failed) == (1, 0, 0)  # what was begun comes to its end
    swept, _ = run_sweep(Project(project), rules)
    assert swept.num_complete + swept.num_pruned == 3
    assert swept.values == {LR: 0.002}


def test_trainings_that_all_fail_stop_the_sweep_with_what_they_said(done, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    space = {"train.model.label_smoothing": [2.0, 3.0]}
    with pytest.raises(UserError, match=r"every training failed: .*label_smoothing"):
        run_sweep(Project(done.project), {**SWEEP, "space": space, "trials": 1})


def test_a_sweep_begins_anew_when_a_module_of_its_trainings_was_edited(tmp_path):
    for name in ("fixed", "chosen", "present", "unrelated"):
        (tmp_path / f"{name}.py").write_text("")
    key = "train.model.network"
    train = {"threads": None, "model": {"network": "present.Net", "optimizer": {"class_path": "fixed.Adam"}}}
    space = {key: ["chosen.Net", "LeNet5"]}
    dimensions = parse_space({"space": space}, train, "sweep")

    def digest_after(edited: str) -> str:
        if edited:
            (tmp_path / f"{edited}.py").write_text("x = 1")
        return digest_code(Project(tmp_path), train, dimensions, space)

    digests = [digest_after(name) for name in ("", "unrelated", "present", "fixed", "chosen")]
    assert digests[0] == digests[1] == digests[2]  # the sweep itself writes the present value
    assert len(set(digests)) == 3
