"""The table records.parquet of the raw data: schema and reading."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from imageset.raw.source_file import RECORDS_FILE, build_damaged_error, check_raw_file, read_source_identity

ROWS_AT_ONCE = 10_000


class ShardLocation(NamedTuple):
    """The location of an image's bytes: number of the shard, offset and size in bytes."""

    shard: int
    offset: int
    size: int


RECORDS_SCHEMA = pa.schema(
    [
        ("image_id", pa.string()),  # null if the bytes could not be read
        ("uri", pa.string()),
        ("label", pa.string()),
        ("group", pa.string()),
        ("split", pa.string()),
        ("time", pa.timestamp("us")),  # when the image was taken, UTC; null if the source does not say
        ("shard", pa.int32()),
        ("offset", pa.int64()),  # of the image's bytes in the shard
        ("size", pa.int64()),
        ("absent", pa.bool_()),
        ("reason", pa.string()),  # set if the bytes could not be read
        ("detail", pa.string()),
        ("label_table", pa.string()),  # that added the image; null: the source has it
    ]
)
_LATER_COLUMNS = ("time", "label_table")  # that older tables do not have


def read_records(raw_dir: str | Path) -> pa.Table:
    """Return the table of RECORDS_SCHEMA, sorted by uri, with the rows of images that are `absent`.

    Raises:
        UserError: the table is missing or damaged.
    """
    read_source_identity(raw_dir)
    return _read_table(Path(raw_dir))


def iter_record_batches(raw_dir: str | Path) -> Iterator[pa.RecordBatch]:
    """Yield the rows of `read_records`, ROWS_AT_ONCE at a time.

    Raises:
        UserError: the table is missing or damaged.
    """
    read_source_identity(raw_dir)
    check_raw_file(Path(raw_dir), RECORDS_FILE)
    try:
        with pq.ParquetFile(Path(raw_dir) / RECORDS_FILE) as file:
            for batch in file.iter_batches(ROWS_AT_ONCE):
                yield from _cast_to_schema(pa.Table.from_batches([batch])).to_batches()
    except (OSError, KeyError, ValueError, pa.ArrowException):
        raise build_damaged_error(Path(raw_dir) / RECORDS_FILE) from None


def _read_table(raw_dir: Path) -> pa.Table:
    path = raw_dir / RECORDS_FILE
    check_raw_file(raw_dir, RECORDS_FILE)
    try:
        return _cast_to_schema(pq.ParquetFile(path).read())
    except (OSError, KeyError, ValueError, pa.ArrowException):
        raise build_damaged_error(path) from None


def _cast_to_schema(table: pa.Table) -> pa.Table:
    for name in _LATER_COLUMNS:
        if name not in table.column_names:
            table = table.append_column(name, pa.nulls(len(table), RECORDS_SCHEMA.field(name).type))
    return table.select(RECORDS_SCHEMA.names).cast(RECORDS_SCHEMA)
