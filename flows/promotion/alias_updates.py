"""Move several aliases of a registered model together or not at all.

MLflow moves one alias at a time and lets the last writer win. Therefore one process at a time moves aliases (a
lock in the project, and on a shared server flows.promotion.registry_lock), only if the champion is still the one
that the candidate was compared with, and only after the whole decision is in the ledger: after a kill, the next
command completes it. The champion changes in one step, so a reader sees the old or the new one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from flows.notifications import console
from flows.notifications.webhooks import ON_PROMOTION, post_webhook
from flows.project.exceptions import ChampionChanged, ProjectBusy
from flows.project.paths import CACHE
from flows.project.project import Project
from flows.promotion import ledger, model_registry, registry_lock, registry_records
from flows.promotion.registry_records import Record
from imageset.utils.file_lock import file_lock
from imageset.utils.text import format_count

if TYPE_CHECKING:
    from mlflow import MlflowClient


def notify_promotion(project: Project, entry: ledger.LedgerEntry) -> None:
    """Post an entry of the ledger to the webhook `on_promotion` if another version serves now.

    The body is `{"event": "promotion" | "rollback", "model", "version", "instead_of", "reason", "numbers",
    "run_id"}`; `version` is the one that serves now.
    """
    champion, previous = entry["after"].get("champion"), entry["before"].get("champion")
    if champion == previous:
        return
    event = "rollback" if entry["event"] == ledger.ROLLBACK else "promotion"
    post_webhook(project, ON_PROMOTION, {
        "event": event, "model": entry["model"], "version": champion, "instead_of": previous,
        "reason": entry.get("reason"), "numbers": entry.get("numbers", {}), "run_id": entry.get("run"),
    })  # fmt: skip


logger = console.get_logger(__name__)

ALIAS_LOCK = CACHE / "registry.lock"
TIMEOUT_S = 60.0  # moving aliases takes a fraction of a second

Aliases = dict[str, int]  # alias -> version; an alias that is not set has no entry


@contextmanager
def alias_lock(project: Project) -> Iterator[None]:
    """Hold the project's lock for moving aliases; it is released when the process ends.

    Raises:
        ProjectBusy: another process has held the lock for TIMEOUT_S.
    """
    try:
        with _hold_lock_file(project):
            yield
    finally:
        while _applied_entries:  # after the lock is released: a webhook may be slow
            notify_promotion(project, _applied_entries.pop(0))


_applied_entries: list[ledger.LedgerEntry] = []  # by this process, until the webhook is called


@contextmanager
def _hold_lock_file(project: Project) -> Iterator[None]:
    path = project / ALIAS_LOCK
    path.parent.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + TIMEOUT_S
    with ExitStack() as stack:
        while True:
            try:
                stack.enter_context(file_lock(path, wait=False))
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise ProjectBusy(
                        f"another promotion or rollback has held {ALIAS_LOCK} for {TIMEOUT_S:.0f} s"
                    ) from None
                time.sleep(0.05)
        yield


def update_aliases(
    client: MlflowClient,
    project: Project,
    entry: Mapping[str, Any],
    expected: Mapping[str, int],
    compute_after: Callable[[Aliases], Aliases],
) -> ledger.LedgerEntry:
    """Write a decision to the ledger, move the aliases, and write `done`. The caller holds `alias_lock`.

    Args:
        client: of the project's MLflow.
        project: the project's folder.
        entry: the decision: `event`, `model`, `version`, `reason` and more; its `tags` are written to the version.
        expected: the aliases that the decision was based on, e.g. {"champion": 3}; {} if there was no champion.
        compute_after: returns the aliases after the decision, given those before it.

    Raises:
        ChampionChanged: another version has become the champion.
    """
    replay_unfinished(client, project)
    with registry_lock.registry_lock(client, entry["model"]):
        records = _sync_model(client, project, entry["model"])
        before = model_registry.read_aliases(client, entry["model"])
        if before.get(model_registry.CHAMPION) != expected.get(model_registry.CHAMPION):
            number = before.get(model_registry.CHAMPION)
            raise ChampionChanged(f"{entry['model']}: version {number} has become champion in the meantime")
        line = {**entry, "before": before, "after": compute_after(before), registry_records.RECORDED_KEY: True}
        written = ledger.append_entry(project, line)
        _apply_move(client, project, written, records)
    return written


def replay_unfinished(client: MlflowClient, project: Project, *models: str) -> None:
    """Complete the decisions of processes that died, and add those of other clones to the ledger.

    The caller holds `alias_lock`.

    Args:
        client: of the project's MLflow.
        project: the project's folder.
        *models: registered models whose decisions in MLflow are wanted; those with unfinished decisions are too.
    """
    unfinished = ledger.find_unfinished(ledger.read_ledger(project))
    for model in dict.fromkeys([*models, *(entry["model"] for entry in unfinished)]):
        with registry_lock.registry_lock(client, model):
            _sync_model(client, project, model)


def _sync_model(client: MlflowClient, project: Project, model: str) -> list[Record]:
    """Bring the ledger and MLflow's records of a model together; return the records.

    The caller holds both locks.
    """
    records, entries = registry_records.read_records(client, model), ledger.read_ledger(project)
    is_new = not records and bool(model_registry.read_aliases(client, model))
    if is_new:  # the ledger is of an earlier Convoy, or MLflow is another one
        for entry in ledger.find_completed(entries, model)[-registry_records.NUM_KEPT :]:
            line = registry_records.restore_line(entry)
            records.append(registry_records.write_record(client, records, line, done=True))
    missing = registry_records.find_missing(entries, records)
    for record in missing:
        line = ledger.append_entry(project, registry_records.to_entry(record))
        if record["done"]:
            ledger.append_entry(project, {"event": ledger.DONE, "of": line["number"], "time": record["time"]})
    if missing:
        logger.info("ledger: %s of %s added from MLflow", format_count(len(missing), "decision"), model)
    for entry in ledger.find_unfinished(ledger.read_ledger(project)):
        if entry["model"] == model:
            _replay_entry(client, project, entry, records)
    return registry_records.read_records(client, model)


def _replay_entry(
    client: MlflowClient, project: Project, entry: ledger.LedgerEntry, records: Sequence[Record]
) -> None:
    record = next((each for each in records if each["id"] == registry_records.compute_id(entry)), None)
    if record is not None and record["done"]:
        ledger.append_entry(project, {"event": ledger.DONE, "of": entry["number"]})
        return
    now = model_registry.read_aliases(client, entry["model"])
    allowed = {alias: (entry["before"].get(alias), entry["after"].get(alias)) for alias in model_registry.ALIASES}
    moved = [alias for alias, versions in allowed.items() if now.get(alias) not in versions]
    is_copy = registry_records.COPY_KEY in entry  # another clone has dropped it
    is_overtaken = record is None and (is_copy or any(each["time"] > entry["time"] for each in records))
    if moved or is_overtaken:
        reason = f"somebody else has moved {', '.join(moved) or 'aliases'} in the meantime"
        ledger.append_entry(project, {"event": ledger.DROPPED, "of": entry["number"], "reason": reason})
        if record is not None:
            model_registry.delete_model_tag(client, entry["model"], record["key"])
        logger.warning("ledger: line %s was not completed: %s", entry["number"], reason)
        return
    _apply_move(client, project, entry, records)
    logger.info("ledger: line %s, started by a process that died, is completed", entry["number"])


def replay_if_needed(client: MlflowClient, project: Project, *models: str) -> None:
    """Complete unfinished decisions before the registry is read, and add those of other clones to the ledger.

    Where there are none of either, this only reads the ledger and MLflow's records of `models`.
    """
    entries = ledger.read_ledger(project)
    unfinished = ledger.find_unfinished(entries)
    if unfinished or any(_is_behind(entries, registry_records.read_records(client, model)) for model in models):
        with alias_lock(project):
            replay_unfinished(client, project, *models)


def _is_behind(entries: list[ledger.LedgerEntry], records: Sequence[Record]) -> bool:
    return bool(registry_records.find_missing(entries, records))


def _apply_move(
    client: MlflowClient, project: Project, entry: ledger.LedgerEntry, records: Sequence[Record]
) -> None:
    """Write the record, move the aliases, write the tags, and append `done`; every step can be repeated.

    `previous` moves before `champion`: between the two steps, both name the old champion.
    """
    record = registry_records.write_record(client, records, entry, done=False)
    for alias in model_registry.ALIASES:
        model_registry.set_alias(client, entry["model"], alias, entry["after"].get(alias))
    model_registry.set_version_tags(client, entry["model"], entry["version"], entry.get("tags", {}))
    registry_records.write_record(client, [*records, record], entry, done=True)
    ledger.append_entry(project, {"event": ledger.DONE, "of": entry["number"]})
    _applied_entries.append(entry)
