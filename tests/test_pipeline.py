"""The real thing from end to end: the real commands, a real DVC repository, MLflow and Prefect."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.conftest import ROOT, convoy, make_project


@pytest.fixture
def copy(served, tmp_path) -> Path:
    """A copy of the served project, with its own DVC cache and MLflow database."""
    project = tmp_path / "project"
    shutil.copytree(served.folder, project, ignore=shutil.ignore_patterns("mlartifacts", ".cache"))
    return project


def test_a_folder_of_pictures_becomes_a_registered_champion(served):
    assert "ingest: digits-few: 150 pictures in 3 classes" in served.output
    for stage in ("normalize", "train", "evaluate"):
        assert f"Running stage '{stage}':" in served.output
    assert "digits-few version 1 serves: the first model of digits-few" in served.output
    assert "git add" not in served.output and "Traceback" not in served.output
    metrics = json.loads((served.folder / "metrics.json").read_text())
    assert metrics["num_test"] > 0


def test_the_source_is_only_read(served):
    assert sum(1 for path in served.pictures.rglob("*") if path.is_file()) == 150


def test_the_second_run_does_nothing_and_says_so(served, prefect_server):
    lock = (served.folder / "dvc.lock").read_text()
    done = convoy(served.folder, "run", PREFECT_API_URL=prefect_server)
    assert done.returncode == 0, done.stdout
    assert "nothing new" in done.stdout
    assert "stages up to date, skipped: normalize, train, evaluate" in done.stdout
    assert "digits-few version 1 already serves" in done.stdout
    assert (served.folder / "dvc.lock").read_text() == lock


def test_predictions_name_the_model_the_data_and_every_picture(served, prefect_server, tmp_path):
    inbox = tmp_path / "inbox" / "sub"
    shutil.copytree(served.pictures / "1", inbox)
    names = sorted(path.name for path in inbox.iterdir())
    (inbox / names[0]).write_bytes(b"")
    (inbox / names[1]).write_text("no picture at all")
    (inbox / names[2]).write_bytes((inbox / names[2]).read_bytes()[:60])
    out = tmp_path / "out.parquet"
    done = convoy(
        served.folder, "predict", str(tmp_path / "inbox"), "--out", str(out), PREFECT_API_URL=prefect_server
    )
    assert done.returncode == 0, done.stdout
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


def test_predicting_before_any_champion_exists_is_refused(tmp_path, served, prefect_server):
    project = tmp_path / "new"
    project.mkdir()
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copy(ROOT / name, project)
    arguments = ("predict", str(served.pictures), "--out", "out.parquet")
    done = convoy(project, *arguments, PREFECT_API_URL=prefect_server)
    assert done.returncode == 2
    assert done.stdout.startswith("error: data/normalized: no dataset here")
    done = convoy(project, *arguments, "--model", "cats", PREFECT_API_URL=prefect_server)
    assert done.returncode == 2
    assert done.stdout.startswith("error: no model 'cats' serves")
    assert not (project / "out.parquet").exists()


def test_a_wrong_key_in_params_ends_the_run_with_one_line_and_a_failed_flow(copy, prefect_server):
    text = (copy / "params.yaml").read_text()
    (copy / "params.yaml").write_text(text.replace("max_epochs:", "max_epoch:"))
    done = convoy(copy, "run", PREFECT_API_URL=prefect_server)
    assert done.returncode == 2
    assert done.stdout.splitlines()[-1].startswith("error: ")
    assert "max_epoch" in done.stdout and "Traceback" not in done.stdout
    assert last_run("pipeline").state_name == "Failed"
    assert (copy / "metrics.json").read_text()


def test_a_broken_dataset_is_named_with_the_way_out(copy, prefect_server):
    shard = copy / "data/normalized/images-00000.npy"
    shard.chmod(0o644)
    shard.write_bytes(shard.read_bytes()[:1000])
    (copy / "params.yaml").write_text((copy / "params.yaml").read_text().replace("min_gain: 0.0", "min_gain: 0.1"))
    done = subprocess.run(
        [sys.executable, "-m", "lightning_modules", "fit"], cwd=copy, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: ") and "dvc repro -f normalize" in done.stderr


def test_the_runs_log_holds_what_the_stages_printed(served):
    messages = [entry.message for entry in logs_of(last_finished("train"))]
    assert any(message.startswith("evaluate: test accuracy") for message in messages)


def test_without_any_server_a_temporary_one_is_started_and_leaves_nothing(served, tmp_path):
    project = tmp_path / "alone"
    project.mkdir()
    make_project(project)
    done = convoy(project, "ingest", str(served.pictures))
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


def last_finished(name: str):
    """The first run: the one that trained."""
    return runs(name)[-1]


def logs_of(run) -> list:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId

    with get_client(sync_client=True) as client:
        return client.read_logs(LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run.id])), limit=200)
