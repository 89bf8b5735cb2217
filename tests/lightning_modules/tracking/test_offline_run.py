"""A real MLflow server on this machine that comes and goes."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest

from flows.orchestration.prefect_server import find_free_port
from flows.project.project import Project
from flows.promotion import model_registry
from imageset.exceptions import UserError
from lightning_modules.tracking import offline_run
from lightning_modules.tracking.offline_queue import (
    TrackingServerUnavailable,
    check_all_sent,
    list_queues,
    sync_queues,
)
from lightning_modules.tracking.offline_run import OfflineRun
from tests.helpers.project import ROOT, run_convoy, set_params
from tests.helpers.servers import start_mlflow


class Server:
    """`mlflow server` on a SQLite file."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, find_free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen | None = None

    def start(self) -> None:
        self.process = self.process or start_mlflow(self.folder, self.port)

    def stop(self) -> None:
        if self.process is not None:
            os.killpg(self.process.pid, 15)
            self.process.wait()
            self.process = None


@pytest.fixture(scope="module")
def mlflow_server(tmp_path_factory, empty_mlflow_db) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server")
    shutil.copy(empty_mlflow_db, folder)
    server = Server(folder)
    yield server
    server.stop()


@pytest.fixture
def server(mlflow_server, monkeypatch) -> Server:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server.uri)
    monkeypatch.setattr(offline_run, "RETRY_S", 0.0)
    return mlflow_server


def begin(project: Path, run_id: str | None = None) -> OfflineRun:
    return OfflineRun.open(project, "flowers", run_id, "first", {"colour": "red"})


def points(server: Server, run_id: str, metric: str = "train_loss") -> list[tuple[int, float]]:
    history = mlflow.MlflowClient(server.uri).get_metric_history(run_id, metric)
    return [(point.step, point.value) for point in history]


def test_what_is_logged_while_the_server_is_away_arrives_once_and_in_order(tmp_path, server, capsys):
    server.stop()
    run = begin(tmp_path)
    name = run.run_id
    assert name.startswith("local-")
    run.log_params({"lr": 0.1})
    run.log_metrics({"train_loss": 2.0}, 0)
    (tmp_path / "page.html").write_text("hello")
    run.log_artifact(tmp_path / "page.html", "dataset")
    (tmp_path / "page.html").write_text("changed since")
    assert capsys.readouterr().out.count("does not answer; log entries wait in .cache/mlflow-outbox") == 1
    with pytest.raises(TrackingServerUnavailable):
        sync_queues(tmp_path)
    with pytest.raises(UserError, match=r"4 entries wait for MLflow; run `convoy sync` first"):
        check_all_sent(tmp_path, name)

    server.start()
    run.log_metrics({"train_loss": 1.0, "val_loss": float("nan")}, 1)
    assert "the server is back; 5 waiting entries were sent" in capsys.readouterr().out
    assert points(server, run.run_id) == [(0, 2.0), (1, 1.0)]
    check_all_sent(tmp_path, run.run_id)

    server.stop()
    run_id = run.run_id
    run.log_metrics({"train_loss": 0.5}, 2)
    run.in_use_lock.close()  # as a kill would
    again = begin(tmp_path, name)
    assert (again.run_id, again.last_step("train_loss")) == (run.run_id, 2)
    again.log_metrics({"train_loss": 0.25}, 3)
    again.close("FINISHED")
    assert "4 entries wait for MLflow; `convoy sync` sends them" in capsys.readouterr().out

    server.start()
    shutil.copytree(again.queue.folder, tmp_path / "unsent")
    assert sync_queues(tmp_path) == f"sync: run {run_id}: 4 entries sent"
    assert sync_queues(tmp_path) == "sync: nothing to send"
    assert list_queues(tmp_path) == []
    client = mlflow.MlflowClient(server.uri)
    found = client.get_run(run_id)
    assert (found.info.status, found.info.run_name, found.data.params) == ("FINISHED", "first", {"lr": "0.1"})
    assert found.data.tags["not_finite.val_loss"] == "nan at step 1"
    assert Path(client.download_artifacts(run_id, "dataset/page.html")).read_text() == "hello"
    assert model_registry.find_run(client, name).info.run_id == run_id

    shutil.copytree(tmp_path / "unsent", again.queue.folder)  # as if all answers of the server had been lost
    sync_queues(tmp_path)
    assert points(server, run_id) == [(0, 2.0), (1, 1.0), (2, 0.5), (3, 0.25)]


def test_what_waited_for_a_run_that_was_deleted_is_dropped_with_a_word(tmp_path, server):
    server.start()
    run = begin(tmp_path)
    run.raise_on_rejection = False
    run_id = run.run_id
    mlflow.MlflowClient(server.uri).delete_run(run_id)
    run.log_metrics({"train_loss": 1.0}, 0)  # a training goes on all the same
    run.in_use_lock.close()
    assert sync_queues(tmp_path) == f"sync: run {run_id} was deleted in MLflow; 1 entry is dropped"
    assert begin(tmp_path, run_id).run_id != run_id


def test_what_the_server_refuses_from_the_start_is_said_at_once(tmp_path, server):
    server.start()
    client = mlflow.MlflowClient(server.uri)
    client.delete_experiment(client.create_experiment("gone"))
    with pytest.raises(UserError, match="experiment 'gone' is deleted; restore it"):
        OfflineRun.open(tmp_path, "gone", None, "first", {})


@pytest.mark.long
def test_a_training_without_its_server_is_whole_there_after_sync(fresh, server):
    server.stop()
    set_params(fresh, train__trainer__max_epochs=2)
    shutil.copy(ROOT / "dvc.yaml", fresh)
    environment = {**os.environ, "MLFLOW_TRACKING_URI": server.uri}
    for name in ("fit", "test"):
        done = subprocess.run(
            [sys.executable, "-m", "lightning_modules", name], cwd=fresh, env=environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout
        assert f"MLflow at {server.uri} does not answer; log entries wait in" in done.stdout
        assert "entries wait for MLflow; `convoy sync` sends them" in done.stdout
    note = json.loads((fresh / "data/models/classifier/run.json").read_text())
    assert note["run_id"].startswith("local-") and note["model_uri"] is None

    away = run_convoy(fresh, "sync", MLFLOW_TRACKING_URI=server.uri)
    assert (away.returncode, away.stdout) == (2, f"error: MLflow at {server.uri} does not answer\n")
    server.start()
    unsent = fresh / "unsent"
    shutil.copytree(fresh / ".cache/mlflow-outbox", unsent)
    asked = run_convoy(fresh, "promote", note["run_id"], MLFLOW_TRACKING_URI=server.uri)
    assert asked.returncode == 2 and "`convoy sync` first" in asked.stdout
    done = run_convoy(fresh, "sync", MLFLOW_TRACKING_URI=server.uri)
    assert done.returncode == 0 and " entries sent" in done.stdout, done.stdout

    client = model_registry.connect_registry(Project(fresh))
    run = model_registry.require_finished_run(client, note["run_id"])
    assert points(server, run.info.run_id) != [] and len(points(server, run.info.run_id)) == 2
    assert "test_accuracy" in run.data.metrics
    model = mlflow.pyfunc.load_model(model_registry.find_model_uri(run))
    assert list(model.predict(model.input_example)["status"]) == ["ok", "ok"]
    (entry,) = run.inputs.dataset_inputs
    assert entry.dataset.name == "digits"

    shutil.copytree(unsent, fresh / ".cache/mlflow-outbox", dirs_exist_ok=True)
    assert run_convoy(fresh, "sync", MLFLOW_TRACKING_URI=server.uri).returncode == 0
    again = model_registry.require_finished_run(client, note["run_id"])
    assert model_registry.find_model_uri(again) == model_registry.find_model_uri(run)
    assert len(again.outputs.model_outputs) == len(points(server, run.info.run_id)) - 1 == 1
    assert len(again.inputs.dataset_inputs) == 1
