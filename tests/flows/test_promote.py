import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from flows import ledger, registry
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


def cut_short(project: Path) -> None:
    """Take the last line of the ledger away: the move before it was never called done."""
    path = project / ledger.LEDGER
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))


def prefect_page() -> str:
    """The last decision as Prefect keeps it."""
    from prefect.artifacts import Artifact

    return str(Artifact.get("promotion").data)


def test_a_worse_newcomer_stays_a_challenger_and_is_not_judged_twice(copy, prefect_server):
    from flows.promote import promote

    worse = log_run(copy, scale=0.0)
    decision = promote(worse)
    assert not decision.serves
    assert "not above 0 (version 1, the same" in decision.reason
    assert aliases(copy) == {"champion": 1, "challenger": 2}
    tags = registry.connect(copy).get_model_version("digits-few", "2").tags
    assert tags["convoy.compared_with_version"] == "1"
    assert float(tags["convoy.accuracy"]) < float(tags["convoy.compared_accuracy"])
    (line,) = [entry for entry in ledger.read(copy) if entry.get("version") == 2]
    assert (line["serves"], line["champion"], line["run"]) == (False, 1, worse)
    assert line["numbers"]["gain_high"] < 0 and line["numbers"]["num_leaks"] == 0
    files = registry.connect(copy).list_artifacts(worse, f"promotion/{line['number']:04d}")
    assert sorted(Path(file.path).name for file in files) == ["decision.md", "ledger.json"]

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
    assert "| better | holds | accuracy" in prefect_page()


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
    client.delete_registered_model_alias("digits-few", "champion")
    cut_short(copy)
    assert promote().serves
    assert aliases(copy) == {"champion": 1}
    assert ledger.unfinished(ledger.read(copy)) == []


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


def test_what_was_learnt_from_makes_the_comparison_void(copy, prefect_server):
    """The champion of another day had a test picture of today among those it learnt from."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from flows.promote import promote
    from imageset.store import ImageStore
    from lightning_modules.registered import SEEN

    start_again(copy)
    old = log_run(copy, scale=0.0, fingerprint="1" * 64)
    leaked = ImageStore.open(copy / "data/normalized").split("test").rows["image_id"][0].as_py()
    learnt = pa.table({
        "image_id": pa.array([bytes.fromhex(leaked)], pa.binary(32)),
        "group": pa.array([None], pa.string()), "phash": pa.array([1], pa.uint64()),
    })  # fmt: skip
    pq.write_table(learnt, copy / Path(SEEN).name)
    registry.connect(copy).log_artifact(old, str(copy / Path(SEEN).name), Path(SEEN).parent.name)
    version = registry.register(registry.connect(copy), "digits-few", old, model_uri(copy, old))
    registry.set_alias(registry.connect(copy), "digits-few", "champion", version.number)

    decision = promote(trained_run(copy))
    assert not decision.serves
    assert decision.reason.startswith("the comparison is void: digits-few version 1 was trained on 1 of the test")
    assert aliases(copy) == {"champion": 1, "challenger": 2}

    by_hand = promote(trained_run(copy), override="we looked at it")
    assert by_hand.serves and by_hand.reason.startswith("we looked at it (by hand; the comparison: ")
    assert aliases(copy) == {"champion": 2, "previous": 1}


def model_uri(project: Path, run_id: str) -> str:
    return registry.model_of_run(registry.connect(project).get_run(run_id))


def start_again(project: Path) -> None:
    registry.connect(project).delete_registered_model("digits-few")
    (project / ledger.LEDGER).unlink()


def test_a_rehearsal_says_what_would_be_done_and_writes_nothing(copy):
    from flows.promote import rehearse

    before = (copy / ledger.LEDGER).read_bytes()
    said = str(rehearse(log_run(copy, scale=0.0)))
    assert "would not serve: accuracy" in said and "| speed | holds |" in said
    assert (copy / ledger.LEDGER).read_bytes() == before
    assert aliases(copy) == {"champion": 1}
    assert registry.version(registry.connect(copy), "digits-few", 2) is None


def test_what_was_rolled_back_comes_back_only_by_hand(copy, prefect_server):
    from flows.history import history
    from flows.promote import promote
    from flows.rollback import rollback

    start_again(copy)
    worse, better = log_run(copy, scale=0.0), trained_run(copy)
    promote(worse)
    promote(better)
    done = rollback(copy, "digits-few", "it names everything 0")
    assert (done.serves.number, done.instead_of) == (1, 2)
    assert aliases(copy) == {"champion": 1}
    with pytest.raises(UserError, match="nothing served before digits-few version 1"):
        rollback(copy, "digits-few")

    assert not promote(better).serves
    assert aliases(copy) == {"champion": 1}
    assert promote(better, override="mended").serves
    assert aliases(copy) == {"champion": 2, "previous": 1}
    said = history(copy).splitlines()
    assert [line.split("digits-few ")[1].split(":")[0] for line in said] == [
        "version 1 serves", "version 2 serves instead of version 1", "version 2 rolled back to version 1",
        "version 2 serves instead of version 1",
    ]  # fmt: skip
    assert "it names everything 0" in said[2]


def test_a_rollback_to_files_that_are_gone_changes_nothing(copy):
    from flows.rollback import rollback

    client = registry.connect(copy)
    client.create_model_version("digits-few", "/nowhere", trained_run(copy))  # MLflow calls it READY
    client.set_registered_model_alias("digits-few", "previous", "2")
    with pytest.raises(UserError, match="nothing was changed"):
        rollback(copy, "digits-few")
    assert aliases(copy) == {"champion": 1, "previous": 2}


def test_a_run_of_another_dataset_is_refused(copy, prefect_server):
    from flows.promote import promote

    path = copy / "data/normalized/dataset.json"
    path.write_text(path.read_text().replace('"digits-few"', '"flowers"'))
    with pytest.raises(UserError, match="was trained on digits-few, data/normalized holds flowers"):
        promote()
