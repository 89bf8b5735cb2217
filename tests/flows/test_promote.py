import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from flows.project.project import Project
from flows.promotion import ledger, model_registry, registry_records
from imageset.exceptions import UserError
from imageset.store.reader import ImageStore
from tests.helpers.datasets import drop_digests
from tests.helpers.project import run_convoy


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


def log_run(
    project: Path, scale: float, fingerprint: str | None = None, classes: tuple[str, ...] | None = None
) -> str:
    """A finished run whose model is the trained one with all its weights scaled; 0 knows nothing."""
    import torch

    from lightning_modules.bundle import Bundle, save_bundle
    from lightning_modules.tracking.client import connect_to_mlflow, ensure_experiment
    from lightning_modules.tracking.model_logging import log_model
    from lightning_modules.tracking.run import TrackedRun

    client = connect_to_mlflow(project)
    bundle = Bundle.load(project / "data/models/classifier")
    with torch.no_grad():
        for weights in bundle.network.parameters():
            weights.mul_(scale)
    dataset = {**bundle.info.dataset, **({"fingerprint": fingerprint} if fingerprint else {})}
    info = replace(bundle.info, dataset=dataset, classes=classes or bundle.info.classes)
    folder = project / f"bundle-{scale}"
    folder.mkdir(exist_ok=True)
    save_bundle(folder, info, bundle.network)
    run = TrackedRun.open(client, ensure_experiment(client, dataset["name"], project), None, "made", {})
    log_model(run, folder, info, ImageStore.open(project / "data/normalized"))
    run.close("FINISHED")
    return run.run_id


def aliases(project: Path) -> dict[str, int]:
    model = model_registry.connect_registry(Project(project)).get_registered_model("digits-few")
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
    tags = model_registry.connect_registry(Project(copy)).get_model_version("digits-few", "2").tags
    assert tags["convoy.compared_with_version"] == "1"
    assert float(tags["convoy.accuracy"]) < float(tags["convoy.compared_accuracy"])
    (line,) = [entry for entry in ledger.read_ledger(Project(copy)) if entry.get("version") == 2]
    assert (line["serves"], line["champion"], line["run"]) == (False, 1, worse)
    assert line["numbers"]["gain_high"] < 0 and line["numbers"]["num_leaks"] == 0
    files = model_registry.connect_registry(Project(copy)).list_artifacts(worse, f"promotion/{line['number']:04d}")
    assert sorted(Path(file.path).name for file in files) == ["decision.md", "ledger.json"]

    again = promote(worse)
    assert (again.serves, again.is_new) == (False, False)
    assert aliases(copy) == {"champion": 1, "challenger": 2}


def test_a_better_newcomer_takes_over_and_the_champion_becomes_previous(copy, prefect_server):
    from flows.promote import promote

    client = model_registry.connect_registry(Project(copy))
    client.delete_registered_model("digits-few")
    (copy / "data" / "ledger.jsonl").unlink()  # it would be restored
    promote(log_run(copy, scale=0.0), override="to begin with")
    decision = promote(trained_run(copy))
    assert decision.serves
    assert aliases(copy) == {"champion": 2, "previous": 1}
    assert "| better | holds | accuracy" in prefect_page()


def test_a_first_model_that_is_no_better_than_one_answer_waits_as_a_challenger(copy, prefect_server):
    from flows.predict import find_model
    from flows.promote import promote

    start_again(copy)
    useless = log_run(copy, scale=0.0)
    decision = promote(useless)
    assert not decision.serves and aliases(copy) == {"challenger": 1}
    assert decision.reason.startswith("it is not shown to be better than always answering '")
    assert decision.reason.endswith(f"all the same: `convoy promote {useless[:8]} --override REASON`")
    assert "| baseline | fails |" in decision.gate_table
    (line,) = [entry for entry in ledger.read_ledger(Project(copy)) if entry["event"] == ledger.DECISION]
    assert line["classes"] == ["0", "1", "2"] and line["numbers"]["baseline_accuracy"] > 0.3
    with pytest.raises(UserError, match="no model 'digits-few' serves yet: version 1 does not, since it is not"):
        find_model.fn("digits-few", Project(copy))
    assert not promote(useless).is_new

    better = promote(trained_run(copy))
    assert better.serves and better.reason.startswith("the first model of digits-few: accuracy 0.")
    assert aliases(copy) == {"champion": 2, "challenger": 1}


def test_a_useless_first_model_serves_if_somebody_says_why(copy, prefect_server):
    from flows.promote import promote

    start_again(copy)
    decision = promote(log_run(copy, scale=0.0), override="a demo")
    assert decision.serves and decision.reason.startswith("a demo (by hand; the comparison: it is not shown")


def test_a_champion_that_knows_some_of_the_classes_is_compared_on_these(copy, prefect_server):
    from flows.promote import promote

    start_again(copy)
    promote(log_run(copy, scale=1.0, classes=("0", "1", "two")), override="as it was")
    decision = promote(trained_run(copy))
    assert decision.serves
    assert decision.reason.startswith(
        "compared on the 2 classes of version 1 that there are still (it does not know 2; two is no class any "
        "more): accuracy "
    )
    numbers = ledger.find_decision(ledger.read_ledger(Project(copy)), "digits-few", 2)["numbers"]
    assert numbers["shared_accuracy"] == numbers["compared_shared_accuracy"] > 0.5
    assert numbers["compared_calibration_error"] == numbers["calibration_error"]
    assert numbers["num_shared"] < numbers["num_test"] and "baseline_accuracy" in numbers


def test_a_champion_that_knows_none_of_the_classes_sets_no_standard(copy, prefect_server):
    from flows.promote import promote

    start_again(copy)
    promote(log_run(copy, scale=1.0, classes=("zero", "one", "two")), override="as it was")
    useless = promote(log_run(copy, scale=0.0))
    assert not useless.serves
    decision = promote(trained_run(copy))
    assert decision.serves
    assert decision.reason.startswith(
        "version 1 cannot be compared (it does not know 0, 1, 2; one, two, zero are no classes any more), so "
        "this one is judged like a first model; accuracy "
    )
    assert "calibration" not in decision.gate_table


def test_an_equally_good_newcomer_does_not_take_over(copy, prefect_server):
    from flows.promote import promote

    decision = promote(log_run(copy, scale=1.0))
    assert not decision.serves
    assert aliases(copy)["champion"] == 1
    # The pictures of the validation split, which no weights were fitted to, count for a veto.
    note = decision.reason.partition("which shows in 100 pictures: 3 classes (")[2].partition(")")[0]
    num_judged = sum(int(name.split()[-1]) for name in note.split(", "))
    store = ImageStore.open(copy / "data/normalized")
    assert num_judged == store.counts["test"] + store.counts["val"]


def test_the_champion_promoted_again_says_so_and_changes_nothing(copy, prefect_server):
    from flows.promote import promote

    decision = promote()
    assert (decision.serves, decision.is_new) == (True, False)
    assert aliases(copy) == {"champion": 1}


def test_a_promotion_killed_before_its_decision_is_finished_by_the_next(copy, prefect_server):
    from flows.promote import promote

    client = model_registry.connect_registry(Project(copy))
    client.delete_registered_model_alias("digits-few", "champion")
    cut_short(copy)
    (entry,) = ledger.find_unfinished(ledger.read_ledger(Project(copy)))
    registry_records.write_record(client, registry_records.read_records(client, "digits-few"), entry, done=False)
    assert promote().serves
    assert aliases(copy) == {"champion": 1}
    assert ledger.find_unfinished(ledger.read_ledger(Project(copy))) == []


def test_a_model_whose_files_are_gone_is_not_registered(copy, prefect_server):
    from flows.promote import promote

    run_id = log_run(copy, scale=0.5)
    client = model_registry.connect_registry(Project(copy))
    uri = model_registry.find_model_uri(client.get_run(run_id)).removeprefix("models:/")
    shutil.rmtree(client.get_logged_model(uri).artifact_location.removeprefix("file://"))
    with pytest.raises(UserError):
        promote(run_id)
    assert model_registry.find_version_by_run(client, "digits-few", run_id) is None


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
    from lightning_modules.tracking.tags import TRAINING_IMAGES_ARTIFACT

    start_again(copy)
    old = log_run(copy, scale=0.0, fingerprint="1" * 64)
    leaked = ImageStore.open(copy / "data/normalized").split("test").rows["image_id"][0].as_py()
    learnt = pa.table({
        "image_id": pa.array([bytes.fromhex(leaked)], pa.binary(32)),
        "group": pa.array([None], pa.string()), "phash": pa.array([1], pa.uint64()),
    })  # fmt: skip
    pq.write_table(learnt, copy / Path(TRAINING_IMAGES_ARTIFACT).name)
    model_registry.connect_registry(Project(copy)).log_artifact(
        old, str(copy / Path(TRAINING_IMAGES_ARTIFACT).name), Path(TRAINING_IMAGES_ARTIFACT).parent.name
    )
    version = model_registry.register_model(
        model_registry.connect_registry(Project(copy)), "digits-few", old, model_uri(copy, old)
    )
    model_registry.set_alias(
        model_registry.connect_registry(Project(copy)), "digits-few", "champion", version.number
    )

    decision = promote(trained_run(copy))
    assert not decision.serves
    assert decision.reason.startswith("the comparison is void: digits-few version 1 was trained on 1 of the test")
    assert "1 of them moved from train to test since" in decision.reason and "--override REASON" in decision.reason
    assert aliases(copy) == {"champion": 1, "challenger": 2}

    by_hand = promote(trained_run(copy), override="we looked at it")
    assert by_hand.serves and by_hand.reason.startswith("we looked at it (by hand; the comparison: ")
    assert aliases(copy) == {"champion": 2, "previous": 1}


def model_uri(project: Path, run_id: str) -> str:
    return model_registry.find_model_uri(model_registry.connect_registry(Project(project)).get_run(run_id))


def start_again(project: Path) -> None:
    model_registry.connect_registry(Project(project)).delete_registered_model("digits-few")
    (project / ledger.LEDGER).unlink()


def test_a_rehearsal_says_what_would_be_done_and_writes_nothing(copy):
    from flows.promote import dry_run_promotion

    before = (copy / ledger.LEDGER).read_bytes()
    said = str(dry_run_promotion(log_run(copy, scale=0.0)))
    assert "would not serve: accuracy" in said and "| speed | holds |" in said
    assert (copy / ledger.LEDGER).read_bytes() == before
    assert aliases(copy) == {"champion": 1}
    assert model_registry.find_version(model_registry.connect_registry(Project(copy)), "digits-few", 2) is None


def test_power_is_a_table_of_gains_that_scores_nothing(copy):
    before = (copy / "data/ledger.jsonl").read_bytes()
    done = run_convoy(copy, "promote", "--power")
    assert done.returncode == 0, done.stdout
    assert "test pictures   smallest gain in accuracy seen in 80% of cases" in done.stdout
    assert (copy / "data/ledger.jsonl").read_bytes() == before


def test_what_was_rolled_back_comes_back_only_by_hand(copy, prefect_server):
    from flows.promote import promote
    from flows.promotion.rollback import rollback
    from flows.reports.history import report_history

    start_again(copy)
    worse, better = log_run(copy, scale=0.0), trained_run(copy)
    promote(worse, override="to begin with")
    promote(better)
    done = rollback(Project(copy), "digits-few", "it names everything 0")
    assert (done.serves.number, done.instead_of) == (1, 2)
    assert aliases(copy) == {"champion": 1}
    with pytest.raises(UserError, match="nothing served before digits-few version 1"):
        rollback(Project(copy), "digits-few")

    assert not promote(better).serves
    assert aliases(copy) == {"champion": 1}
    assert promote(better, override="mended").serves
    assert aliases(copy) == {"champion": 2, "previous": 1}
    said = report_history(Project(copy)).splitlines()
    assert [line.split("digits-few ")[1].split(":")[0] for line in said] == [
        "version 1 serves", "version 2 serves instead of version 1", "version 2 rolled back to version 1",
        "version 2 serves instead of version 1",
    ]  # fmt: skip
    assert "it names everything 0" in said[2]


def test_a_rollback_to_files_that_are_gone_changes_nothing(copy):
    from flows.promotion.rollback import rollback

    client = model_registry.connect_registry(Project(copy))
    client.create_model_version("digits-few", "/nowhere", trained_run(copy))  # MLflow calls it READY
    client.set_registered_model_alias("digits-few", "previous", "2")
    with pytest.raises(UserError, match="nothing was changed"):
        rollback(Project(copy), "digits-few")
    assert aliases(copy) == {"champion": 1, "previous": 2}


def test_a_run_of_another_dataset_is_refused(copy, prefect_server):
    from flows.promote import promote

    path = copy / "data/normalized/dataset.json"
    drop_digests(path.parent)
    path.write_text(path.read_text().replace('"digits-few"', '"flowers"'))
    with pytest.raises(UserError, match="was trained on digits-few, data/normalized holds flowers"):
        promote()
