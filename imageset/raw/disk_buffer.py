"""The rows of an ingest, kept on disk while it runs, so that its memory does not grow with the number of images.

A temporary SQLite file beside the shards holds the location of each image's bytes, and the rows of the table in
their order. It is removed when the ingest ends; the next ingest removes the file that a killed one left.
"""

from __future__ import annotations

import pickle
import sqlite3
from collections.abc import Callable, Collection, Iterable, Iterator
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
_KEPT = 1 << 62  # numbers of previous rows begin at -_KEPT, of new rows at 0, of rows that stay at _KEPT

_TABLES = """
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
PRAGMA locking_mode = EXCLUSIVE;
CREATE TABLE places (image_id BLOB PRIMARY KEY, shard INTEGER, start INTEGER, length INTEGER, seen INTEGER)
    WITHOUT ROWID;
CREATE TABLE rows (uri TEXT, unread INTEGER, image_id TEXT, number INTEGER, content BLOB,
    PRIMARY KEY (uri, unread, image_id, number)) WITHOUT ROWID;
"""


class LostImage(Exception):
    """An image that stays is in a shard that is lost."""

    def __init__(self, uri: str, shard: int) -> None:
        super().__init__(uri)
        self.uri, self.shard = uri, shard


class DiskBuffer:
    """A table under construction; its schema has image_id, uri, shard, offset, size and absent.

    Attributes:
        num_new: number of images, by their bytes, that were added with `add_location`.
        num_known: number of images of the previous table that `find_location` found.
        num_kept: number of rows that stay as they are.
        shards: numbers of the shards that hold images of the previous table.
    """

    def __init__(
        self,
        path: Path,
        schema: pa.Schema,
        previous: Path | None,
        is_kept: Callable[[dict[str, Any]], bool] = lambda row: False,
        lost: Collection[int] = (),
    ) -> None:
        """Create the file `path`, with the rows of the Parquet file `previous`; they are absent until added again.

        Args:
            path: the temporary file.
            schema: the schema of the table.
            previous: the previous table, or None.
            is_kept: whether a previous row stays as it is, whichever rows are added.
            lost: numbers of shards that are lost: their images have no location, and no row until added again.

        Raises:
            LostImage: a row that stays is about an image in a lost shard.
            OSError, KeyError, ValueError, pyarrow.ArrowException: `previous` is damaged.
        """
        self._path, self._schema, self._previous, self._is_kept = path, schema, previous, is_kept
        self._lost = set(lost)
        self.num_new = self.num_known = self.num_kept = self._num_rows = 0
        self.shards: set[int] = set()
        path.unlink(missing_ok=True)
        self._file = sqlite3.connect(path, isolation_level=None)
        self._file.execute(f"PRAGMA cache_size = -{_CACHE_KB}")
        self._file.executescript(_TABLES)
        self._file.execute("BEGIN")
        for batch in self._iter_previous_batches():
            self._load_previous(batch)

    def find_location(self, digest: bytes) -> ShardLocation | None:
        """Return the location of the bytes with this SHA-256, or None if they are not stored yet."""
        row = self._file.execute(
            "SELECT shard, start, length, seen FROM places WHERE image_id = ?", (digest,)
        ).fetchone()
        if row is None:
            return None
        if not row[3]:
            self._file.execute("UPDATE places SET seen = 1 WHERE image_id = ?", (digest,))
            self.num_known += 1
        return ShardLocation(*row[:3])

    def add_location(self, digest: bytes, location: ShardLocation) -> None:
        """Record the location of new bytes with this SHA-256."""
        self._file.execute("INSERT INTO places VALUES (?, ?, ?, ?, 1)", (digest, *location))
        self.num_new += 1

    def add_row(self, row: dict[str, Any]) -> None:
        """Add a row to the table; it replaces the previous row with the same uri and image_id."""
        self._num_rows += 1
        self._insert([self._to_sql_row(row, self._num_rows)])

    def keep_row(self, row: dict[str, Any]) -> None:
        """Add a row to the table that replaces no other one."""
        self._num_rows += 1
        self.num_kept += 1
        self._insert([self._to_sql_row(row, _KEPT + self._num_rows)])

    def has_changed(self) -> bool:
        """Return whether the table differs from the previous one."""
        pairs = zip_longest(self._iter_batches(), self._iter_previous_batches())
        return any(new is None or previous is None or not new.equals(previous) for new, previous in pairs)

    def write(self, path: Path, **options: Any) -> int:
        """Write the table as Parquet, sorted by uri and image_id; return how many of its rows are absent."""
        num_absent = 0
        with pq.ParquetWriter(path, self._schema, **options) as file:
            for batch in self._iter_batches():
                file.write_batch(batch)
                trim_memory()
                num_absent += batch["absent"].true_count
        return num_absent

    def count_absent(self) -> int:
        """Return how many rows of the table are absent."""
        return sum(batch["absent"].true_count for batch in self._iter_batches())

    def __enter__(self) -> DiskBuffer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        self._path.unlink(missing_ok=True)

    def _load_previous(self, batch: pa.RecordBatch) -> None:
        """Add the locations and rows of a batch of the previous table; most are absent until added again."""
        rows = [row for row in batch.to_pylist() if not self._is_lost(row)]
        readable = [row for row in rows if row["image_id"] is not None]
        locations = [
            (bytes.fromhex(row["image_id"]), row["shard"], row["offset"], row["size"]) for row in readable
        ]
        self._file.executemany("INSERT OR IGNORE INTO places VALUES (?, ?, ?, ?, 0)", locations)
        self.shards.update(shard for _, shard, _, _ in locations)
        kept = [self._is_kept(row) for row in rows]
        self._insert(
            self._to_sql_row(row, _KEPT + number)
            if is_kept
            else self._to_sql_row(row | {"absent": True}, number - _KEPT)
            for number, (row, is_kept) in enumerate(zip(rows, kept, strict=True), start=self._num_rows)
            if is_kept or row["image_id"] is not None
        )
        self._num_rows += len(rows)
        self.num_kept += sum(kept)

    def _is_lost(self, row: dict[str, Any]) -> bool:
        """Return whether the image of a row is in a lost shard."""
        if row["shard"] not in self._lost:
            return False
        if self._is_kept(row):
            raise LostImage(row["uri"], row["shard"])
        return True

    def _to_sql_row(self, row: dict[str, Any], number: int) -> tuple[Any, ...]:
        content = pickle.dumps([row.get(name) for name in self._schema.names], protocol=5)
        image_id = row.get("image_id")
        return row["uri"], image_id is None, image_id or "", number, content

    def _insert(self, rows: Iterable[tuple[Any, ...]]) -> None:
        self._file.executemany("INSERT INTO rows VALUES (?, ?, ?, ?, ?)", rows)

    def _iter_batches(self) -> Iterator[pa.RecordBatch]:
        contents = self._iter_contents()
        while block := list(islice(contents, ROWS_AT_ONCE)):
            columns = zip(*map(pickle.loads, block), strict=True)
            arrays = [pa.array(column, field.type) for column, field in zip(columns, self._schema, strict=True)]
            yield pa.RecordBatch.from_arrays(arrays, schema=self._schema)

    def _iter_contents(self) -> Iterator[bytes]:
        """Yield the rows in order, without previous ones that were added again."""
        stored = self._file.execute(
            "SELECT uri, image_id, number, content FROM rows ORDER BY uri, unread, image_id, number"
        )
        for _, versions in groupby(stored, key=itemgetter(0, 1)):
            rows = list(versions)
            is_replaced = any(0 <= number < _KEPT for _, _, number, _ in rows)
            yield from (content for _, _, number, content in rows if number >= 0 or not is_replaced)

    def _iter_previous_batches(self) -> Iterator[pa.RecordBatch]:
        if self._previous is not None:
            with pq.ParquetFile(self._previous) as file:
                for batch in file.iter_batches(ROWS_AT_ONCE):
                    yield self._cast_to_schema(batch)

    def _cast_to_schema(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Cast a batch to the schema; a column that an older table does not have is null."""
        if "image_id" not in batch.schema.names:
            raise KeyError("image_id")
        columns = [
            batch[field.name].cast(field.type)
            if field.name in batch.schema.names
            else pa.nulls(len(batch), field.type)
            for field in self._schema
        ]
        return pa.RecordBatch.from_arrays(columns, schema=self._schema)
