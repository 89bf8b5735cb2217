"""Tables and arrays that lie on disk: what a stage knows of each picture takes no memory.

They are temporary files without a name, seen through a memory map: gone with the process, whatever ends it.
"""

from __future__ import annotations

import mmap
import tempfile
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa

ROWS_AT_ONCE = 10_000


def on_disk(batches: Iterable[pa.RecordBatch], schema: pa.Schema, folder: str | Path | None) -> pa.Table:
    """The table of these batches, in a file of `folder` (None: where temporary files lie)."""
    with tempfile.TemporaryFile(dir=folder) as file:
        with pa.ipc.new_file(file, schema) as writer:
            for batch in batches:
                writer.write_batch(batch)
        file.flush()
        view = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return pa.ipc.open_file(pa.py_buffer(view)).read_all()


def zeros(shape: int | tuple[int, ...], dtype: type, folder: str | Path | None) -> np.ndarray:
    """numpy.zeros in a file of `folder`."""
    if not np.prod(shape):
        return np.zeros(shape, dtype)
    with tempfile.TemporaryFile(dir=folder) as file:
        return np.memmap(file, dtype, "w+", shape=shape)


def taken(table: pa.Table, positions: np.ndarray) -> pa.Table:
    """The rows at these positions, in this order. (Arrow's own `take` puts the whole table together first.)"""
    batches = table.to_batches()
    starts = np.cumsum([0, *map(len, batches)])
    batch_of = np.searchsorted(starts, positions, side="right") - 1
    order = np.argsort(batch_of, kind="stable")
    cuts = np.searchsorted(batch_of[order], np.arange(len(batches) + 1)).tolist()
    parts = [
        batch.take(pa.array(positions[order[first:end]] - start))
        for batch, start, (first, end) in zip(batches, starts.tolist(), pairwise(cuts), strict=False)
        if first < end
    ]
    rows = pa.Table.from_batches(parts, table.schema).combine_chunks()
    return rows if (np.diff(order) > 0).all() else rows.take(pa.array(np.argsort(order)))


def in_pieces(table: pa.Table, positions: np.ndarray) -> Iterator[pa.RecordBatch]:
    """The rows at these positions, in this order, ROWS_AT_ONCE at a time."""
    for start in range(0, len(positions), ROWS_AT_ONCE):
        yield from taken(table, positions[start : start + ROWS_AT_ONCE]).to_batches()


def id_words(image_ids: pa.ChunkedArray, word: int = 0) -> np.ndarray:
    """uint64 (N,): one of the four words of each SHA-256; their order is that of the ids."""
    words = np.empty(len(image_ids), np.uint64)
    for start in range(0, len(words), ROWS_AT_ONCE):
        digests = bytes.fromhex("".join(image_ids.slice(start, ROWS_AT_ONCE).to_pylist()))
        words[start : start + ROWS_AT_ONCE] = np.frombuffer(digests, ">u8").reshape(-1, 4)[:, word]
    return words


def by_image_id(image_ids: pa.ChunkedArray) -> np.ndarray:
    """int64 (N,): the positions in the order of the image_ids."""
    words = id_words(image_ids)
    order = np.argsort(words, kind="stable")
    words = words[order]
    if (words[1:] == words[:-1]).any():  # equal in 64 bits
        order = np.lexsort([id_words(image_ids, word) for word in (3, 2, 1, 0)])
    return order
