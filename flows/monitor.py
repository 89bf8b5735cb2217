"""Monitor: does a batch of pictures still look like what the champion was trained on? If not: say so, and train
again where params.yaml wants that."""

from __future__ import annotations

import hashlib
import heapq
import uuid
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from prefect import flow, task

from flows import batches, console, ledger, registry
from flows.checks import check_monitor
from flows.errors import Busy
from flows.history import shown as shown_time
from flows.pages import publish
from flows.policy import CLEAN, DRIFTED, TOO_SMALL, Answer, Policy, decide
from flows.predict_rows import answered_by, is_table, read_rows
from flows.project import dataset_name, find_project, monitor_params
from flows.registry import Version
from flows.retries import RETRIED
from flows.summary import cell
from flows.watched import WATCHED
from imageset.errors import UserError
from imageset.words import count

if TYPE_CHECKING:
    from flows.pictures import Pictures
    from flows.seen import Shown
    from lightning_modules.bundle import Bundle
    from lightning_modules.drift import Judgement, Rules
    from lightning_modules.reference import Sample

logger = console.get_logger(__name__)

EVENT = "convoy.drift.detected"
JUDGING = ("pictures", "min_pictures", "alpha", "permutations", "seed")  # the parameters that a judgement hangs on
NUM_OF_TRAINING = 6  # pictures on the page, to compare with
Row = dict[str, Any]


@dataclass(frozen=True)
class Monitored:
    """What was said of a batch, and what follows from it.

    Attributes:
        line: of data/monitor/batches.jsonl; None where there was no picture that had not been judged before.
        new: False: that line stood there before.
        retrain: number of the ledger's line that a retrain was decided in, to be carried out now.
    """

    source: str
    line: batches.Line | None
    new: bool = True
    retrain: int | None = None

    @property
    def drifted(self) -> bool:
        return self.line is not None and self.line["state"] == DRIFTED

    def __str__(self) -> str:
        if self.line is None:
            return f"{self.source}: no picture that was not judged before; --all judges them again"
        return f"{self.source}: {said(self.line)}" + ("" if self.new else " (judged before)")


def said(line: batches.Line) -> str:
    """A line of the table for a person."""
    num = count(line["num_pictures"], "picture")
    if line["state"] == TOO_SMALL:
        few = count(line["num_pictures"], "picture is", "pictures are")
        return f"{few} too few to judge, {line['min_pictures']} are needed (monitor.min_pictures)"
    if line["state"] == CLEAN:
        return f"{num} look like those that {line['model']} version {line['version']} was trained on"
    moved = [check for check in line["checks"] if check["moved"]]
    why = "; ".join(f"{check['name']} ({check['said']})" for check in moved)
    return f"{num} differ from those that {line['model']} version {line['version']} was trained on: {why}"


@flow(**WATCHED)
def monitor(
    source: str, pictures: str | None = None, model: str | None = None, everything: bool = False
) -> Monitored:
    """Compare a batch with what the model was trained on, note it, and train again if the policy says so.

    Args:
        source: pictures, as `predict` takes them, or a table that `predict` wrote.
        pictures: of such a table: the source it was made from. Without it only the answers are compared.
        model: registered name; None for the one named like the dataset in data/normalized.
        everything: pictures that were judged before, too.

    Raises:
        UserError: no such source, no model that serves, a table of another version, a model without a reference.
    """
    project = find_project()
    check_monitor(source, pictures)
    monitor_params(project)
    version = find_champion(model or dataset_name(project), project)
    monitored = look(source, pictures, version, project, everything)
    carry_out(monitored, project)
    return monitored


@task(**RETRIED)
def find_champion(name: str, project: Path) -> Version:
    """The version that serves."""
    return registry.require_champion(registry.connect(project), name)


@task
def look(source: str, pictures: str | None, version: Version, project: Path, everything: bool) -> Monitored:
    """Compare a source, or a table and its source."""
    from flows.pictures import open_pictures

    registry.connect(project)
    bundle = registry.bundle_of(version)
    if not is_table(source):
        found = open_pictures(source)
        return compare(source, _unanswered(found), found, bundle, version, project, everything)
    table = Path(source)
    other = answered_by(table)
    if other not in (None, (version.name, version.number)):
        raise UserError(
            f"{table}: holds answers of {other[0]} version {other[1]}, but {version} serves; predict again"
        )
    found_of = open_pictures(pictures) if pictures else None
    return compare(source, read_rows(table), found_of, bundle, version, project, everything)


def _unanswered(pictures: Pictures) -> Iterator[Row]:
    """Rows of pictures that no model was asked about."""
    for picture, _ in pictures:
        yield {"uri": picture.uri, "image_id": picture.image_id, "status": "error" if picture.error else None}


def compare(
    source: str, rows: Iterable[Row], pictures: Pictures | None, bundle: Bundle, version: Version, project: Path,
    everything: bool = False,
) -> Monitored:  # fmt: skip
    """Judge the pictures of some rows, note what was found, and decide what is to be done. Nothing is noted twice.

    Args:
        source: how the batch is called.
        rows: uri, image_id, status, and where there are answers top_k.
        pictures: where the rows' pictures are; None: only the answers are compared.

    Raises:
        UserError: the model has no reference.
    """
    params = monitor_params(project)
    reference = reference_of(bundle, version)
    with batches.alone(project):
        known = np.empty(0, np.uint64) if everything else batches.judged(project, version.name, version.number)
        ids, chosen, num_errors = choose(rows, known, params)
        if not len(ids):
            return Monitored(source, None, new=False)
        batch = batches.batch_id(version.name, version.number, ids)
        earlier = next((one for one in batches.read(project) if one["batch"] == batch), None)
        rules = {name: params[name] for name in JUDGING}
        if earlier is not None and earlier["params"] == rules:
            return Monitored(source, earlier, new=False)
        line: batches.Line = {
            "batch": batch, "time": ledger.now(), "source": source, "model": version.name,
            "version": version.number, "num_pictures": len(ids), "state": TOO_SMALL,
            "min_pictures": params["min_pictures"], "params": rules, "checks": [], "page": None,
        }  # fmt: skip
        if len(ids) >= params["min_pictures"]:
            rejected = np.array([num_errors, len(ids)])
            line |= judge(line, reference, chosen, rejected, pictures, bundle, project, params["shown"])
        answer = follow(line, project, params)
        line |= {"retrain": answer.retrain, "why": answer.why, "ledger": None}
        announce(line, version, project)  # before it is noted: who is killed here says it again, as the same event
        if answer.retrain:
            line["ledger"] = note_retrain(line, project)
        batches.add(project, line, ids)
    return Monitored(source, line, retrain=line["ledger"])


def reference_of(bundle: Bundle, version: Version) -> Sample:
    """What a model was trained on.

    Raises:
        UserError: it was trained before there were references, or without validation pictures.
    """
    from lightning_modules.reference import Sample

    found = Sample.from_bytes(bundle.reference) if bundle.reference is not None else None
    if found is None or not len(found):
        raise UserError(
            f"{version} has no reference to compare pictures with; train a new one: `dvc repro -f train`, then "
            "`convoy promote`"
        )
    return found


def choose(rows: Iterable[Row], known: np.ndarray, params: dict[str, Any]) -> tuple[np.ndarray, list[Row], int]:
    """The pictures that are not known, each once: their short ids, sorted; a sample of those that can be read, as
    rows; and how many cannot. The sample is drawn by lot: by a hash of the seed and the picture."""
    readable, unreadable = array("Q"), array("Q")  # short ids, 8 bytes each
    best: list[tuple[int, int]] = []  # of the sample (minus its lot, short id), the largest lot first
    kept: dict[int, Row] = {}
    for row in rows:
        short = batches.short_id(row["image_id"], row["uri"])
        if _is_in(known, short):
            continue
        if row["status"] == "error":
            unreadable.append(short)
            continue
        readable.append(short)
        if short not in kept:
            _keep(best, kept, (_lot(params["seed"], short), short), row, params["pictures"])
    errors = np.unique(np.array(unreadable, np.uint64))
    return np.union1d(np.array(readable, np.uint64), errors), list(kept.values()), len(errors)


def _keep(best: list[tuple[int, int]], kept: dict[int, Row], drawn: tuple[int, int], row: Row, num: int) -> None:
    lot, short = drawn
    if len(best) == num and -best[0][0] <= lot:
        return
    kept[short] = row
    heapq.heappush(best, (-lot, short))
    if len(best) > num:
        del kept[heapq.heappop(best)[1]]


def _lot(seed: int, short: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed} {short}".encode()).digest()[:8], "big")


def _is_in(known: np.ndarray, short: int) -> bool:
    at = int(np.searchsorted(known, np.uint64(short)))
    return at < len(known) and int(known[at]) == short


def judge(
    line: batches.Line, reference: Sample, chosen: list[Row], rejected: np.ndarray, pictures: Pictures | None,
    bundle: Bundle, project: Path, num_shown: int,
) -> dict[str, Any]:  # fmt: skip
    """What the comparison says, as fields of the line; the page about it is written."""
    from flows.seen import sample_of_answers, sample_of_pictures
    from lightning_modules import drift

    params = line["params"]
    if pictures is None:
        batch, shown = sample_of_answers(chosen, rejected, bundle), None
    else:
        batch, shown = sample_of_pictures(pictures, chosen, rejected, bundle)
    found = drift.judge(reference, batch, rules_of(params), bundle.info.classes, bundle.info.abstain_below)
    fields: dict[str, Any] = {
        "state": DRIFTED if found.drifted else CLEAN,
        "num_compared": len(batch), "num_reference": len(reference), "num_rejected": int(batch.rejected[0]),
        "checks": [asdict(check) for check in found.checks],
    }  # fmt: skip
    return fields | {"page": write_page(line | fields, reference, batch, found, shown, bundle, project, num_shown)}


def write_page(
    line: batches.Line, reference: Sample, batch: Sample, found: Judgement, shown: Shown | None, bundle: Bundle,
    project: Path, num_shown: int,
) -> str:  # fmt: skip
    """The page of a batch; returns where it is, from the project's folder."""
    from imageset.atomic import write_bytes
    from lightning_modules.drift_page import drift_page

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
    data = drift_page(title, lead, reference, batch, found, rules_of(line["params"]), bundle.info.classes, typical,
                      some_of_training(bundle, project) if typical else [])  # fmt: skip
    path = batches.MONITOR / f"{line['batch']}.html"
    write_bytes(project / path, data)
    return path.as_posix()


def some_of_training(bundle: Bundle, project: Path) -> list[np.ndarray]:
    """A few validation pictures, if they are still here."""
    from flows.predict import validation_of

    split = validation_of(bundle, project)
    return [] if split is None else list(split.batch(np.linspace(0, len(split) - 1, NUM_OF_TRAINING).astype(int)))


def rules_of(params: dict[str, Any]) -> Rules:
    """The statistical part of the parameters."""
    from lightning_modules.drift import Rules

    return Rules(params["alpha"], params["permutations"], params["seed"])


def follow(line: batches.Line, project: Path, params: dict[str, Any]) -> Answer:
    """Whether to train again after this batch."""
    if line["state"] == TOO_SMALL:
        return Answer(False, "too few pictures to judge")
    earlier = batches.read(project, line["model"], line["version"])
    lines = [one for one in earlier if one["batch"] != line["batch"]]
    entries = [one for one in ledger.read(project) if one.get("model") == line["model"]]
    not_begun = {one["of"] for one in entries if one["event"] == ledger.RETRAINED and not one["begun"]}
    begun = [
        datetime.fromisoformat(one["time"])
        for one in entries
        if one["event"] == ledger.RETRAIN and one["number"] not in not_begun
    ]
    return decide(Policy(**params["retrain"]), [*lines, line], begun, datetime.now(UTC))


def note_retrain(line: batches.Line, project: Path) -> int:
    """Write into the ledger that a retrain is to begin, before it does: whoever is killed after that has spent the
    cooldown, and no batch begins two. Returns the line's number."""
    entry = {
        "event": ledger.RETRAIN, "model": line["model"], "version": line["version"], "batch": line["batch"],
        "reason": line["why"],
    }  # fmt: skip
    return int(ledger.append(project, entry)["number"])


def announce(line: batches.Line, version: Version, project: Path) -> None:
    """Log, Prefect's artifact and event, and the page into the run that trained the model."""
    from prefect.events import emit_event

    logger.info("monitor: %s", said(line))
    if line["state"] != TOO_SMALL:
        title = f"{line['source']}: {line['state']}"
        publish(markdown(line), "drift", title)
    if line["state"] != DRIFTED:
        return
    logger.info("monitor: %s; retrain: %s (%s)", line["page"], "yes" if line["retrain"] else "no", line["why"])
    registry.connect(project).log_artifact(version.run_id, str(project / line["page"]), "drift")
    emit_event(
        EVENT,
        resource={
            "prefect.resource.id": f"convoy.model.{line['model']}",
            "prefect.resource.name": f"{line['model']} version {line['version']}",
        },
        payload={**line, "moved": [check["name"] for check in line["checks"] if check["moved"]]},
        id=uuid.uuid5(uuid.NAMESPACE_URL, f"convoy:{EVENT}:{line['batch']}"),  # said twice, it is one event
    )


def markdown(line: batches.Line) -> str:
    """A judged batch as Prefect shows it."""
    rows = [
        f"| {'**' if one['moved'] else ''}{one['name']}{'**' if one['moved'] else ''} | {one['adjusted']:.4g} "
        f"| {cell(one['said'])} |"
        for one in line["checks"]
    ]
    return "\n".join([
        f"# {cell(said(line))}", "", f"retrain: {'yes' if line['retrain'] else 'no'} ({line['why']})", "",
        f"page: {line['page']}", "", "| | p (Holm) | |", "| --- | --- | --- |", *rows, "",
    ])  # fmt: skip


def carry_out(monitored: Monitored, project: Path) -> None:
    """Train again if that was decided: the whole pipeline from the last source; what came of it is in the ledger.
    A failure there is its own run's failure, not this one's."""
    from flows.pipeline import pipeline

    if monitored.retrain is None or monitored.line is None:
        return
    logger.info("monitor: training again: %s", monitored.line["why"])
    begun = True
    try:
        outcome = str(pipeline(None))
    except Busy as error:  # a training that was asked for otherwise; the next drifted batch asks again
        outcome, begun = str(error), False
    except (UserError, ConnectionError) as error:
        outcome = f"failed: {error}"
    if not begun or outcome.startswith("failed: "):
        logger.warning("monitor: the retrain %s", outcome if begun else f"is not begun: {outcome}")
    entry = {
        "event": ledger.RETRAINED, "of": monitored.retrain, "model": monitored.line["model"],
        "version": monitored.line["version"], "begun": begun, "reason": outcome,
    }  # fmt: skip
    ledger.append(project, entry)
