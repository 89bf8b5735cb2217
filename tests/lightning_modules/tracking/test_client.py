import pytest

from imageset.exceptions import UserError
from lightning_modules.tracking.client import connect_to_mlflow, ensure_experiment, get_tracking_uri


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
    with pytest.raises(UserError, match=f"restore -x {number}"):
        ensure_experiment(client, "flowers", project)


def test_a_store_that_cannot_be_opened_is_one_line(project, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(UserError, match=r"MLflow at http://127\.0\.0\.1:9 does not answer") as caught:
        connect_to_mlflow(project)
    assert "\n" not in str(caught.value)
