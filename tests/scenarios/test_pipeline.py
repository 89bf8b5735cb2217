"""The real thing from end to end: the real commands, a real DVC repository, MLflow and Prefect."""

import hashlib
import json
import logging
import os
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from flows.cli.main import main
from tests.helpers.project import ROOT, make_project, run_convoy


@pytest.fixture
def command(prefect_server, monkeypatch, capsys):
    """Calls `run_convoy` in this process, against the tests' server; returns (exit status, stdout and stderr)."""
    environment, flows_logger = dict(os.environ), logging.getLogger("flows")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)

    def call(folder: Path, *arguments: str) -> tuple[int, str]:
        monkeypatch.chdir(folder)
        silence_prefect()
        status = main(list(arguments))
        captured = capsys.readouterr()
        return status, captured.err + captured.out

    yield call
    os.environ.clear()
    os.environ.update(environment)
    flows_logger.propagate = True


def silence_prefect() -> None:
    """As `convoy` does before Prefect is imported; an earlier test may have imported it otherwise."""
    for logger in logging.root.manager.loggerDict.values():
        for handler in getattr(logger, "handlers", ()):
            if hasattr(handler, "console"):
                handler.setLevel(logging.CRITICAL)


@pytest.fixture
def copy(served, tmp_path) -> Path:
    """A copy of the served project, with its own DVC cache and MLflow database."""
    project = tmp_path / "project"
    shutil.copytree(served.folder, project, ignore=shutil.ignore_patterns("mlartifacts", ".cache"))
    return project


def test_a_folder_of_pictures_becomes_a_registered_champion(served):
    assert "ingest: digits-few: 150 pictures in 3 classes" in served.output
    for stage in ("normalize", "train", "evaluate", "explain"):
        assert f"Running stage '{stage}':" in served.output
    assert "digits-few version 1 serves: the first model of digits-few" in served.output
    assert "git add" not in served.output and "Traceback" not in served.output
    metrics = json.loads((served.folder / "metrics.json").read_text())
    assert metrics["num_test"] > 0


def test_the_source_is_only_read(served):
    assert sum(1 for path in served.pictures.rglob("*") if path.is_file()) == 150


def test_the_second_run_does_nothing_and_says_so(served, command):
    lock = (served.folder / "dvc.lock").read_text()
    status, said = command(served.folder, "run")
    assert status == 0, said
    assert "nothing new" in said
    assert "stages up to date, skipped: normalize, train, evaluate, explain" in said
    assert "digits-few version 1 already serves" in said
    assert (served.folder / "dvc.lock").read_text() == lock


def test_predictions_name_the_model_the_data_and_every_picture(served, command, tmp_path):
    inbox = tmp_path / "inbox" / "sub"
    shutil.copytree(served.pictures / "1", inbox)
    names = sorted(path.name for path in inbox.iterdir())
    (inbox / names[0]).write_bytes(b"")
    (inbox / names[1]).write_text("no picture at all")
    (inbox / names[2]).write_bytes((inbox / names[2]).read_bytes()[:60])
    out = tmp_path / "out.parquet"
    status, said = command(served.folder, "predict", str(tmp_path / "inbox"), "--out", str(out))
    assert status == 0, said
    rows = pq.read_table(out).to_pylist()
    assert [row["uri"] for row in rows] == [f"sub/{name}" for name in names]
    assert [row["status"] for row in rows] == ["error"] * 3 + ["ok"] * (len(names) - 3)
    assert [row["error"].split(":")[0] for row in rows[:3]] == ["empty", "not_an_image", "truncated"]
    manifest = json.loads((served.folder / "data/normalized/dataset.json").read_text())
    for row in rows[3:]:
        assert row["model_name"] == "digits-few" and row["model_version"] == 1
        assert row["dataset_fingerprint"] == manifest["fingerprint"]
        assert [row["label"], row["probability"]] == list(row["top_k"][0].values())
        assert sum(one["probability"] for one in row["top_k"]) == pytest.approx(1, abs=1e-5)
    assert sum(row["label"] == "1" for row in rows[3:]) > len(rows) / 2


def test_drift_after_a_prediction_asks_for_labels_and_trains_on_them_once(served, command, tmp_path):
    project = tmp_path / "project"
    shutil.copytree(served.folder, project, ignore=shutil.ignore_patterns("monitor"))  # what others predicted
    text = (project / "params.yaml").read_text()
    (project / "params.yaml").write_text(text.replace("enabled: false ", "enabled: true "))
    before, output = len(runs("pipeline")), {}
    for day, first in (("monday", 0), ("tuesday", 60), ("wednesday", 120)):
        if day == "wednesday":
            assert len(runs("pipeline")) == before and "retrain" not in (project / "data/ledger.jsonl").read_text()
            status, said = command(project, "status")
            assert (
                "retrain: no, nothing new to train on" in said
                and "label 50 of these first: `convoy predict" in said
            )
            status, said = command(project, "ingest", str(label_dark_digits(tmp_path, "tuesday")), "--by", "Anna")
            assert status == 0, said
        inbox = dark_digits(tmp_path / day, first, 60)
        status, output[day] = command(project, "predict", str(inbox), "--out", str(tmp_path / f"{day}.parquet"))
        assert status == 0, output[day]
        assert (
            f"monitor: 60 pictures differ from those that {served.pictures.name} version 1 was trained on"
            in output[day]
        )
    assert "retrain: no (nothing new to train on; label 50 of these first: " in output["tuesday"]
    assert "monitor: training again: 3 drifted batches in a row; to train on: 8 new labels" in output["wednesday"]
    assert len(runs("pipeline")) == before + 1
    lines = [json.loads(line) for line in (project / "data/ledger.jsonl").read_text().splitlines()]
    outcome = next(line for line in reversed(lines) if line["event"] == "retrained")
    assert outcome["trained"] and outcome["reason"].startswith("retrained on 8 new labels (")


def label_dark_digits(folder: Path, day: str) -> Path:
    """A table with the labels of eight pictures, of two classes that the model knows."""
    from imageset.sources.benchmark_sets.digits import load_digit_images

    rows = ["path,label,image_id"]
    for path in sorted((folder / day).iterdir()):
        label = str(load_digit_images()[1][int(path.stem)])
        if label in "01" and len(rows) < 9:
            rows.append(f"{day}/{path.name},{label},{hashlib.sha256(path.read_bytes()).hexdigest()}")
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")
    return folder / "labels.csv"


def dark_digits(folder: Path, first: int, num: int) -> Path:
    """Digits dark on white: what no training picture was."""
    from imageset.html.png import encode_png
    from imageset.sources.benchmark_sets.digits import load_digit_images

    folder.mkdir()
    for number in range(first, first + num):
        (folder / f"{number}.png").write_bytes(encode_png(255 - load_digit_images()[0][number]))
    return folder


def test_predicting_before_any_champion_exists_is_refused(tmp_path, served, command):
    project = tmp_path / "new"
    project.mkdir()
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copy(ROOT / name, project)
    arguments = ("predict", str(served.pictures), "--out", "out.parquet")
    status, said = command(project, *arguments)
    assert status == 2 and said.startswith("error: no model 'digits' serves")
    shutil.copy(served.folder / "mlflow.db", project)
    status, said = command(project, *arguments, "--model", "cats")
    assert status == 2
    assert "error: no model 'cats' serves" in said and "--model: digits-few" in said
    assert not (project / "out.parquet").exists()


def test_a_wrong_key_in_params_ends_the_run_with_one_line_and_a_failed_flow(copy, command):
    text = (copy / "params.yaml").read_text()
    (copy / "params.yaml").write_text(text.replace("max_epochs:", "max_epoch:"))
    status, said = command(copy, "run")
    assert status == 2
    assert said.splitlines()[-1].startswith("error: ") and "max_epoch" in said.splitlines()[-1]
    assert "Traceback" not in said
    assert last_run("pipeline").state_name == "Failed"


def test_a_source_whose_pictures_are_all_refused_ends_the_run_with_one_line_and_no_dataset(command, tmp_path):
    project, source = tmp_path / "project", tmp_path / "refused"
    project.mkdir()
    for number in range(40):
        path = source / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"no picture {number}" * (number > 0))
    status, said = command(make_project(project), "run", str(source))
    assert status == 2 and "Traceback" not in said
    assert said.splitlines()[-1].startswith(
        "error: data/raw: 40 of 40 pictures are refused (39 not_an_image, 1 empty)"
    )
    assert not (project / "data/normalized").exists()


def test_the_runs_log_holds_what_the_stages_printed(served):
    messages = [entry.message for entry in logs_of(run_over("pipeline", served.pictures))]
    assert any(message.startswith("evaluate: test accuracy") for message in messages)


def test_without_any_server_a_temporary_one_is_started_and_leaves_nothing(served, tmp_path):
    project = tmp_path / "alone"
    project.mkdir()
    make_project(project)
    done = run_convoy(project, "ingest", str(served.pictures))
    assert done.returncode == 0, done.stdout
    lines = done.stdout.splitlines()
    assert lines[0].startswith("starting Prefect's temporary server")
    assert all(line.startswith("ingest: ") for line in lines[1:]), done.stdout


def runs(name: str) -> list:
    """The flow runs of a flow, the latest first."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowFilter, FlowFilterName
    from prefect.client.schemas.sorting import FlowRunSort

    with get_client(sync_client=True) as client:
        return client.read_flow_runs(
            flow_filter=FlowFilter(name=FlowFilterName(any_=[name])), sort=FlowRunSort.START_TIME_DESC
        )


def last_run(name: str):
    return runs(name)[0]


def run_over(name: str, source: Path):
    """The first run over a source: the one that trained."""
    return [run for run in runs(name) if run.parameters.get("source") == str(source)][-1]


def logs_of(run) -> list:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId

    with get_client(sync_client=True) as client:
        return client.read_logs(LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run.id])), limit=200)
