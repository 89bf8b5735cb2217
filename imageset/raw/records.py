"""Records.parquet: schema, reading, first shard of each ingest."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from imageset.exceptions import UserError

ROWS_AT_ONCE = 10_000


class ShardLocation(NamedTuple):
    """Where a picture's bytes lie."""

    shard: int
    offset: int
    size: int


RECORDS_FILE, SOURCE_FILE = "records.parquet", "source.json"

RECORDS_SCHEMA = pa.schema(
    [
        ("image_id", pa.string()),  # null where the bytes could not be read
        ("uri", pa.string()),
        ("label", pa.string()),
        ("group", pa.string()),
        ("split", pa.string()),
        ("time", pa.timestamp("us")),  # when the picture was taken, UTC; null where the source does not say
        ("shard", pa.int32()),
        ("offset", pa.int64()),  # of the picture's bytes in the shard
        ("size", pa.int64()),
        ("absent", pa.bool_()),
        ("reason", pa.string()),  # set where the bytes could not be read
        ("detail", pa.string()),
    ]
)


def read_source_identity(raw_dir: str | Path) -> dict[str, str]:
    """Return {"name", "kind"} of what was ingested.

    Raises:
        UserError: nothing was.
    """
    identity = find_source_identity(Path(raw_dir))
    if identity is None:
        raise UserError(f"{raw_dir}: holds no pictures yet; run `convoy run FOLDER`")
    return {"name": identity["name"], "kind": identity["kind"]}


def is_multi_label(raw_dir: str | Path) -> bool:
    """Whether a picture's label is a set of names (imageset.labels); UserError where nothing was ingested."""
    read_source_identity(raw_dir)
    return bool((find_source_identity(Path(raw_dir)) or {}).get("multi_label"))


def read_records(raw_dir: str | Path) -> pa.Table:
    """Return the table of SCHEMA, sorted by uri; rows of pictures that are `absent` included.

    Raises:
        UserError: there is none, or it is damaged.
    """
    read_source_identity(raw_dir)
    return _read_table(Path(raw_dir))


def iter_record_batches(raw_dir: str | Path) -> Iterator[pa.RecordBatch]:
    """The rows of read_records, some at a time."""
    read_source_identity(raw_dir)
    try:
        with pq.ParquetFile(Path(raw_dir) / RECORDS_FILE) as file:
            for batch in file.iter_batches(ROWS_AT_ONCE):
                yield from _cast_to_schema(pa.Table.from_batches([batch])).to_batches()
    except (OSError, KeyError, ValueError, pa.ArrowException):
        raise build_damaged_error(Path(raw_dir)) from None


def read_first_shards(raw_dir: str | Path) -> list[int]:
    """The number of the first shard of each ingest that brought new bytes, ascending."""
    try:
        noted = json.loads((Path(raw_dir) / SOURCE_FILE).read_text()).get("first_shards")
    except (OSError, ValueError, AttributeError):
        return [0]
    return sorted({int(number) for number in noted}) if noted else [0]


# ---- reading ---------------------------------------------------------------------------------------------------


def find_source_identity(raw_dir: Path) -> dict[str, Any] | None:
    """{"name", "kind"} and, where it is so, "multi_label"; None where nothing was ingested.

    Raises:
        UserError: something else lies there.
    """
    if not (raw_dir / SOURCE_FILE).is_file():
        foreign = [] if not raw_dir.is_dir() else [file for file in raw_dir.iterdir() if file.name[0] != "."]
        if foreign or (raw_dir.exists() and not raw_dir.is_dir()):
            raise UserError(
                f"{raw_dir}: holds {foreign[0].name if foreign else 'a file'} but no {SOURCE_FILE}; "
                "move it away, this folder is written by ingest alone"
            )
        return None
    try:
        identity = json.loads((raw_dir / SOURCE_FILE).read_text())
        several = {"multi_label": True} if identity.get("multi_label") else {}
        return {"name": str(identity["name"]), "kind": str(identity["kind"])} | several
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(
            f"{raw_dir / SOURCE_FILE}: damaged; remove {raw_dir} and ingest the source again"
        ) from None


def _read_table(raw_dir: Path) -> pa.Table:
    path = raw_dir / RECORDS_FILE
    try:
        return _cast_to_schema(pq.ParquetFile(path).read())
    except (OSError, KeyError, ValueError, pa.ArrowException):
        raise build_damaged_error(raw_dir) from None


def _cast_to_schema(table: pa.Table) -> pa.Table:
    if "time" not in table.column_names:  # of an ingest before there were times
        table = table.append_column("time", pa.nulls(len(table), pa.timestamp("us")))
    return table.select(RECORDS_SCHEMA.names).cast(RECORDS_SCHEMA)


def build_damaged_error(raw_dir: Path) -> UserError:
    return UserError(
        f"{raw_dir / RECORDS_FILE}: missing or damaged; restore it with `dvc checkout`, "
        f"or remove {raw_dir} and ingest the source again"
    )
