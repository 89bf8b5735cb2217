import json

import pytest

from imageset.exceptions import UserError
from lightning_modules.tracking.client import connect_to_mlflow, ensure_experiment
from lightning_modules.tracking.metric_logging import name_metrics, open_training_run, to_metric_name


def test_a_class_name_that_mlflow_would_refuse_is_spelled_for_it():
    assert to_metric_name("cat & dog/é") == "cat _ dog_é"


def test_classes_that_mlflow_would_spell_alike_stay_different_metrics():
    names = ["C_", "C#", "C+", "cat & dog"]
    expected = {"C#": "C_x23", "C+": "C_x2b", "C_": "C_", "cat & dog": "cat _ dog"}
    assert name_metrics(names) == expected == name_metrics(reversed(names))
    assert name_metrics(["C#", "cat"]) == {"C#": "C_", "cat": "cat"}
    codes = name_metrics(["C#", "C+", "C_x23"])
    assert codes["C_x23"] == "C_x23" and len(set(codes.values())) == 3


def test_a_deleted_training_run_is_named_and_one_that_is_there_is_opened(project):
    client = connect_to_mlflow(project)
    run_id = client.create_run(ensure_experiment(client, "flowers", project)).info.run_id
    (project / "run.json").write_text(json.dumps({"run_id": run_id}))
    assert open_training_run(project, project).run_id == run_id
    client.delete_run(run_id)
    with pytest.raises(UserError, match=f"MLflow's run {run_id} was deleted; restore it with "):
        open_training_run(project, project)
