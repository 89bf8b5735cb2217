"""What an ingest finds, kept on disk while it is at work: the memory it takes does not grow with the pictures.

A temporary SQLite file beside the shards holds where each picture's bytes lie, and the rows of the table in their
order. It lives no longer than the ingest; what a killed one leaves is removed by the next.
"""

from __future__ import annotations

import pickle
import sqlite3
from collections.abc import Iterable, Iterator
from itertools import groupby, islice, zip_longest
from operator import itemgetter
from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from imageset.raw.records import ROWS_AT_ONCE, ShardLocation
from imageset.utils.memory import trim_memory

_CACHE_KB = 4_000

_TABLES = """
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
PRAGMA locking_mode = EXCLUSIVE;
CREATE TABLE places (image_id BLOB PRIMARY KEY, shard INTEGER, start INTEGER, length INTEGER, seen INTEGER)
    WITHOUT ROWID;
CREATE TABLE rows (uri TEXT, unread INTEGER, image_id TEXT, number INTEGER, content BLOB,
    PRIMARY KEY (uri, unread, image_id, number)) WITHOUT ROWID;
"""


class DiskBuffer:
    """The table of a schema with image_id, uri, shard, offset, size and absent, in the making.

    Attributes:
        num_new, num_known: pictures (by their bytes) that were put in now, and that were asked for and there.
        shards: numbers of the shards that hold pictures of the earlier table.
    """

    def __init__(self, path: Path, schema: pa.Schema, earlier: Path | None) -> None:
        """Begin in the new file `path`, with what the Parquet file `earlier` holds.

        Raises:
            OSError, KeyError, ValueError, pyarrow.ArrowException: that file is damaged.
        """
        self._path, self._schema, self._previous = path, schema, earlier
        self.num_new = self.num_known = self._num_rows = 0
        self.shards: set[int] = set()
        path.unlink(missing_ok=True)
        self._file = sqlite3.connect(path, isolation_level=None)
        self._file.execute(f"PRAGMA cache_size = -{_CACHE_KB}")
        self._file.executescript(_TABLES)
        self._file.execute("BEGIN")
        for batch in self._earlier_batches():
            self._load_previous(batch)

    def find_location(self, digest: bytes) -> ShardLocation | None:
        """Where the bytes of this SHA-256 lie, if they were put in."""
        found = self._file.execute(
            "SELECT shard, start, length, seen FROM places WHERE image_id = ?", (digest,)
        ).fetchone()
        if found is None:
            return None
        if not found[3]:
            self._file.execute("UPDATE places SET seen = 1 WHERE image_id = ?", (digest,))
            self.num_known += 1
        return ShardLocation(*found[:3])

    def add_location(self, digest: bytes, place: ShardLocation) -> None:
        """Note where new bytes lie."""
        self._file.execute("INSERT INTO places VALUES (?, ?, ?, ?, 1)", (digest, *place))
        self.num_new += 1

    def add_row(self, row: dict[str, Any]) -> None:
        """Add a row of the table; it takes the place of an earlier one with its uri and image_id."""
        self._num_rows += 1
        self._insert([self._to_sql_row(row, self._num_rows)])

    def has_changed(self) -> bool:
        """Whether the table is another than the earlier one."""
        pairs = zip_longest(self._batches(), self._earlier_batches())
        return any(mine is None or theirs is None or not mine.equals(theirs) for mine, theirs in pairs)

    def write(self, path: Path, **options: Any) -> int:
        """Write the table, by uri and then image_id; return how many of its rows are absent."""
        num_absent = 0
        with pq.ParquetWriter(path, self._schema, **options) as file:
            for batch in self._batches():
                file.write_batch(batch)
                trim_memory()
                num_absent += batch["absent"].true_count
        return num_absent

    def num_absent(self) -> int:
        """How many rows of the table are absent."""
        return sum(batch["absent"].true_count for batch in self._batches())

    def __enter__(self) -> DiskBuffer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        self._path.unlink(missing_ok=True)

    def _load_previous(self, batch: pa.RecordBatch) -> None:
        """The places of an earlier table, and its rows: absent until they are added again."""
        rows = [row for row in batch.to_pylist() if row["image_id"] is not None]
        places = [(bytes.fromhex(row["image_id"]), row["shard"], row["offset"], row["size"]) for row in rows]
        self._file.executemany("INSERT OR IGNORE INTO places VALUES (?, ?, ?, ?, 0)", places)
        self.shards.update(place[1] for place in places)
        self._insert(
            self._to_sql_row(row | {"absent": True}, number)
            for number, row in enumerate(rows, start=-(1 << 62) + self._num_rows)
        )
        self._num_rows += len(rows)

    def _to_sql_row(self, row: dict[str, Any], number: int) -> tuple[Any, ...]:
        content = pickle.dumps([row.get(name) for name in self._schema.names], protocol=5)
        image_id = row.get("image_id")
        return row["uri"], image_id is None, image_id or "", number, content

    def _insert(self, rows: Iterable[tuple[Any, ...]]) -> None:
        self._file.executemany("INSERT INTO rows VALUES (?, ?, ?, ?, ?)", rows)

    def _batches(self) -> Iterator[pa.RecordBatch]:
        contents = self._contents()
        while some := list(islice(contents, ROWS_AT_ONCE)):
            columns = zip(*map(pickle.loads, some), strict=True)
            arrays = [pa.array(column, field.type) for column, field in zip(columns, self._schema, strict=True)]
            yield pa.RecordBatch.from_arrays(arrays, schema=self._schema)

    def _contents(self) -> Iterator[bytes]:
        """The rows in order, without the earlier ones (of negative number) that were added again."""
        found = self._file.execute(
            "SELECT uri, image_id, number, content FROM rows ORDER BY uri, unread, image_id, number"
        )
        for _, same in groupby(found, key=itemgetter(0, 1)):
            rows = list(same)
            again = rows[-1][2] >= 0
            yield from (content for _, _, number, content in rows if number >= 0 or not again)

    def _earlier_batches(self) -> Iterator[pa.RecordBatch]:
        if self._previous is not None:
            with pq.ParquetFile(self._previous) as file:
                for batch in file.iter_batches(ROWS_AT_ONCE):
                    yield self._cast(batch)

    def _cast(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """To our schema; a column that there was not yet when the table was written is empty."""
        if "image_id" not in batch.schema.names:
            raise KeyError("image_id")
        columns = [
            batch[field.name].cast(field.type)
            if field.name in batch.schema.names
            else pa.nulls(len(batch), field.type)
            for field in self._schema
        ]
        return pa.RecordBatch.from_arrays(columns, schema=self._schema)
