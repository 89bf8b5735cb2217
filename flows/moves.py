"""Aliases that move together or not at all.

MLflow moves one alias at a time and lets the last writer win. So one process at a time moves (a lock in the
project; where other machines may move too, one on the server, see flows.turns), only if the champion is the one
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

from flows import console, hooks, ledger, registry, turns
from flows.errors import Busy, Overtaken
from flows.project import CACHE

if TYPE_CHECKING:
    from mlflow import MlflowClient

logger = console.get_logger(__name__)

LOCK = CACHE / "registry.lock"
TIMEOUT_S = 60.0  # a move takes a fraction of a second

Aliases = dict[str, int]  # alias -> version; one that is not there has no entry


@contextmanager
def only_mover(project: Path) -> Iterator[None]:
    """Hold the right to move aliases; freed when the process ends.

    Raises:
        Busy: another process did not let go of it for TIMEOUT_S.
    """
    try:
        with _locked(project):
            yield
    finally:
        while _moved:  # a slow hook keeps nobody waiting for the lock
            hooks.tell_moved(project, _moved.pop(0))


_moved: list[ledger.Entry] = []  # the lines that this process has carried out, until the hook is told


@contextmanager
def _locked(project: Path) -> Iterator[None]:
    path = project / LOCK
    path.parent.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + TIMEOUT_S
    with path.open("a") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise Busy(f"another promotion or rollback has held {LOCK} for {TIMEOUT_S:.0f} s") from None
                time.sleep(0.05)
        yield


def move(
    client: MlflowClient,
    project: Path,
    entry: Mapping[str, Any],
    expected: Mapping[str, int],
    after: Callable[[Aliases], Aliases],
) -> ledger.Entry:
    """Write a decision to the ledger, move the aliases, and write that it is done. To be called by the only mover.

    Args:
        entry: the decision: `event`, `model`, `version`, `reason` and whatever else is worth keeping; its `tags`
            are written to the version.
        expected: the aliases that the decision rests on, e.g. {"champion": 3}; {} if there was no champion.
        after: from the aliases as they are to those that should be.

    Raises:
        Overtaken: the champion is another one by now.
    """
    settle(client, project)
    with turns.take(client, entry["model"]):
        before = registry.aliases(client, entry["model"])
        if before.get(registry.CHAMPION) != expected.get(registry.CHAMPION):
            number = before.get(registry.CHAMPION)
            raise Overtaken(f"{entry['model']}: version {number} has become champion meanwhile")
        line = ledger.append(project, {**entry, "before": before, "after": after(before)})
        _carry_out(client, project, line)
    return line


def settle(client: MlflowClient, project: Path) -> None:
    """Carry out to the end what was decided by processes that are gone. To be called by the only mover."""
    for entry in ledger.unfinished(ledger.read(project)):
        with turns.take(client, entry["model"]):
            _settle_one(client, project, entry)


def _settle_one(client: MlflowClient, project: Path, entry: ledger.Entry) -> None:
    now = registry.aliases(client, entry["model"])
    between = {alias: (entry["before"].get(alias), entry["after"].get(alias)) for alias in registry.ALIASES}
    moved = [alias for alias, known in between.items() if now.get(alias) not in known]
    if moved:
        reason = f"somebody else has moved {', '.join(moved)} since"
        ledger.append(project, {"event": ledger.DROPPED, "of": entry["number"], "reason": reason})
        logger.warning("ledger: line %s was not carried out: %s", entry["number"], reason)
        return
    _carry_out(client, project, entry)
    logger.info("ledger: line %s, begun by a process that ended early, is carried out", entry["number"])


def settle_if_needed(client: MlflowClient, project: Path) -> None:
    """What every reader of the registry calls first; costs a look into the ledger."""
    if ledger.unfinished(ledger.read(project)):
        with only_mover(project):
            settle(client, project)


def _carry_out(client: MlflowClient, project: Path, entry: ledger.Entry) -> None:
    """Every step can be repeated. `previous` goes before `champion`: between the two, both name what serves."""
    for alias in registry.ALIASES:
        registry.set_alias(client, entry["model"], alias, entry["after"].get(alias))
    registry.set_tags(client, entry["model"], entry["version"], entry.get("tags", {}))
    ledger.append(project, {"event": ledger.DONE, "of": entry["number"]})
    _moved.append(entry)
