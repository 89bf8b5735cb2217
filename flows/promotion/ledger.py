"""The ledger: an append-only log, one JSON line for each decision about which model serves or is trained.

`data/ledger.jsonl` can be kept in git. Each line holds the SHA-256 of the previous line, so a line that is changed
later shows. A decision that moves aliases is written before they move (a write-ahead log), and `done` or `dropped`
follows it; see flows.promotion.alias_updates.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flows.project.project import Project
from flows.project.user import identify_user
from imageset.exceptions import UserError
from imageset.utils.atomic_write import sync_file
from imageset.utils.file_lock import file_lock
from imageset.utils.timestamps import format_utc_now

LEDGER = Path("data/ledger.jsonl")
DECISION, ROLLBACK, DONE, DROPPED = "decision", "rollback", "done", "dropped"
RETRAIN, RETRAINED = "retrain", "retrained"  # started because of drift, and its outcome; see flows.monitor
FORGOTTEN = "forgotten"  # pictures that were removed everywhere, by image_id; see flows.retention.forget
MOVE_EVENTS = (DECISION, ROLLBACK)
FIRST_LINK = "0" * 64  # the link of the first line

LedgerEntry = dict[str, Any]


def append_entry(project: Project, entry: Mapping[str, Any]) -> LedgerEntry:
    """Append a line and sync it to the disk; return it with its number, time, author and link.

    Raises:
        UserError: an earlier line was changed.
    """
    path = project / LEDGER
    path.parent.mkdir(parents=True, exist_ok=True)
    with file_lock(path), path.open("a+b") as file:
        file.seek(0)
        text = file.read()
        whole = text[: text.rfind(b"\n") + 1]
        if len(whole) < len(text):  # the process that wrote the last line was killed
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


def read_ledger(project: Project) -> list[LedgerEntry]:
    """Read all lines, the oldest first; an incomplete last line is ignored, a missing ledger is empty.

    Raises:
        UserError: a line was changed, removed or inserted.
    """
    path = project / LEDGER
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return []
    return _parse_entries(path, text[: text.rfind(b"\n") + 1])


def find_unfinished(entries: list[LedgerEntry]) -> list[LedgerEntry]:
    """Return the decisions that move aliases and have neither `done` nor `dropped`."""
    ended = {entry["of"] for entry in entries if entry["event"] in (DONE, DROPPED)}
    return [entry for entry in entries if entry["event"] in MOVE_EVENTS and entry["number"] not in ended]


def find_completed(entries: list[LedgerEntry], model: str | None = None) -> list[LedgerEntry]:
    """Return the decisions whose aliases have moved, with the time as `done`; of one model or of all."""
    done = {entry["of"]: entry["time"] for entry in entries if entry["event"] == DONE}
    return [
        {**entry, "done": done[entry["number"]]}
        for entry in entries
        if entry["event"] in MOVE_EVENTS and entry["number"] in done and model in (None, entry["model"])
    ]


def find_decision(entries: list[LedgerEntry], model: str, version: int | None) -> LedgerEntry | None:
    """Return the last decision that compared a version of a model, which names its bundle; None without any."""
    decisions = (entry for entry in reversed(entries) if entry["event"] == DECISION and entry["model"] == model)
    return next((entry for entry in decisions if entry["version"] == version), None)


def find_serving(entries: list[LedgerEntry]) -> dict[str, dict[str, int]]:
    """Return the aliases of each model that serves, after its last completed decision."""
    last = {entry["model"]: {alias: int(number) for alias, number in entry["after"].items()}
            for entry in find_completed(entries)}  # fmt: skip
    return {model: aliases for model, aliases in last.items() if "champion" in aliases}


def _parse_entries(path: Path, text: bytes) -> list[LedgerEntry]:
    entries, link = [], FIRST_LINK
    for number, line in enumerate(text.splitlines(), start=1):
        try:
            entry = json.loads(line)
            is_valid = entry["number"] == number and entry["follows"] == link
        except (ValueError, KeyError, TypeError):
            is_valid = False
        if not is_valid:
            raise UserError(
                f"{path}: line {number} does not follow from the one before it, so the ledger was changed; "
                "restore it from git or a backup, or move it away: the next `convoy predict`, `promote` or "
                "`rollback` writes the decisions that MLflow records into a new one"
            )
        entries.append(entry)
        link = hashlib.sha256(line).hexdigest()
    return entries


def _compute_last_link(text: bytes) -> str:
    lines = text.splitlines()
    return hashlib.sha256(lines[-1]).hexdigest() if lines else FIRST_LINK
