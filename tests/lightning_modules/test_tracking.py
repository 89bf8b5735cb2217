import math

import pytest

from imageset.errors import UserError
from lightning_modules.tracking import TrackedRun, connect, experiment_id, flatten, tracking_uri


@pytest.fixture
def run(project):
    client = connect(project)
    return TrackedRun.open(client, experiment_id(client, "flowers", project), None, "first", {"colour": "red"})


def test_runs_are_kept_in_the_project_unless_the_environment_names_a_server(project, monkeypatch):
    assert tracking_uri(project) == f"sqlite:///{project}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    assert tracking_uri(project) == "http://127.0.0.1:5000"


def test_an_experiment_is_made_once_and_keeps_its_artifacts_in_the_project(project):
    client = connect(project)
    first = experiment_id(client, "flowers", project)
    assert experiment_id(client, "flowers", project) == first
    assert client.get_experiment(first).artifact_location == (project / "mlartifacts" / "flowers").as_uri()


def test_a_deleted_experiment_is_named_with_the_command_that_restores_it(project):
    client = connect(project)
    number = experiment_id(client, "flowers", project)
    client.delete_experiment(number)
    with pytest.raises(UserError, match=f"restore -x {number}"):
        experiment_id(client, "flowers", project)


def test_parameters_arrive_with_dotted_names(run):
    run.log_params({"model": {"network": {"class_path": "ConvNet"}, "flip": False}, "seed": 0})
    assert run.client.get_run(run.run_id).data.params == {
        "model.network.class_path": "ConvNet", "model.flip": "False", "seed": "0",
    }  # fmt: skip


def test_more_parameters_than_one_write_takes_all_arrive(run):
    run.log_params({f"p{i}": i for i in range(250)})
    assert len(run.client.get_run(run.run_id).data.params) == 250


def test_metrics_form_a_curve_by_epoch(run):
    for epoch, loss in enumerate([2.0, 1.0, 0.5]):
        run.log_metrics({"train_loss": loss}, epoch)
    history = run.client.get_metric_history(run.run_id, "train_loss")
    assert [(m.step, m.value) for m in history] == [(0, 2.0), (1, 1.0), (2, 0.5)]
    assert (run.last_step("train_loss"), run.last_step("val_loss")) == (2, -1)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_metric_that_is_not_finite_becomes_a_tag_and_never_a_number(run, value):
    run.log_metrics({"val_loss": value, "val_accuracy": 0.5}, 3)
    data = run.client.get_run(run.run_id).data
    assert data.metrics == {"val_accuracy": 0.5}
    assert data.tags["not_finite.val_loss"] == f"{value} at step 3"


def test_a_run_is_found_by_the_digest_of_its_dataset(run, project):
    import mlflow

    run.log_dataset("flowers", "1f3e.dir", project / "data", context="training")
    (found,) = mlflow.search_runs(
        [run.experiment_id], filter_string="dataset.digest = '1f3e.dir'", output_format="list"
    )
    assert found.info.run_id == run.run_id


def test_a_run_is_gone_on_with_while_mlflow_has_it(run):
    run.close("KILLED")
    again = TrackedRun.open(run.client, run.experiment_id, run.run_id, "second", {})
    assert again.run_id == run.run_id
    assert run.client.get_run(run.run_id).info.status == "RUNNING"
    run.client.delete_run(run.run_id)
    assert TrackedRun.open(run.client, run.experiment_id, run.run_id, "second", {}).run_id != run.run_id


def test_a_store_that_cannot_be_opened_is_one_line(project, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(UserError, match=r"MLflow at http://127\.0\.0\.1:9 does not answer") as caught:
        connect(project)
    assert "\n" not in str(caught.value)


def test_flatten_keeps_empty_mappings_as_leaves():
    assert dict(flatten({"a": {"b": 1, "c": {}}, "d": [1]})) == {"a.b": 1, "a.c": {}, "d": [1]}


def test_runs_have_their_own_names_whatever_the_seed(run):
    assert run.client.get_run(run.run_id).info.run_name == "first"
