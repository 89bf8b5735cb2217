"""Copies of the ledger's decisions in MLflow's registry, where every clone of a project finds them.

`data/ledger.jsonl` belongs to one clone. Each decision about which version serves is also a tag of the registered
model: `convoy.ledger.000007`, with the SHA-256 of its line as `id`. It is written before the aliases move, and
marked `done` after that, so any clone can complete it. A clone adds to its own ledger the decisions that it does
not have, and a line that was changed or cut off shows. See docs/decisions/0018.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from flows.promotion import ledger
from flows.promotion.ledger import LedgerEntry

if TYPE_CHECKING:
    from mlflow import MlflowClient

TAG_PREFIX = "convoy.ledger."
NUM_KEPT = 50  # records of a model; all tags of a model come with each request
MAX_CHARS = 4900  # of a tag's value; a column of 5,000 characters in MLflow's own databases
MAX_REASON_CHARS = 1000
FIELDS = ("event", "model", "version", "run", "serves", "reason", "champion", "bundle", "dvc", "commit", "time",
          "who", "before", "after", "tags")  # fmt: skip
RECORDED_KEY = "recorded"  # in a line of the ledger: MLflow has a record of it; an earlier Convoy wrote none
COPY_KEY = "copy_of"  # in a line of the ledger: the id of the record that it was copied from

Record = dict[str, Any]


def compute_id(entry: LedgerEntry) -> str:
    """Return the SHA-256 of a decision's line in the ledger of the clone that made it."""
    return str(entry.get(COPY_KEY) or hashlib.sha256(json.dumps(entry, ensure_ascii=False).encode()).hexdigest())


def parse_records(tags: Mapping[str, str]) -> list[Record]:
    """Return the records among the tags of a registered model, the oldest first, without damaged ones."""
    records = []
    for key in sorted(key for key in tags if key.startswith(TAG_PREFIX)):
        try:
            record = {**json.loads(tags[key]), "key": key}
            _ = record["id"], record["done"], record["model"], record["before"], record["after"], record["time"]
        except (ValueError, KeyError, TypeError):
            continue
        records.append(record)
    return records


def read_records(client: MlflowClient, model: str) -> list[Record]:
    """Read the records of a registered model from MLflow, the oldest first."""
    from flows.promotion import model_registry

    return parse_records(model_registry.read_model_tags(client, model))


def write_record(client: MlflowClient, records: Sequence[Record], entry: LedgerEntry, *, done: bool) -> Record:
    """Write the record of a decision, or mark the one that there is as done; the oldest beyond NUM_KEPT go.

    Args:
        client: of the project's MLflow; the caller holds the locks for moving aliases.
        records: those that MLflow has of the model.
        entry: the line of the ledger.
        done: whether the aliases have moved.
    """
    from flows.promotion import model_registry

    model, record_id = entry["model"], compute_id(entry)
    key = next((record["key"] for record in records if record["id"] == record_id), None)
    if key is None:
        key = f"{TAG_PREFIX}{_parse_number(records[-1]['key']) + 1 if records else 1:06d}"
        for record in records[: max(0, len(records) + 1 - NUM_KEPT)]:
            model_registry.delete_model_tag(client, model, record["key"])
    text = _format_record(entry, record_id, done)
    model_registry.set_model_tag(client, model, key, text)
    return {**json.loads(text), "key": key}


def _parse_number(key: str) -> int:
    return int(key.removeprefix(TAG_PREFIX))


def _format_record(entry: LedgerEntry, record_id: str, done: bool) -> str:
    fields = {key: entry[key] for key in FIELDS if key in entry}
    fields["reason"] = str(fields.get("reason") or "")[:MAX_REASON_CHARS]
    record = {"id": record_id, "done": done, **fields}
    text = json.dumps(record, ensure_ascii=False)
    if len(text) > MAX_CHARS:  # the version has the tags, too
        text = json.dumps({**record, "tags": {}}, ensure_ascii=False)
    return text


def find_missing(entries: Sequence[LedgerEntry], records: Sequence[Record]) -> list[Record]:
    """Return the records whose decision is not in a ledger: of another clone, or cut off."""
    known = {compute_id(entry) for entry in entries if entry["event"] in ledger.MOVE_EVENTS}
    return [record for record in records if record["id"] not in known]


def find_unrecorded(entries: Sequence[LedgerEntry], records: Sequence[Record], model: str) -> list[LedgerEntry]:
    """Return the decisions of a ledger that MLflow should have a record of and has not: their lines were changed.

    A model without any record is new in this MLflow, and decisions before the oldest record are not kept there.
    """
    if not records:
        return []
    known, oldest = {record["id"] for record in records}, min(record["time"] for record in records)
    return [
        entry
        for entry in ledger.find_completed(list(entries), model)
        if entry.get(RECORDED_KEY) and entry["time"] >= oldest and compute_id(restore_line(entry)) not in known
    ]


def restore_line(entry: LedgerEntry) -> LedgerEntry:
    """Return a decision as its line in the ledger is: `ledger.find_completed` adds the time as `done`."""
    return {key: value for key, value in entry.items() if key != "done"}


def to_entry(record: Record) -> LedgerEntry:
    """Return the line that a ledger gets for a record of another clone; its number and link are its own."""
    fields = {key: value for key, value in record.items() if key in FIELDS}
    return {**fields, RECORDED_KEY: True, COPY_KEY: record["id"]}
