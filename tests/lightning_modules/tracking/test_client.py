import os
import re
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from imageset.exceptions import UserError
from lightning_modules.tracking.client import (
    connect_to_mlflow,
    describe_deleted_run,
    ensure_experiment,
    find_store_folder,
    get_tracking_uri,
)


def run_suggested(message: str) -> None:
    """Run the first command that a message gives, in a shell."""
    found = re.search(r"`([^`]+)`", message)
    assert found is not None, message
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(found[1], shell=True, check=True, capture_output=True, env={**os.environ, "PATH": path})


def test_runs_are_kept_in_the_project_unless_the_environment_names_a_server(project, monkeypatch):
    assert get_tracking_uri(project) == f"sqlite:///{project}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    assert get_tracking_uri(project) == "http://127.0.0.1:5000"


def test_an_experiment_is_made_once_and_keeps_its_artifacts_in_the_project(project):
    client = connect_to_mlflow(project)
    first = ensure_experiment(client, "flowers", project)
    assert ensure_experiment(client, "flowers", project) == first
    assert client.get_experiment(first).artifact_location == (project / "mlartifacts" / "flowers").as_uri()


def test_a_deleted_experiment_is_named_with_the_command_that_restores_it(project):
    client = connect_to_mlflow(project)
    number = ensure_experiment(client, "flowers", project)
    client.delete_experiment(number)
    with pytest.raises(UserError, match=f"restore -x {number}") as caught:
        ensure_experiment(client, "flowers", project)
    run_suggested(str(caught.value))
    assert ensure_experiment(client, "flowers", project) == number


def test_a_store_that_cannot_be_opened_is_one_line(project, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(UserError, match=r"MLflow at http://127\.0\.0\.1:9 does not answer") as caught:
        connect_to_mlflow(project)
    assert "\n" not in str(caught.value)


def test_a_database_that_fails_later_is_one_error_without_a_traceback_of_mlflow(project, caplog, capfd):
    client = connect_to_mlflow(project)
    run = client.create_run(ensure_experiment(client, "flowers", project))
    with closing(sqlite3.connect(project / "mlflow.db")) as database:
        database.execute("DROP TABLE tags")
    with pytest.raises(MlflowException, match="no such table"):
        client.set_tag(run.info.run_id, "a", "b")
    assert "Traceback" not in caplog.text + capfd.readouterr().err


def test_the_command_that_a_deleted_run_comes_with_restores_it(project):
    client = connect_to_mlflow(project)
    run = client.create_run(ensure_experiment(client, "flowers", project))
    client.delete_run(run.info.run_id)
    run_suggested(describe_deleted_run(run.info.run_id, client.tracking_uri))
    assert client.get_run(run.info.run_id).info.lifecycle_stage == "active"


@pytest.mark.parametrize("uri", ["file://{}/runs", "file:{}/runs", "{}/runs"])
def test_a_folder_as_store_is_refused_with_the_command_that_copies_it(project, monkeypatch, uri):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri.format(project))
    with monkeypatch.context() as patch:
        patch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
        MlflowClient(f"{project}//runs").create_experiment("flowers")
    with pytest.raises(UserError, match=f"is the folder {project}/runs, and MLflow 3 takes none") as caught:
        connect_to_mlflow(project)
    run_suggested(str(caught.value))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", str(caught.value).rpartition(" ")[2])
    assert connect_to_mlflow(project).get_experiment_by_name("flowers") is not None


def test_only_paths_are_folders_of_a_store():
    assert find_store_folder("file:///a%20b/runs") == Path("/a b/runs")
    assert find_store_folder("./runs") == Path.cwd() / "runs"
    for uri in ("sqlite:///a.db", "http://127.0.0.1:5000", "postgresql+psycopg2://h/b", "databricks", "uc:x"):
        assert find_store_folder(uri) is None
