"""Real pictures arrive at a real model: as before, and not as before."""

import hashlib
import json
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from flows.monitoring import batch_log
from flows.monitoring.retrain_policy import (
    CLEAN,
    DRIFTED,
    TOO_SMALL,
    RetrainHistory,
    RetrainPolicy,
    decide_retrain,
)
from flows.monitoring.training_news import TrainingNews
from flows.project.project import Project
from flows.promotion import ledger, model_registry
from flows.reports.status import report_status
from imageset.exceptions import UserError
from lightning_modules.bundle import Bundle
from lightning_modules.drift.detector import DriftParams, detect_drift
from lightning_modules.features.reference_sample import ImageSample, observe_images
from tests.helpers.models import MonitoredProject, blur, change_camera, make_monitored_project, serve_trained_model
from tests.helpers.project import copy_params, hold_project, set_params

BATCH = 100  # pictures
SHIFTS = {"blur": blur, "camera": change_camera}


@pytest.fixture(scope="module")
def watched(tmp_path_factory, empty_mlflow_db) -> MonitoredProject:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        return make_monitored_project(tmp_path_factory.mktemp("watched"), empty_mlflow_db)


@pytest.fixture
def project(watched, tmp_path, monkeypatch) -> Path:
    """A copy of the project, to work in."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    folder = tmp_path / "project"
    shutil.copytree(watched.project, folder, ignore=shutil.ignore_patterns("raw", ".cache"))
    monkeypatch.chdir(folder)
    return folder


def write(folder: Path, files: list[bytes]) -> str:
    """An inbox."""
    folder.mkdir(parents=True)
    for number, data in enumerate(files):
        (folder / f"{folder.name}-{number:03d}.png").write_bytes(data)
    return str(folder)


# ---- the numbers -----------------------------------------------------------------------------------------------


class Seen:
    """The features of images, computed once."""

    def __init__(self, watched: MonitoredProject) -> None:
        self.bundle = Bundle.load(watched.project / "data/models/classifier")
        self.reference = ImageSample.from_bytes(self.bundle.reference)
        params = yaml.safe_load((watched.project / "params.yaml").read_text())["monitor"]
        self.rules = DriftParams(params["alpha"], params["permutations"], params["seed"])
        self.policy = RetrainPolicy(**{**params["retrain"], "enabled": True})

    def columns(self, files: list[bytes]) -> dict[str, np.ndarray]:
        from imageset.decoding.decoder import decode

        images = np.stack([decode(data, self.bundle.spec) for data in files])
        return observe_images(self.bundle, np.array_split(images, max(1, len(images) // 64)))

    def state(self, columns: dict[str, np.ndarray], chosen: np.ndarray) -> str:
        rows = {name: values[chosen] for name, values in columns.items()}
        sides = np.full(len(chosen), self.reference.short_side_px[0])
        batch = ImageSample(rejected=np.array([0, len(chosen)]), short_side_px=sides, **rows)
        found = detect_drift(
            self.reference, batch, self.rules, self.bundle.info.classes, self.bundle.info.abstain_below
        )
        return DRIFTED if found.drifted else CLEAN


@pytest.fixture(scope="module")
def seen(watched) -> Seen:
    return Seen(watched)


def follow(policy: RetrainPolicy, states: list[str]) -> list[int]:
    """One batch an hour: the numbers of those after which a retrain begins."""
    begun: list[datetime] = []
    start, found = datetime(2026, 3, 1, tzinfo=UTC), []
    for hour in range(len(states)):
        now = start + timedelta(hours=hour)
        batches = [{"state": state} for state in states[: hour + 1]]
        if decide_retrain(policy, batches, RetrainHistory(begun), now).retrain:
            begun.append(now)
            found.append(hour)
    return found


def test_fifty_clean_batches_trigger_nothing(watched, seen):
    columns = seen.columns(watched.known)
    draws = np.random.default_rng(0)
    order = np.arange(len(watched.known))
    if len(order) < 50 * BATCH:  # the digits: batches share pictures
        order = np.concatenate([draws.permutation(order)[:BATCH] for _ in range(50)])
    states = [seen.state(columns, order[i * BATCH : (i + 1) * BATCH]) for i in range(50)]
    assert states == [CLEAN] * 50
    assert follow(seen.policy, states) == []


@pytest.mark.parametrize("shift", ["blur", "camera", "new class"])
def test_a_shift_is_caught_within_two_batches_and_trains_once(watched, seen, shift):
    clean, num = watched.known[: 3 * BATCH], 6 * BATCH
    if shift == "new class":
        files = [watched.unknown[i % len(watched.unknown)] for i in range(num)]
    else:
        files = [SHIFTS[shift](watched.known[i % len(watched.known)]) for i in range(3 * BATCH, 3 * BATCH + num)]
    columns = seen.columns(clean + files)
    states = [seen.state(columns, np.arange(i * BATCH, (i + 1) * BATCH)) for i in range(9)]
    assert states[:3] == [CLEAN] * 3
    assert DRIFTED in states[3:5]
    assert states[4:] == [DRIFTED] * 5
    assert follow(seen.policy, states) == [4]  # the second in a row; then it cools down


# ---- the flow --------------------------------------------------------------------------------------------------


@pytest.fixture
def retrains(monkeypatch, project) -> list[str | None]:
    """Replace the pipeline by one that leaves the file of another run, and return the list of its calls."""
    from flows import pipeline

    calls: list[str | None] = []

    def train(source: str | None) -> str:
        calls.append(source)
        (project / "data/models/classifier/run.json").write_text(json.dumps({"run_id": f"run {len(calls)}"}))
        return "version 2 serves"

    monkeypatch.setattr(pipeline, "pipeline", train)
    return calls


@pytest.fixture
def news(monkeypatch) -> dict[str, TrainingNews]:
    """The news that the next training would see; tests of `find_training_news` are beside it."""
    found = {"now": TrainingNews(14, ("review.csv",))}
    monkeypatch.setattr("flows.monitoring.training_news.find_training_news", lambda project: found["now"])
    return found


def test_drift_is_noted_shown_told_and_answered_once(watched, project, prefect_server, retrains, news, tmp_path):
    from flows.monitor import monitor

    run = json.loads((project / "data/models/classifier/run.json").read_text())["run_id"]
    set_params(project, monitor__retrain__enabled=True)
    clean = monitor(write(tmp_path / "monday", watched.known[:80]))
    assert (clean.drifted, clean.retrain_entry) == (False, None)
    days = [write(tmp_path / day, [blur(data) for data in watched.known[start : start + 80]])
            for day, start in (("tuesday", 80), ("wednesday", 160), ("thursday", 240))]  # fmt: skip
    found = [monitor(day) for day in days]
    assert [one.drifted for one in found] == [True, True, True]
    assert [one.batch["retrain"] for one in found] == [False, True, False]
    assert found[0].batch["why"] == "1 of 2 drifted batches in a row"
    assert found[2].batch["why"].startswith("the last retrain cools down until")
    assert retrains == [None]
    assert [monitor(day).is_new for day in days] == [False, False, False]  # nothing is judged, or trained, twice
    assert retrains == [None]

    lines = batch_log.read_batches(Project(project))
    assert [line["state"] for line in lines] == [CLEAN, DRIFTED, DRIFTED, DRIFTED]
    begun, done = [one for one in ledger.read_ledger(Project(project)) if one["event"].startswith("retrain")]
    assert (begun["event"], begun["batch"], begun["reason"]) == (
        "retrain", found[1].batch["batch"], "2 drifted batches in a row",
    )  # fmt: skip
    assert (begun["news"], done["event"], done["of"]) == (
        "14 new labels (review.csv)",
        "retrained",
        begun["number"],
    )
    assert (done["trained"], done["reason"]) == (True, "retrained on 14 new labels (review.csv): version 2 serves")

    page = (project / lines[1]["page"]).read_text()
    assert page.count("data:image/png;base64,") == 24 + 6 and "tuesday-0" in page
    assert "<script" not in page and "http" not in page
    kept = [
        Path(one.path).stem
        for one in model_registry.connect_registry(Project(project)).list_artifacts(run, "drift")
    ]
    assert sorted(kept) == sorted(line["batch"] for line in lines[1:])
    moved = [check["name"] for check in lines[3]["checks"] if check["moved"]]
    assert "features" in moved  # which others did depends on the pictures
    shown = [row.split(" | ")[0].strip("| ") for row in prefect_page().splitlines() if row.startswith("| **")]
    assert [name.strip("*") for name in shown] == moved
    said = report_status(Project(project))
    assert f"{days[2]} drifted ({', '.join(moved)})" in said
    assert "3 drifted batches in a row; retrain: no, the last retrain cools down until" in said
    assert f"new pictures differ from the training data of source ({', '.join(moved)})" in said
    assert events(lines[1]["batch"]) == 1


def test_a_batch_that_cannot_be_read_has_drifted(watched, project, prefect_server, tmp_path):
    from flows.monitor import monitor

    found = monitor(write(tmp_path / "broken", [f"no picture {number}".encode() for number in range(60)]))
    assert (found.drifted, [check["name"] for check in found.batch["checks"]]) == (True, ["rejected"])
    assert "rejected (100.0% here, 0.0% in training)" in str(found)


def test_a_retrain_that_can_learn_nothing_spends_nothing_and_asks_for_labels(
    watched, project, prefect_server, retrains, news, tmp_path
):
    from flows.monitor import monitor

    news["now"] = TrainingNews()
    set_params(project, monitor__retrain__enabled=True, monitor__retrain__batches_in_a_row=1)
    found = monitor(write(tmp_path / "monday", [blur(data) for data in watched.known[:60]]))
    assert (found.retrain_entry, retrains) == (None, [])
    name = found.batch["batch"]
    steps = f"`convoy predict {tmp_path / 'monday'} --out data/monitor/{name}.parquet --review 50`"
    assert found.batch["why"].startswith(f"nothing new to train on; label 50 of these first: {steps}, fill in")
    assert [one["event"] for one in ledger.read_ledger(Project(project)) if "retrain" in one["event"]] == []
    said = report_status(Project(project))
    assert "retrain: no, nothing new to train on\n" in said and f"label 50 of these first: {steps}" in said

    news["now"] = TrainingNews(14, ("review.csv",))
    again = monitor(write(tmp_path / "tuesday", [blur(data) for data in watched.known[60:120]]))
    assert again.retrain_entry is not None and retrains == [None]  # at once: nothing had been spent


def test_a_retrain_that_trained_nothing_or_failed_spends_no_cooldown(
    watched, project, prefect_server, news, monkeypatch, tmp_path
):
    from flows import pipeline
    from flows.monitor import monitor

    def fail(source: str | None) -> str:
        raise UserError("the source does not answer")

    set_params(project, monitor__retrain__enabled=True, monitor__retrain__batches_in_a_row=1)
    reasons, whys = [], []
    for day, stub in enumerate((lambda source: "stages up to date", fail, fail)):
        monkeypatch.setattr(pipeline, "pipeline", stub)
        files = [blur(data) for data in watched.known[60 * day : 60 * day + 60]]
        whys.append(monitor(write(tmp_path / f"day{day}", files)).batch["why"])
        reasons.append(ledger.read_ledger(Project(project))[-1]["reason"])
    assert reasons[:2] == ["nothing was trained: stages up to date", "failed: the source does not answer"]
    assert whys[:2] == ["1 drifted batch", "2 drifted batches in a row"]
    assert whys[2].startswith("the last retrain failed; the next try is from")


def test_scenes_are_judged_when_there_are_enough_and_wait_until_then(watched, project, prefect_server, tmp_path):
    from flows.monitor import monitor

    for scene in range(6):
        write(tmp_path / "inbox" / f"scene {scene}", [blur(data) for data in watched.known[20 * scene :][:20]])
        if scene == 3:
            few = monitor(str(tmp_path / "inbox"))
    assert (few.batch["state"], few.batch["num_groups"], few.drifted) == (TOO_SMALL, 4, False)
    waiting = "4 scenes of 80 pictures: at least 5 scenes are needed to tell drift from another scene"
    assert waiting in str(few) and waiting in report_status(Project(project))
    enough = monitor(str(tmp_path / "inbox"))
    assert (enough.batch["num_pictures"], enough.batch["num_groups"]) == (120, 6)
    assert enough.batch["state"] in (CLEAN, DRIFTED)


def test_pictures_that_the_model_learned_from_are_not_compared(watched, project, prefect_server, tmp_path):
    from flows.monitor import monitor

    files = [path.read_bytes() for path in sorted((watched.project.parent / "source").rglob("*.png"))]
    found = monitor(write(tmp_path / "training", files[:300]))
    num_trained = found.num_trained if found.batch is None else found.batch["num_trained"]
    assert 250 < num_trained < 300  # the others are of the test split
    reference = ImageSample.from_bytes(Bundle.load(project / "data/models/classifier").reference)
    ids = {bytes(image_id).hex() for image_id in reference.image_id}
    own = [data for data in files if hashlib.sha256(data).hexdigest() in ids]
    shutil.rmtree(project / "data/normalized")  # the bundle alone knows its validation pictures
    again = monitor(write(tmp_path / "validation", own), model="source")
    assert len(own) > 50 and again.batch is None and again.num_trained == len(own)
    assert str(again).endswith(
        f"the model learned from {len(own)} pictures of it, others are not new: nothing to compare"
    )


def test_a_retrain_that_finds_another_one_at_work_is_tried_again(watched, project, prefect_server, news, tmp_path):
    from flows.monitor import monitor

    set_params(project, monitor__retrain__enabled=True, monitor__retrain__batches_in_a_row=1)
    for name, start in (("monday", 0), ("tuesday", 60)):
        with hold_project(project):
            found = monitor(write(tmp_path / name, [blur(data) for data in watched.known[start : start + 60]]))
        assert found.batch["retrain"]
        (last,) = ledger.read_ledger(Project(project))[-1:]
        assert (last["event"], last["begun"]) == ("retrained", False)
        assert "another run is at work in this project" in last["reason"]


def prefect_page() -> str:
    from prefect.artifacts import Artifact

    return str(Artifact.get("drift").data)


def events(batch: str) -> int:
    """How many events about a batch Prefect's server has."""
    import time

    import httpx
    from prefect.events.worker import EventsWorker
    from prefect.settings import PREFECT_API_URL

    EventsWorker.drain_all(timeout=10)
    body = {"filter": {"event": {"name": ["convoy.drift.detected"]}}, "limit": 50}
    for _ in range(100):  # the server stores them a moment later
        found = httpx.post(f"{PREFECT_API_URL.value()}/events/filter", json=body).json()["events"]
        num = sum(one["payload"]["batch"] == batch for one in found)
        if num:
            return num
        time.sleep(0.2)
    return 0


def test_a_prediction_is_compared_as_it_is_made_and_only_by_what_is_new(
    watched, project, prefect_server, tmp_path
):
    from flows.monitor import monitor
    from flows.predict import predict

    inbox = tmp_path / "inbox"
    write(inbox, [*watched.known[:60], b"no picture"])
    first = predict(str(inbox), str(tmp_path / "out.parquet"), engine="pytorch").monitor_result
    assert (first.batch["state"], first.batch["num_pictures"], first.batch["num_rejected"]) == (CLEAN, 61, 1)
    again = predict(str(inbox), str(tmp_path / "out.parquet"), engine="pytorch").monitor_result
    assert again.batch is None and not again.drifted
    for number, data in enumerate(watched.known[60:90]):
        (inbox / f"inbox-{number + 200}.png").write_bytes(change_camera(data))
    few = predict(str(inbox), str(tmp_path / "out.parquet"), engine="pytorch").monitor_result
    assert (few.batch["state"], few.batch["num_pictures"], few.batch["page"]) == ("too small", 30, None)
    assert "30 pictures are too few to judge, 50 are needed" in str(few)
    for number, data in enumerate(watched.known[90:120]):
        (inbox / f"inbox-{number + 300}.png").write_bytes(change_camera(data))
    more = predict(str(inbox), str(tmp_path / "out.parquet"), engine="pytorch").monitor_result
    assert (more.batch["state"], more.batch["num_pictures"]) == (DRIFTED, 60)  # the few had waited

    table = str(tmp_path / "out.parquet")
    assert pq.read_table(table).num_rows == 121
    assert str(monitor(table)).endswith("all pictures were compared before; --all compares them again")
    alone = monitor(table, everything=True)
    names = {check["name"] for check in alone.batch["checks"]}
    assert names == {"classes", "confidence", "rejected", "abstained"} and alone.batch["num_pictures"] == 121
    whole = monitor(table, str(inbox), everything=True)
    assert not whole.is_new  # the same pictures under the same rules


def test_a_model_without_a_reference_says_so_and_predicts_all_the_same(watched, project, prefect_server, tmp_path):
    from flows.monitor import monitor
    from flows.predict import predict

    serve_without_reference(project)
    inbox = write(tmp_path / "inbox", watched.known[:60])
    assert predict(inbox, str(tmp_path / "out.parquet"), engine="pytorch").monitor_result is None
    with pytest.raises(UserError, match="has no reference to compare pictures with; train a new one"):
        monitor(inbox)


def serve_without_reference(project: Path) -> None:
    """Another version of the model, as they were before bundles had a reference."""
    from imageset.store.reader import ImageStore
    from lightning_modules.bundle import save_bundle
    from lightning_modules.tracking.client import connect_to_mlflow, ensure_experiment
    from lightning_modules.tracking.model_logging import log_model
    from lightning_modules.tracking.run import TrackedRun

    folder = project / "data/models/classifier"
    bundle = Bundle.load(folder)
    save_bundle(folder, bundle.info, bundle.network)
    client = connect_to_mlflow(project)
    run = TrackedRun.open(client, ensure_experiment(client, "source", project), None, "without", {})
    uri = log_model(run, folder, bundle.info, ImageStore.open(project / "data/normalized"))
    run.close("FINISHED")
    note = {"run_id": run.run_id, "model_uri": uri, "dataset": bundle.info.dataset}
    (folder / "run.json").write_text(json.dumps(note))
    serve_trained_model(project)


def test_a_reference_that_was_changed_is_not_used(watched, tmp_path):
    folder = shutil.copytree(watched.project / "data/models/classifier", tmp_path / "bundle")
    data = bytearray((folder / "reference.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "reference.safetensors").write_bytes(data)
    with pytest.raises(UserError, match=r"this is not the reference that bundle\.json names"):
        Bundle.load(folder)


def test_wrong_settings_are_named(project):
    for name, value, message in (
        ("permutations", 999, "monitor.permutations is 999: too few to show alpha in 8 comparisons; give 8000"),
        ("alpha", 0.0, "monitor.alpha is 0; give a chance above 0"),
        ("pictures", 10, "monitor.pictures is 10; give 50 or more"),
        ("retrain__cooldown_hours", -1, "monitor.retrain.cooldown_hours is -1; give 0 or more"),
    ):
        set_params(project, **{f"monitor__{name}": value})
        with pytest.raises(UserError, match=message):
            Project(project).load_params("monitor")
        copy_params(project)
    set_params(project, monitor__retrain__cooldown=3)
    with pytest.raises(UserError, match="unknown key 'cooldown'; did you mean 'cooldown_hours'"):
        Project(project).load_params("monitor")
