"""Compare one batch with the model's reference, record the result, and decide whether to retrain."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from flows.monitoring import batch_log, image_groups
from flows.monitoring.batch_sample import BatchSample, Row, sample_new_images
from flows.monitoring.reference import load_reference, read_trained_ids
from flows.monitoring.retrain_policy import (
    CLEAN,
    DRIFTED,
    TOO_SMALL,
    RetrainDecision,
    RetrainPolicy,
    decide_retrain,
    read_retrain_history,
)
from flows.notifications import console
from flows.orchestration.artifacts import publish_markdown
from flows.prediction.table_reader import is_prediction_table
from flows.project.paths import PARAMS
from flows.project.project import Project
from flows.promotion import ledger, model_registry
from flows.promotion.model_registry import Version
from imageset.exceptions import UserError
from imageset.utils import timestamps
from imageset.utils.text import escape_markdown, format_count
from imageset.utils.timestamps import format_local_time
from lightning_modules.tracking.tags import DRIFT_FOLDER

if TYPE_CHECKING:
    from flows.monitoring.batch_sample import BatchImages
    from flows.prediction.image_stream import ImageStream
    from lightning_modules.bundle import Bundle
    from lightning_modules.drift.detector import DriftParams, DriftResult
    from lightning_modules.features.reference_sample import ImageSample


logger = console.get_logger(__name__)

DRIFT_EVENT = "convoy.drift.detected"
JUDGED_PARAMS = (
    "pictures",
    "min_pictures",
    "group",
    "alpha",
    "permutations",
    "seed",
)  # that the result depends on
NUM_VALIDATION_SHOWN = 6  # validation images on the page, for comparison


@dataclass(frozen=True)
class MonitorResult:
    """The result of a comparison, and the retrain that follows from it.

    Attributes:
        source: the name of the batch.
        batch: its entry in data/monitor/batches.jsonl; None if all of its images were compared before.
        is_new: False if that entry existed before.
        retrain_entry: number of the ledger entry with the decision to retrain, if that is to happen now.
        num_trained: images that were left out since the model learned from them.
    """

    source: str
    batch: batch_log.BatchEntry | None
    is_new: bool = True
    retrain_entry: int | None = None
    num_trained: int = 0

    @property
    def drifted(self) -> bool:
        """Whether the batch differs from the model's training data."""
        return self.batch is not None and self.batch["state"] == DRIFTED

    def __str__(self) -> str:
        if self.batch is None and self.num_trained:
            pictures = format_count(self.num_trained, "picture")
            return (
                f"{self.source}: the model learned from {pictures} of it, others are not new: nothing to compare"
            )
        if self.batch is None:
            return f"{self.source}: all pictures were compared before; --all compares them again"
        return f"{self.source}: {describe_batch(self.batch)}" + ("" if self.is_new else " (compared before)")


def check_monitor(source: str, image_source: str | None) -> None:
    """Raise UserError if there is plainly nothing to compare. Lists and reads nothing large."""
    from flows.prediction.image_stream import check_images

    is_predictions = is_prediction_table(source)
    if image_source is not None and not is_predictions:
        raise UserError(f"{source}: not a table that `convoy predict` wrote; --pictures belongs to such a table")
    if not is_predictions:
        check_images(source)
    elif image_source is not None:
        check_images(image_source)


def describe_batch(entry: batch_log.BatchEntry) -> str:
    """Return the result of a batch as one line of text."""
    num = format_count(entry["num_pictures"], "picture")
    if entry["state"] == TOO_SMALL:
        return batch_log.describe_waiting(entry)
    if entry["state"] == CLEAN:
        return f"{num} look like those that {entry['model']} version {entry['version']} was trained on"
    moved = [check for check in entry["checks"] if check["moved"]]
    reasons = "; ".join(f"{check['name']} ({check['said']})" for check in moved)
    return f"{num} differ from those that {entry['model']} version {entry['version']} was trained on: {reasons}"


def check_batch(
    source: str,
    rows: Iterable[Row],
    images: ImageStream | None,
    bundle: Bundle,
    version: Version,
    project: Project,
    include_judged: bool = False,
) -> MonitorResult:
    """Compare the images of some rows with the reference, record the result, and decide whether to retrain.

    Nothing is recorded twice.

    Args:
        source: the name of the batch.
        rows: rows with uri, image_id and status, and with top_k where there are predictions.
        images: the images of the rows; None to compare only the predictions.
        bundle: the model.
        version: its version.
        project: the project folder.
        include_judged: also compare images that were compared before.

    Raises:
        UserError: the model has no reference.
    """
    params = project.load_params("monitor")
    reference = load_reference(bundle, version, project)
    with batch_log.batch_log_lock(project):
        judged = np.empty(0, np.uint64)
        if not include_judged:
            judged = batch_log.read_judged_ids(project, version.name, version.number)
        sample = sample_new_images(rows, judged, read_trained_ids(bundle, reference, project), params)
        ids = sample.ids
        if not len(ids):
            return MonitorResult(source, None, is_new=False, num_trained=sample.num_trained)
        batch = batch_log.compute_batch_id(version.name, version.number, ids)
        earlier = next((entry for entry in batch_log.read_batches(project) if entry["batch"] == batch), None)
        rules = {name: params[name] for name in JUDGED_PARAMS}
        if earlier is not None and earlier["params"] == rules:
            return MonitorResult(source, earlier, is_new=False)
        entry: batch_log.BatchEntry = {
            "batch": batch, "time": timestamps.format_utc_now(), "source": source, "model": version.name,
            "version": version.number, "num_pictures": len(ids), "state": TOO_SMALL,
            "min_pictures": params["min_pictures"], "params": rules, "checks": [], "page": None,
            "num_trained": sample.num_trained,
        }  # fmt: skip
        if len(ids) >= params["min_pictures"]:
            groups = image_groups.read_groups(sample, images, params["group"], bundle)
            entry |= compare_with_reference(
                entry, reference, sample, groups, images, bundle, project, params["shown"]
            )
        decision = decide_after_batch(entry, project, params)
        news = None
        if decision.retrain:
            decision, news = require_news(decision, entry, project)
        entry |= {"retrain": decision.retrain, "why": decision.reason, "news": news, "ledger": None}
        # Before the entry is recorded: a run that is killed here announces the batch again, as the same event.
        announce_batch(entry, version, project)
        if decision.retrain:
            entry["ledger"] = record_retrain(entry, project)
        batch_log.record_batch(project, entry, ids)
    return MonitorResult(source, entry, retrain_entry=entry["ledger"])


def compare_with_reference(
    entry: batch_log.BatchEntry,
    reference: ImageSample,
    sample: BatchSample,
    groups: tuple[list[str | None], np.ndarray],
    images: ImageStream | None,
    bundle: Bundle,
    project: Project,
    num_shown: int,
) -> dict[str, Any]:
    """Compare a batch with the reference and write its page; return the result as fields of the entry.

    Args:
        entry: the batch.
        reference: the sample of validation images.
        sample: the sample of the batch.
        groups: of the sample, as `read_groups` returns them.
        images: the images of the source; None to compare only the predictions.
        bundle: the model.
        project: the project folder.
        num_shown: images on the page.
    """
    from flows.monitoring.batch_sample import build_image_sample, build_prediction_sample
    from imageset.normalize.params import read_normalize_params
    from lightning_modules.drift import detector

    params = entry["params"]
    if images is None:
        batch, batch_images = build_prediction_sample(sample.rows, groups, bundle), None
    else:
        bits = read_normalize_params(project / PARAMS)["near_duplicate_bits"]
        batch, batch_images = build_image_sample(images, sample.rows, groups, bundle, bits, reference)
    result = detector.detect_drift(
        reference, batch, make_drift_params(params), bundle.info.classes, bundle.info.abstain_below
    )
    fields: dict[str, Any] = {
        "state": DRIFTED if result.drifted else CLEAN,
        "num_compared": len(batch), "num_reference": len(reference), "num_rejected": sample.num_errors,
        "num_groups": result.num_groups, "min_groups": result.min_groups,
        "checks": [asdict(check) for check in result.checks],
    }  # fmt: skip
    if not result.is_decided:
        return fields | {"state": TOO_SMALL}
    page = write_drift_page(entry | fields, reference, batch, result, batch_images, bundle, project, num_shown)
    return fields | {"page": page}


def write_drift_page(
    entry: batch_log.BatchEntry,
    reference: ImageSample,
    batch: ImageSample,
    result: DriftResult,
    batch_images: BatchImages | None,
    bundle: Bundle,
    project: Project,
    num_shown: int,
) -> str:
    """Write the page of a batch; return its path relative to the project folder."""
    from imageset.utils.atomic_write import write_bytes
    from lightning_modules.drift.html_report import render_drift_page

    typical: list[tuple[np.ndarray, str]] = []
    if batch_images is not None and result.witness is not None:
        for i in np.argsort(-result.witness, kind="stable")[:num_shown].tolist():
            label = bundle.info.classes[batch.classes[i]]
            caption = f"{label} {batch.confidence[i]:.2f}, {batch_images.rows[i]['uri']}"
            typical.append((batch_images.images[i], caption))
    title = f"{'Drift' if result.drifted else 'No drift'}: {entry['source'].rstrip('/').rpartition('/')[2]}"
    lead = (
        f"{entry['num_compared']:,} of {entry['num_pictures']:,} pictures of {entry['source']} beside "
        f"{entry['num_reference']:,} validation pictures of {entry['model']} version {entry['version']}; "
        f"{format_local_time(entry['time'])}; batch {entry['batch']}"
    )
    validation_images = sample_validation_images(bundle, project) if typical else []
    data = render_drift_page(title, lead, reference, batch, result, make_drift_params(entry["params"]),
                             bundle.info.classes, typical, validation_images)  # fmt: skip
    path = batch_log.MONITOR_DIR / f"{entry['batch']}.html"
    write_bytes(project / path, data)
    return path.as_posix()


def sample_validation_images(bundle: Bundle, project: Project) -> list[np.ndarray]:
    """Return a few validation images, uint8 (H, W, C); none if data/normalized holds other data by now."""
    from flows.prediction.predictor import open_validation_split

    split = open_validation_split(bundle, project)
    if split is None:
        return []
    return list(split.read_batch(np.linspace(0, len(split) - 1, NUM_VALIDATION_SHOWN).astype(int)))


def make_drift_params(params: dict[str, Any]) -> DriftParams:
    """Return the statistical part of the section `monitor` of params.yaml."""
    from lightning_modules.drift.detector import DriftParams

    return DriftParams(params["alpha"], params["permutations"], params["seed"])


def decide_after_batch(entry: batch_log.BatchEntry, project: Project, params: dict[str, Any]) -> RetrainDecision:
    """Decide whether to retrain after this batch."""
    if entry["state"] == TOO_SMALL:
        return RetrainDecision(False, "too few pictures or scenes to judge")
    batches = batch_log.read_batches(project, entry["model"], entry["version"])
    earlier = [batch for batch in batches if batch["batch"] != entry["batch"]]
    of_model = [line for line in ledger.read_ledger(project) if line.get("model") == entry["model"]]
    policy, history = RetrainPolicy(**params["retrain"]), read_retrain_history(of_model)
    return decide_retrain(policy, [*earlier, entry], history, datetime.now(UTC))


def require_news(
    decision: RetrainDecision, entry: batch_log.BatchEntry, project: Project
) -> tuple[RetrainDecision, str | None]:
    """Return the decision to retrain with what is new for a training, or another decision if nothing is."""
    from flows.monitoring.training_news import NOTHING_NEW, describe_labeling, find_training_news

    try:
        news = find_training_news(project)
    except (UserError, OSError) as error:
        return RetrainDecision(False, f"it cannot be told what is new to train on: {error}"), None
    if not news:
        steps = describe_labeling(entry["source"], entry["batch"], entry["num_pictures"])
        return RetrainDecision(False, f"{NOTHING_NEW}; {steps}"), None
    return decision, news.describe()


def record_retrain(entry: batch_log.BatchEntry, project: Project) -> int:
    """Write the decision to retrain into the ledger, and return the number of its entry.

    It is written before the retrain starts: a run that is killed after that has used up the cooldown, and no batch
    starts two retrains.
    """
    decision = {
        "event": ledger.RETRAIN, "model": entry["model"], "version": entry["version"], "batch": entry["batch"],
        "reason": entry["why"], "news": entry["news"],
    }  # fmt: skip
    return int(ledger.append_entry(project, decision)["number"])


def announce_batch(entry: batch_log.BatchEntry, version: Version, project: Project) -> None:
    """Log the result, publish it in Prefect, and add the page to the run that trained the model."""
    from mlflow.exceptions import MlflowException
    from prefect.events import emit_event

    logger.info("monitor: %s", describe_batch(entry))
    if entry["state"] != TOO_SMALL:
        title = f"{entry['source']}: {entry['state']}"
        publish_markdown(render_drift_markdown(entry), "drift", title)
    if entry["state"] != DRIFTED:
        return
    logger.info("monitor: %s; retrain: %s (%s)", entry["page"], "yes" if entry["retrain"] else "no", entry["why"])
    client = model_registry.connect_registry(project)
    try:
        client.log_artifact(version.run_id, str(project / entry["page"]), DRIFT_FOLDER)
    except (MlflowException, OSError) as error:  # MLflow is unavailable, or the run was deleted
        logger.warning("monitor: %s is not in MLflow: %s", entry["page"], " ".join(str(error).split())[:200])
    emit_event(
        DRIFT_EVENT,
        resource={
            "prefect.resource.id": f"convoy.model.{entry['model']}",
            "prefect.resource.name": f"{entry['model']} version {entry['version']}",
        },
        payload={**entry, "moved": [check["name"] for check in entry["checks"] if check["moved"]]},
        # The same id if it is emitted twice: Prefect keeps one event.
        id=uuid.uuid5(uuid.NAMESPACE_URL, f"convoy:{DRIFT_EVENT}:{entry['batch']}"),
    )


def render_drift_markdown(entry: batch_log.BatchEntry) -> str:
    """Render a judged batch as Markdown for Prefect."""
    rows = [
        f"| {'**' if check['moved'] else ''}{escape_markdown(check['name'])}{'**' if check['moved'] else ''} "
        f"| {check['adjusted']:.4g} | {escape_markdown(check['said'])} |"
        for check in entry["checks"]
    ]
    retrain = f"retrain: {'yes' if entry['retrain'] else 'no'} ({escape_markdown(entry['why'])})"
    return "\n".join([
        f"# {escape_markdown(describe_batch(entry))}", "", retrain, "",
        f"page: {escape_markdown(str(entry['page']))}", "", "| | p (Holm) | |", "| --- | --- | --- |", *rows, "",
    ])  # fmt: skip
