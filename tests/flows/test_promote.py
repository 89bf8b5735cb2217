import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from flows import registry
from imageset.errors import UserError


@pytest.fixture
def copy(served, tmp_path, monkeypatch) -> Path:
    """A copy of the served project, to promote in."""
    project = tmp_path / "project"
    shutil.copytree(served.folder, project, ignore=shutil.ignore_patterns(".git", ".cache", "mlartifacts"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(project)
    return project


def trained_run(project: Path) -> str:
    return str(json.loads((project / "data/models/classifier/run.json").read_text())["run_id"])


def log_run(project: Path, scale: float, fingerprint: str | None = None) -> str:
    """A finished run whose model is the trained one with all its weights scaled; 0 knows nothing."""
    import torch

    from imageset.store import ImageStore
    from lightning_modules.bundle import Bundle, save_bundle
    from lightning_modules.registered import log_model
    from lightning_modules.tracking import TrackedRun, connect, experiment_id

    client = connect(project)
    bundle = Bundle.load(project / "data/models/classifier")
    with torch.no_grad():
        for weights in bundle.network.parameters():
            weights.mul_(scale)
    dataset = {**bundle.info.dataset, **({"fingerprint": fingerprint} if fingerprint else {})}
    folder = project / f"bundle-{scale}"
    folder.mkdir(exist_ok=True)
    save_bundle(folder, replace(bundle.info, dataset=dataset), bundle.network)
    run = TrackedRun.open(client, experiment_id(client, dataset["name"], project), None, "made", {})
    log_model(run, folder, replace(bundle.info, dataset=dataset), ImageStore.open(project / "data/normalized"))
    run.close("FINISHED")
    return run.run_id


def aliases(project: Path) -> dict[str, int]:
    model = registry.connect(project).get_registered_model("digits-few")
    return {alias: int(number) for alias, number in model.aliases.items()}


def test_a_worse_newcomer_stays_a_challenger_and_is_not_judged_twice(copy, prefect_server):
    from flows.promote import promote

    worse = log_run(copy, scale=0.0)
    decision = promote(worse)
    assert not decision.serves
    assert "not more than 0 better" in decision.reason
    assert aliases(copy) == {"champion": 1, "challenger": 2}
    tags = registry.connect(copy).get_model_version("digits-few", "2").tags
    assert tags["convoy.compared_with_version"] == "1"
    assert float(tags["convoy.test_accuracy"]) < float(tags["convoy.compared_accuracy"])

    again = promote(worse)
    assert (again.serves, again.new) == (False, False)
    assert aliases(copy) == {"champion": 1, "challenger": 2}


def test_a_better_newcomer_takes_over_and_the_champion_becomes_previous(copy, prefect_server):
    from flows.promote import promote

    client = registry.connect(copy)
    client.delete_registered_model("digits-few")
    promote(log_run(copy, scale=0.0))
    decision = promote(trained_run(copy))
    assert decision.serves
    assert aliases(copy) == {"champion": 2, "previous": 1}


def test_an_equally_good_newcomer_does_not_take_over(copy, prefect_server):
    from flows.promote import promote

    assert not promote(log_run(copy, scale=1.0)).serves
    assert aliases(copy)["champion"] == 1


def test_the_champion_promoted_again_says_so_and_changes_nothing(copy, prefect_server):
    from flows.promote import promote

    decision = promote()
    assert (decision.serves, decision.new) == (True, False)
    assert aliases(copy) == {"champion": 1}


def test_a_promotion_killed_before_its_decision_is_finished_by_the_next(copy, prefect_server):
    from flows.promote import promote

    client = registry.connect(copy)
    client.delete_model_version_tag("digits-few", "1", registry.DECISION)
    client.delete_registered_model_alias("digits-few", "champion")
    assert promote().serves
    assert aliases(copy)["champion"] == 1


def test_a_model_whose_files_are_gone_is_not_registered(copy, prefect_server):
    from flows.promote import promote

    run_id = log_run(copy, scale=0.5)
    client = registry.connect(copy)
    uri = registry.model_of_run(client.get_run(run_id)).removeprefix("models:/")
    shutil.rmtree(client.get_logged_model(uri).artifact_location.removeprefix("file://"))
    with pytest.raises(UserError):
        promote(run_id)
    assert registry.version_of_run(client, "digits-few", run_id) is None


def test_a_run_on_other_data_is_not_compared(copy, prefect_server):
    from flows.promote import promote

    with pytest.raises(UserError, match="trained on other data"):
        promote(log_run(copy, scale=1.0, fingerprint="0" * 64))
    assert aliases(copy)["champion"] == 1
