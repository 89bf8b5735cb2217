"""Aliases that move together or not at all.

MLflow moves one alias at a time and lets the last writer win. So one process at a time moves (a lock in the
project; where other machines may move too, one on the server, see flows.promotion.registry_lock), only if the champion is the one
it was compared with, and only after the whole move stands in the ledger: whoever comes next after a kill carries
it out to the end. What serves changes in one step, so a reader sees the old or the new one.
"""

from __future__ import annotations

import fcntl
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.notifications import console
from flows.notifications.webhooks import ON_PROMOTION, post_webhook
from flows.project.exceptions import ChampionChanged, ProjectBusy
from flows.project.paths import CACHE
from flows.promotion import ledger, model_registry, registry_lock

if TYPE_CHECKING:
    from mlflow import MlflowClient


def notify_promotion(project: Path, line: ledger.LedgerEntry) -> None:
    """Another version serves: post the ledger's line.

    `{"event": "promotion" | "rollback", "model", "version", "instead_of", "reason", "numbers", "run_id"}`;
    `version` is what serves now.
    """
    serves, before = line["after"].get("champion"), line["before"].get("champion")
    if serves == before:
        return
    event = "rollback" if line["event"] == ledger.ROLLBACK else "promotion"
    post_webhook(project, ON_PROMOTION, {
        "event": event, "model": line["model"], "version": serves, "instead_of": before,
        "reason": line.get("reason"), "numbers": line.get("numbers", {}), "run_id": line.get("run"),
    })  # fmt: skip


logger = console.get_logger(__name__)

ALIAS_LOCK = CACHE / "registry.lock"
TIMEOUT_S = 60.0  # a move takes a fraction of a second

Aliases = dict[str, int]  # alias -> version; one that is not there has no entry


@contextmanager
def alias_lock(project: Path) -> Iterator[None]:
    """Hold the right to move aliases; freed when the process ends.

    Raises:
        Busy: another process did not let go of it for TIMEOUT_S.
    """
    try:
        with _hold_lock_file(project):
            yield
    finally:
        while _applied_entries:  # a slow hook keeps nobody waiting for the lock
            notify_promotion(project, _applied_entries.pop(0))


_applied_entries: list[
    ledger.LedgerEntry
] = []  # the lines that this process has carried out, until the hook is told


@contextmanager
def _hold_lock_file(project: Path) -> Iterator[None]:
    path = project / ALIAS_LOCK
    path.parent.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + TIMEOUT_S
    with path.open("a") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
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
    project: Path,
    entry: Mapping[str, Any],
    expected: Mapping[str, int],
    compute_after: Callable[[Aliases], Aliases],
) -> ledger.LedgerEntry:
    """Write a decision to the ledger, move the aliases, and write that it is done. To be called by the only mover.

    Args:
        entry: the decision: `event`, `model`, `version`, `reason` and whatever else is worth keeping; its `tags`
            are written to the version.
        expected: the aliases that the decision rests on, e.g. {"champion": 3}; {} if there was no champion.
        after: from the aliases as they are to those that should be.

    Raises:
        Overtaken: the champion is another one by now.
    """
    replay_unfinished(client, project)
    with registry_lock.registry_lock(client, entry["model"]):
        before = model_registry.read_aliases(client, entry["model"])
        if before.get(model_registry.CHAMPION) != expected.get(model_registry.CHAMPION):
            number = before.get(model_registry.CHAMPION)
            raise ChampionChanged(f"{entry['model']}: version {number} has become champion meanwhile")
        line = ledger.append_entry(project, {**entry, "before": before, "after": compute_after(before)})
        _apply_move(client, project, line)
    return line


def replay_unfinished(client: MlflowClient, project: Path) -> None:
    """Carry out to the end what was decided by processes that are gone. To be called by the only mover."""
    for entry in ledger.find_unfinished(ledger.read_ledger(project)):
        with registry_lock.registry_lock(client, entry["model"]):
            _replay_entry(client, project, entry)


def _replay_entry(client: MlflowClient, project: Path, entry: ledger.LedgerEntry) -> None:
    now = model_registry.read_aliases(client, entry["model"])
    between = {alias: (entry["before"].get(alias), entry["after"].get(alias)) for alias in model_registry.ALIASES}
    moved = [alias for alias, known in between.items() if now.get(alias) not in known]
    if moved:
        reason = f"somebody else has moved {', '.join(moved)} since"
        ledger.append_entry(project, {"event": ledger.DROPPED, "of": entry["number"], "reason": reason})
        logger.warning("ledger: line %s was not carried out: %s", entry["number"], reason)
        return
    _apply_move(client, project, entry)
    logger.info("ledger: line %s, begun by a process that ended early, is carried out", entry["number"])


def replay_if_needed(client: MlflowClient, project: Path) -> None:
    """What every reader of the registry calls first; costs a look into the ledger."""
    if ledger.find_unfinished(ledger.read_ledger(project)):
        with alias_lock(project):
            replay_unfinished(client, project)


def _apply_move(client: MlflowClient, project: Path, entry: ledger.LedgerEntry) -> None:
    """Every step can be repeated. `previous` goes before `champion`: between the two, both name what serves."""
    for alias in model_registry.ALIASES:
        model_registry.set_alias(client, entry["model"], alias, entry["after"].get(alias))
    model_registry.set_version_tags(client, entry["model"], entry["version"], entry.get("tags", {}))
    ledger.append_entry(project, {"event": ledger.DONE, "of": entry["number"]})
    _applied_entries.append(entry)
