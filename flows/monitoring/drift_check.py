"""Compare one batch with the model's reference, record the result, and decide whether to retrain."""

from __future__ import annotations

import hashlib
import heapq
import uuid
from array import array
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from flows.monitoring import batch_log
from flows.monitoring.retrain_policy import (
    CLEAN,
    DRIFTED,
    TOO_SMALL,
    RetrainDecision,
    RetrainPolicy,
    decide_retrain,
)
from flows.notifications import console
from flows.orchestration.artifacts import publish_markdown
from flows.prediction.table_reader import is_prediction_table
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
JUDGED_PARAMS = ("pictures", "min_pictures", "alpha", "permutations", "seed")  # that the result depends on
NUM_VALIDATION_SHOWN = 6  # validation images on the page, for comparison
Row = dict[str, Any]


@dataclass(frozen=True)
class MonitorResult:
    """The result of a comparison, and the retrain that follows from it.

    Attributes:
        source: the name of the batch.
        batch: its entry in data/monitor/batches.jsonl; None if all of its images were compared before.
        is_new: False if that entry existed before.
        retrain_entry: number of the ledger entry with the decision to retrain, if that is to happen now.
    """

    source: str
    batch: batch_log.BatchEntry | None
    is_new: bool = True
    retrain_entry: int | None = None

    @property
    def drifted(self) -> bool:
        """Whether the batch differs from the model's training data."""
        return self.batch is not None and self.batch["state"] == DRIFTED

    def __str__(self) -> str:
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
        too_few = format_count(entry["num_pictures"], "picture is", "pictures are")
        return f"{too_few} too few to judge, {entry['min_pictures']} are needed (monitor.min_pictures)"
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
    reference = load_reference(bundle, version)
    with batch_log.batch_log_lock(project):
        judged = np.empty(0, np.uint64)
        if not include_judged:
            judged = batch_log.read_judged_ids(project, version.name, version.number)
        ids, chosen, num_errors = sample_new_images(rows, judged, params)
        if not len(ids):
            return MonitorResult(source, None, is_new=False)
        batch = batch_log.compute_batch_id(version.name, version.number, ids)
        earlier = next((entry for entry in batch_log.read_batches(project) if entry["batch"] == batch), None)
        rules = {name: params[name] for name in JUDGED_PARAMS}
        if earlier is not None and earlier["params"] == rules:
            return MonitorResult(source, earlier, is_new=False)
        entry: batch_log.BatchEntry = {
            "batch": batch, "time": timestamps.format_utc_now(), "source": source, "model": version.name,
            "version": version.number, "num_pictures": len(ids), "state": TOO_SMALL,
            "min_pictures": params["min_pictures"], "params": rules, "checks": [], "page": None,
        }  # fmt: skip
        if len(ids) >= params["min_pictures"]:
            rejected = np.array([num_errors, len(ids)])
            entry |= compare_with_reference(
                entry, reference, chosen, rejected, images, bundle, project, params["shown"]
            )
        decision = decide_after_batch(entry, project, params)
        entry |= {"retrain": decision.retrain, "why": decision.reason, "ledger": None}
        # Before the entry is recorded: a run that is killed here announces the batch again, as the same event.
        announce_batch(entry, version, project)
        if decision.retrain:
            entry["ledger"] = record_retrain(entry, project)
        batch_log.record_batch(project, entry, ids)
    return MonitorResult(source, entry, retrain_entry=entry["ledger"])


def load_reference(bundle: Bundle, version: Version) -> ImageSample:
    """Load the sample of a model's training data.

    Raises:
        UserError: the model was trained before references existed, or without validation images.
    """
    from lightning_modules.features.reference_sample import ImageSample

    reference = ImageSample.from_bytes(bundle.reference) if bundle.reference is not None else None
    if reference is None or not len(reference):
        raise UserError(
            f"{version} has no reference to compare pictures with; train a new one: `dvc repro -f train`, then "
            "`convoy promote`"
        )
    return reference


def sample_new_images(
    rows: Iterable[Row], judged: np.ndarray, params: dict[str, Any]
) -> tuple[np.ndarray, list[Row], int]:
    """Draw a sample of the images that were not judged before. A hash of the seed and the image decides.

    Args:
        rows: rows of images; equal images count once.
        judged: uint64 (N,), sorted: short ids of the images that were judged before.
        params: the section `monitor` of params.yaml.

    Returns:
        The short ids of all new images, uint64 (M,), sorted; the rows of a sample of those that can be read; and
        the number of those that cannot.
    """
    readable, unreadable = array("Q"), array("Q")  # short ids, 8 bytes each
    heap: list[tuple[int, int]] = []  # (minus the number drawn, short id) of the sample, the largest number first
    sample: dict[int, Row] = {}
    for row in rows:
        short_id = batch_log.to_short_id(row["image_id"], row["uri"])
        if _contains(judged, short_id):
            continue
        if row["status"] == "error":
            unreadable.append(short_id)
            continue
        readable.append(short_id)
        if short_id not in sample:
            number = _draw_number(params["seed"], short_id)
            _keep_in_sample(heap, sample, (number, short_id), row, params["pictures"])
    errors = np.unique(np.array(unreadable, np.uint64))
    return np.union1d(np.array(readable, np.uint64), errors), list(sample.values()), len(errors)


def _keep_in_sample(
    heap: list[tuple[int, int]], sample: dict[int, Row], drawn: tuple[int, int], row: Row, num: int
) -> None:
    number, short_id = drawn
    if len(heap) == num and -heap[0][0] <= number:
        return
    sample[short_id] = row
    heapq.heappush(heap, (-number, short_id))
    if len(heap) > num:
        del sample[heapq.heappop(heap)[1]]


def _draw_number(seed: int, short_id: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed} {short_id}".encode()).digest()[:8], "big")


def _contains(sorted_ids: np.ndarray, short_id: int) -> bool:
    at = int(np.searchsorted(sorted_ids, np.uint64(short_id)))
    return at < len(sorted_ids) and int(sorted_ids[at]) == short_id


def compare_with_reference(
    entry: batch_log.BatchEntry,
    reference: ImageSample,
    rows: list[Row],
    rejected: np.ndarray,
    images: ImageStream | None,
    bundle: Bundle,
    project: Project,
    num_shown: int,
) -> dict[str, Any]:
    """Compare a batch with the reference and write its page; return the result as fields of the entry."""
    from flows.monitoring.batch_sample import build_image_sample, build_prediction_sample
    from lightning_modules.drift import detector

    params = entry["params"]
    if images is None:
        batch, batch_images = build_prediction_sample(rows, rejected, bundle), None
    else:
        batch, batch_images = build_image_sample(images, rows, rejected, bundle)
    result = detector.detect_drift(
        reference, batch, make_drift_params(params), bundle.info.classes, bundle.info.abstain_below
    )
    fields: dict[str, Any] = {
        "state": DRIFTED if result.drifted else CLEAN,
        "num_compared": len(batch), "num_reference": len(reference), "num_rejected": int(batch.rejected[0]),
        "checks": [asdict(check) for check in result.checks],
    }  # fmt: skip
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
        return RetrainDecision(False, "too few pictures to judge")
    batches = batch_log.read_batches(project, entry["model"], entry["version"])
    earlier = [batch for batch in batches if batch["batch"] != entry["batch"]]
    decisions = [line for line in ledger.read_ledger(project) if line.get("model") == entry["model"]]
    not_started = {line["of"] for line in decisions if line["event"] == ledger.RETRAINED and not line["begun"]}
    starts = [
        datetime.fromisoformat(line["time"])
        for line in decisions
        if line["event"] == ledger.RETRAIN and line["number"] not in not_started
    ]
    return decide_retrain(RetrainPolicy(**params["retrain"]), [*earlier, entry], starts, datetime.now(UTC))


def record_retrain(entry: batch_log.BatchEntry, project: Project) -> int:
    """Write the decision to retrain into the ledger, and return the number of its entry.

    It is written before the retrain starts: a run that is killed after that has used up the cooldown, and no batch
    starts two retrains.
    """
    decision = {
        "event": ledger.RETRAIN, "model": entry["model"], "version": entry["version"], "batch": entry["batch"],
        "reason": entry["why"],
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
