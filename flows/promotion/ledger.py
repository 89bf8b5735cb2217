"""The ledger: every decision about which model serves or is to be trained, one JSON line each, only ever added to.

`data/ledger.jsonl` lies where git can keep it. Each line names the SHA-256 of the line before it, so that a line
changed later shows. A decision that moves aliases is written before they move (a write-ahead log), and `done` or
`dropped` after it; see flows.promotion.alias_updates.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flows.project.user import identify_user
from imageset.exceptions import UserError
from imageset.utils.atomic_write import sync_file
from imageset.utils.timestamps import format_utc_now

LEDGER = Path("data/ledger.jsonl")
DECISION, ROLLBACK, DONE, DROPPED = "decision", "rollback", "done", "dropped"
RETRAIN, RETRAINED = "retrain", "retrained"  # begun because of drift, and what came of it; see flows.monitor
MOVE_EVENTS = (DECISION, ROLLBACK)
FIRST_LINK = "0" * 64  # what the first line follows

LedgerEntry = dict[str, Any]


def append_entry(project: Path, entry: Mapping[str, Any]) -> LedgerEntry:
    """Add a line and have it on the disk before returning; returns it with its number, time, author and link.

    Raises:
        UserError: the ledger was changed.
    """
    path = project / LEDGER
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        text = file.read()
        whole = text[: text.rfind(b"\n") + 1]
        if len(whole) < len(text):  # whoever wrote the last line was killed half-way
            file.truncate(len(whole))
        entries = _parse_entries(path, whole)
        line = {
            "number": len(entries) + 1,
            "time": format_utc_now(),
            "who": identify_user(),
            **entry,
            "follows": _compute_last_link(whole),
        }
        file.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())
    sync_file(path.parent)
    return line


def read_ledger(project: Path) -> list[LedgerEntry]:
    """All lines, the oldest first; none where there is no ledger. A last line that is not whole does not count.

    Raises:
        UserError: a line was changed, removed or put in.
    """
    path = project / LEDGER
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return []
    return _parse_entries(path, text[: text.rfind(b"\n") + 1])


def find_unfinished(entries: list[LedgerEntry]) -> list[LedgerEntry]:
    """The moves that nobody has said the end of."""
    ended = {entry["of"] for entry in entries if entry["event"] in (DONE, DROPPED)}
    return [entry for entry in entries if entry["event"] in MOVE_EVENTS and entry["number"] not in ended]


def find_completed(entries: list[LedgerEntry], model: str | None = None) -> list[LedgerEntry]:
    """The moves that are done, with the time at which they were; those of one model or of all."""
    done = {entry["of"]: entry["time"] for entry in entries if entry["event"] == DONE}
    return [
        {**entry, "done": done[entry["number"]]}
        for entry in entries
        if entry["event"] in MOVE_EVENTS and entry["number"] in done and model in (None, entry["model"])
    ]


def _parse_entries(path: Path, text: bytes) -> list[LedgerEntry]:
    entries, link = [], FIRST_LINK
    for number, line in enumerate(text.splitlines(), start=1):
        try:
            entry = json.loads(line)
            sound = entry["number"] == number and entry["follows"] == link
        except (ValueError, KeyError, TypeError):
            sound = False
        if not sound:
            raise UserError(
                f"{path}: line {number} does not follow from the one before it, so the ledger was changed; "
                "bring it back from git or a backup, or move it away to begin a new one"
            )
        entries.append(entry)
        link = hashlib.sha256(line).hexdigest()
    return entries


def _compute_last_link(text: bytes) -> str:
    lines = text.splitlines()
    return hashlib.sha256(lines[-1]).hexdigest() if lines else FIRST_LINK
