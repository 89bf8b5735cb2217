import shutil

import pytest

from lightning_modules.tracking.client import connect_to_mlflow
from lightning_modules.tuner import tune
from tests.helpers.project import set_params


@pytest.mark.parametrize("what", ["lr", "batch_size"])
def test_a_value_is_found_printed_and_logged_and_params_yaml_stays(
    digits_project, tmp_path, what, capsys, monkeypatch
):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    project = shutil.copytree(digits_project, tmp_path / "project")
    store = str(project / "data/normalized")
    set_params(project, train__data__store=store, train__trainer__accelerator="cpu")
    before = (project / "params.yaml").read_text()
    tune(project, what)
    said = capsys.readouterr().out
    key = {"lr": "train.model.optimizer.init_args.lr", "batch_size": "train.data.batch_size"}[what]
    assert said.startswith(f"find: {what} ") and f"set {key} in params.yaml" in said
    assert (project / "params.yaml").read_text() == before
    client = connect_to_mlflow(project)
    experiment = client.get_experiment_by_name("digits")
    (run,) = client.search_runs([experiment.experiment_id], "tags.`convoy.find` = '" + what + "'")
    found = run.data.metrics[f"found_{what}"]
    assert run.info.status == "FINISHED"
    assert 1e-5 < found < 10 if what == "lr" else 64 <= found <= 1118
