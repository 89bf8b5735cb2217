"""Compare one batch with the reference, record it, decide."""

from __future__ import annotations

import hashlib
import heapq
import uuid
from array import array
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
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
from flows.orchestration.artifacts import escape_cell, publish_markdown
from flows.prediction.table_reader import is_prediction_table
from flows.project.params import load_monitor_params
from flows.promotion import ledger, model_registry
from flows.promotion.model_registry import Version
from imageset.exceptions import UserError
from imageset.utils import timestamps
from imageset.utils.text import format_count
from imageset.utils.timestamps import format_local_time as shown_time
from lightning_modules.tracking.tags import DRIFT_FOLDER

if TYPE_CHECKING:
    from flows.monitoring.batch_sample import BatchImages
    from flows.prediction.image_stream import ImageStream
    from lightning_modules.bundle import Bundle
    from lightning_modules.drift.detector import DriftParams, DriftResult
    from lightning_modules.features.reference_sample import ImageSample


def check_monitor(source: str, images: str | None) -> None:
    """Raise UserError where there is nothing to compare."""
    from flows.prediction.image_stream import open_images
    from imageset.sources.factory import check_url
    from imageset.sources.remote.url import is_remote

    if images is not None and not is_prediction_table(source):
        raise UserError(f"{source}: not a table that `convoy predict` wrote; --pictures belongs to such a table")
    for one in [images] if is_prediction_table(source) else [source]:
        if one is not None and is_remote(one):
            check_url(one)
        elif one is not None:
            open_images(one)


logger = console.get_logger(__name__)

DRIFT_EVENT = "convoy.drift.detected"
JUDGED_PARAMS = (
    "pictures",
    "min_pictures",
    "alpha",
    "permutations",
    "seed",
)  # the parameters that a judgement hangs on
NUM_VALIDATION_SHOWN = 6  # pictures on the page, to compare with
Row = dict[str, Any]


@dataclass(frozen=True)
class MonitorResult:
    """What was said of a batch, and what follows from it.

    Attributes:
        line: of data/monitor/batches.jsonl; None where there was no picture that had not been judged before.
        new: False: that line stood there before.
        retrain: number of the ledger's line that a retrain was decided in, to be carried out now.
    """

    source: str
    batch: batch_log.BatchEntry | None
    is_new: bool = True
    retrain_entry: int | None = None

    @property
    def drifted(self) -> bool:
        return self.batch is not None and self.batch["state"] == DRIFTED

    def __str__(self) -> str:
        if self.batch is None:
            return f"{self.source}: no picture that was not judged before; --all judges them again"
        return f"{self.source}: {describe_batch(self.batch)}" + ("" if self.is_new else " (judged before)")


def describe_batch(line: batch_log.BatchEntry) -> str:
    """A line of the table for a person."""
    num = format_count(line["num_pictures"], "picture")
    if line["state"] == TOO_SMALL:
        few = format_count(line["num_pictures"], "picture is", "pictures are")
        return f"{few} too few to judge, {line['min_pictures']} are needed (monitor.min_pictures)"
    if line["state"] == CLEAN:
        return f"{num} look like those that {line['model']} version {line['version']} was trained on"
    moved = [check for check in line["checks"] if check["moved"]]
    why = "; ".join(f"{check['name']} ({check['said']})" for check in moved)
    return f"{num} differ from those that {line['model']} version {line['version']} was trained on: {why}"


def check_batch(
    source: str, rows: Iterable[Row], pictures: ImageStream | None, bundle: Bundle, version: Version, project: Path,
    everything: bool = False,
) -> MonitorResult:  # fmt: skip
    """Judge the pictures of some rows, note what was found, and decide what is to be done. Nothing is noted twice.

    Args:
        source: how the batch is called.
        rows: uri, image_id, status, and where there are answers top_k.
        pictures: where the rows' pictures are; None: only the answers are compared.

    Raises:
        UserError: the model has no reference.
    """
    params = load_monitor_params(project)
    reference = load_reference(bundle, version)
    with batch_log.batch_log_lock(project):
        known = (
            np.empty(0, np.uint64)
            if everything
            else batch_log.read_judged_ids(project, version.name, version.number)
        )
        ids, chosen, num_errors = sample_new_images(rows, known, params)
        if not len(ids):
            return MonitorResult(source, None, is_new=False)
        batch = batch_log.compute_batch_id(version.name, version.number, ids)
        earlier = next((one for one in batch_log.read_batches(project) if one["batch"] == batch), None)
        rules = {name: params[name] for name in JUDGED_PARAMS}
        if earlier is not None and earlier["params"] == rules:
            return MonitorResult(source, earlier, is_new=False)
        line: batch_log.BatchEntry = {
            "batch": batch, "time": timestamps.format_utc_now(), "source": source, "model": version.name,
            "version": version.number, "num_pictures": len(ids), "state": TOO_SMALL,
            "min_pictures": params["min_pictures"], "params": rules, "checks": [], "page": None,
        }  # fmt: skip
        if len(ids) >= params["min_pictures"]:
            rejected = np.array([num_errors, len(ids)])
            line |= compare_with_reference(
                line, reference, chosen, rejected, pictures, bundle, project, params["shown"]
            )
        answer = decide_after_batch(line, project, params)
        line |= {"retrain": answer.retrain, "why": answer.reason, "ledger": None}
        announce_batch(
            line, version, project
        )  # before it is noted: who is killed here says it again, as the same event
        if answer.retrain:
            line["ledger"] = record_retrain(line, project)
        batch_log.record_batch(project, line, ids)
    return MonitorResult(source, line, retrain_entry=line["ledger"])


def load_reference(bundle: Bundle, version: Version) -> ImageSample:
    """What a model was trained on.

    Raises:
        UserError: it was trained before there were references, or without validation pictures.
    """
    from lightning_modules.features.reference_sample import ImageSample

    found = ImageSample.from_bytes(bundle.reference) if bundle.reference is not None else None
    if found is None or not len(found):
        raise UserError(
            f"{version} has no reference to compare pictures with; train a new one: `dvc repro -f train`, then "
            "`convoy promote`"
        )
    return found


def sample_new_images(
    rows: Iterable[Row], known: np.ndarray, params: dict[str, Any]
) -> tuple[np.ndarray, list[Row], int]:
    """The pictures that are not known, each once: their short ids, sorted; a sample of those that can be read, as
    rows; and how many cannot. The sample is drawn by lot: by a hash of the seed and the picture."""
    readable, unreadable = array("Q"), array("Q")  # short ids, 8 bytes each
    best: list[tuple[int, int]] = []  # of the sample (minus its lot, short id), the largest lot first
    kept: dict[int, Row] = {}
    for row in rows:
        short = batch_log.to_short_id(row["image_id"], row["uri"])
        if _contains(known, short):
            continue
        if row["status"] == "error":
            unreadable.append(short)
            continue
        readable.append(short)
        if short not in kept:
            _keep_in_sample(best, kept, (_draw_number(params["seed"], short), short), row, params["pictures"])
    errors = np.unique(np.array(unreadable, np.uint64))
    return np.union1d(np.array(readable, np.uint64), errors), list(kept.values()), len(errors)


def _keep_in_sample(
    best: list[tuple[int, int]], kept: dict[int, Row], drawn: tuple[int, int], row: Row, num: int
) -> None:
    lot, short = drawn
    if len(best) == num and -best[0][0] <= lot:
        return
    kept[short] = row
    heapq.heappush(best, (-lot, short))
    if len(best) > num:
        del kept[heapq.heappop(best)[1]]


def _draw_number(seed: int, short: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed} {short}".encode()).digest()[:8], "big")


def _contains(known: np.ndarray, short: int) -> bool:
    at = int(np.searchsorted(known, np.uint64(short)))
    return at < len(known) and int(known[at]) == short


def compare_with_reference(
    entry: batch_log.BatchEntry, reference: ImageSample, rows: list[Row], rejected: np.ndarray, images: ImageStream | None,
    bundle: Bundle, project: Path, num_shown: int,
) -> dict[str, Any]:  # fmt: skip
    """What the comparison says, as fields of the line; the page about it is written."""
    from flows.monitoring.batch_sample import build_image_sample, build_prediction_sample
    from lightning_modules.drift import detector

    params = entry["params"]
    if images is None:
        batch, shown = build_prediction_sample(rows, rejected, bundle), None
    else:
        batch, shown = build_image_sample(images, rows, rejected, bundle)
    found = detector.detect_drift(
        reference, batch, make_drift_rules(params), bundle.info.classes, bundle.info.abstain_below
    )
    fields: dict[str, Any] = {
        "state": DRIFTED if found.drifted else CLEAN,
        "num_compared": len(batch), "num_reference": len(reference), "num_rejected": int(batch.rejected[0]),
        "checks": [asdict(check) for check in found.checks],
    }  # fmt: skip
    return fields | {
        "page": write_drift_page(entry | fields, reference, batch, found, shown, bundle, project, num_shown)
    }


def write_drift_page(
    line: batch_log.BatchEntry, reference: ImageSample, batch: ImageSample, found: DriftResult, shown: BatchImages | None, bundle: Bundle,
    project: Path, num_shown: int,
) -> str:  # fmt: skip
    """The page of a batch; returns where it is, from the project's folder."""
    from imageset.utils.atomic_write import write_bytes
    from lightning_modules.drift.html_report import render_drift_page

    typical: list[tuple[np.ndarray, str]] = []
    if shown is not None and found.witness is not None:
        for i in np.argsort(-found.witness, kind="stable")[:num_shown].tolist():
            label = bundle.info.classes[batch.classes[i]]
            caption = f"{label} {batch.confidence[i]:.2f}, {shown.rows[i]['uri']}"
            typical.append((shown.images[i], caption))
    title = f"{'Drift' if found.drifted else 'No drift'}: {line['source'].rstrip('/').rpartition('/')[2]}"
    lead = (
        f"{line['num_compared']:,} of {line['num_pictures']:,} pictures of {line['source']} beside "
        f"{line['num_reference']:,} validation pictures of {line['model']} version {line['version']}; "
        f"{shown_time(line['time'])}; batch {line['batch']}"
    )
    data = render_drift_page(title, lead, reference, batch, found, make_drift_rules(line["params"]), bundle.info.classes, typical,
                      sample_validation_images(bundle, project) if typical else [])  # fmt: skip
    path = batch_log.MONITOR_DIR / f"{line['batch']}.html"
    write_bytes(project / path, data)
    return path.as_posix()


def sample_validation_images(bundle: Bundle, project: Path) -> list[np.ndarray]:
    """A few validation pictures, if they are still here."""
    from flows.prediction.predictor import open_validation_split

    split = open_validation_split(bundle, project)
    return (
        []
        if split is None
        else list(split.read_batch(np.linspace(0, len(split) - 1, NUM_VALIDATION_SHOWN).astype(int)))
    )


def make_drift_rules(params: dict[str, Any]) -> DriftParams:
    """The statistical part of the parameters."""
    from lightning_modules.drift.detector import DriftParams

    return DriftParams(params["alpha"], params["permutations"], params["seed"])


def decide_after_batch(line: batch_log.BatchEntry, project: Path, params: dict[str, Any]) -> RetrainDecision:
    """Whether to train again after this batch."""
    if line["state"] == TOO_SMALL:
        return RetrainDecision(False, "too few pictures to judge")
    earlier = batch_log.read_batches(project, line["model"], line["version"])
    lines = [one for one in earlier if one["batch"] != line["batch"]]
    entries = [one for one in ledger.read_ledger(project) if one.get("model") == line["model"]]
    not_begun = {one["of"] for one in entries if one["event"] == ledger.RETRAINED and not one["begun"]}
    begun = [
        datetime.fromisoformat(one["time"])
        for one in entries
        if one["event"] == ledger.RETRAIN and one["number"] not in not_begun
    ]
    return decide_retrain(RetrainPolicy(**params["retrain"]), [*lines, line], begun, datetime.now(UTC))


def record_retrain(line: batch_log.BatchEntry, project: Path) -> int:
    """Write into the ledger that a retrain is to begin, before it does: whoever is killed after that has spent the
    cooldown, and no batch begins two. Returns the line's number."""
    entry = {
        "event": ledger.RETRAIN, "model": line["model"], "version": line["version"], "batch": line["batch"],
        "reason": line["why"],
    }  # fmt: skip
    return int(ledger.append_entry(project, entry)["number"])


def announce_batch(line: batch_log.BatchEntry, version: Version, project: Path) -> None:
    """Log, Prefect's artifact and event, and the page into the run that trained the model."""
    from prefect.events import emit_event

    logger.info("monitor: %s", describe_batch(line))
    if line["state"] != TOO_SMALL:
        title = f"{line['source']}: {line['state']}"
        publish_markdown(render_drift_markdown(line), "drift", title)
    if line["state"] != DRIFTED:
        return
    logger.info("monitor: %s; retrain: %s (%s)", line["page"], "yes" if line["retrain"] else "no", line["why"])
    client = model_registry.connect_registry(project)
    client.log_artifact(version.run_id, str(project / line["page"]), DRIFT_FOLDER)
    emit_event(
        DRIFT_EVENT,
        resource={
            "prefect.resource.id": f"convoy.model.{line['model']}",
            "prefect.resource.name": f"{line['model']} version {line['version']}",
        },
        payload={**line, "moved": [check["name"] for check in line["checks"] if check["moved"]]},
        id=uuid.uuid5(uuid.NAMESPACE_URL, f"convoy:{DRIFT_EVENT}:{line['batch']}"),  # said twice, it is one event
    )


def render_drift_markdown(line: batch_log.BatchEntry) -> str:
    """A judged batch as Prefect shows it."""
    rows = [
        f"| {'**' if one['moved'] else ''}{one['name']}{'**' if one['moved'] else ''} | {one['adjusted']:.4g} "
        f"| {escape_cell(one['said'])} |"
        for one in line["checks"]
    ]
    return "\n".join([
        f"# {escape_cell(describe_batch(line))}", "", f"retrain: {'yes' if line['retrain'] else 'no'} ({line['why']})", "",
        f"page: {line['page']}", "", "| | p (Holm) | |", "| --- | --- | --- |", *rows, "",
    ])  # fmt: skip
