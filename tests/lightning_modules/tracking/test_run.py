import math

import pytest

from imageset.exceptions import UserError
from lightning_modules.tracking.client import connect_to_mlflow, ensure_experiment
from lightning_modules.tracking.metric_logging import log_final_metrics
from lightning_modules.tracking.run import TrackedRun, flatten_params


@pytest.fixture
def run(project):
    client = connect_to_mlflow(project)
    return TrackedRun.open(client, ensure_experiment(client, "flowers", project), None, "first", {"colour": "red"})


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


def test_flatten_keeps_empty_mappings_as_leaves():
    assert dict(flatten_params({"a": {"b": 1, "c": {}}, "d": [1]})) == {"a.b": 1, "a.c": {}, "d": [1]}


def test_runs_have_their_own_names_whatever_the_seed(run):
    assert run.client.get_run(run.run_id).info.run_name == "first"


def test_a_run_that_was_deleted_meanwhile_is_one_line_with_the_way_out(run):
    run.client.delete_run(run.run_id)
    with pytest.raises(
        UserError, match=f"{run.run_id} was deleted; restore it with .* restore --run-id"
    ) as caught:
        run.log_metrics({"val_loss": 1.0}, 0)
    assert "\n" not in str(caught.value)


def points(run, metric):
    return [(point.step, point.value) for point in run.client.get_metric_history(run.run_id, metric)]


def test_a_step_that_a_curve_has_is_not_logged_twice_and_a_missing_one_is_added(run):
    for step in (0, 1, 3):
        run.log_metrics({"train_loss": 1.0 / (step + 1)}, step)
    again = TrackedRun.open(run.client, run.experiment_id, run.run_id, "second", {})
    for step in (1, 2, 3, 4):
        again.log_metrics({"train_loss": 1.0 / (step + 1), "val_loss": 0.5}, step)
    assert sorted(points(run, "train_loss")) == [(step, 1.0 / (step + 1)) for step in range(5)]
    assert points(run, "val_loss") == [(step, 0.5) for step in (1, 2, 3, 4)]


def test_metrics_of_a_test_have_a_second_point_only_for_another_value(run):
    for accuracy in (0.5, 0.5, 0.75, 0.75):
        log_final_metrics(run, {"test_accuracy": accuracy, "test_loss": 1.0})
    assert (points(run, "test_accuracy"), points(run, "test_loss")) == ([(0, 0.5), (1, 0.75)], [(0, 1.0)])
    assert run.client.get_run(run.run_id).data.metrics == {"test_accuracy": 0.75, "test_loss": 1.0}
