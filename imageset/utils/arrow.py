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
_ID_DIGITS = 64  # of a SHA-256


def write_arrow(batches: Iterable[pa.RecordBatch], schema: pa.Schema, folder: str | Path | None) -> pa.Table:
    """The table of these batches, in a file of `folder` (None: where temporary files lie)."""
    with tempfile.TemporaryFile(dir=folder) as file:
        with pa.ipc.new_file(file, schema) as writer:
            for batch in batches:
                writer.write_batch(batch)
        file.flush()
        view = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return pa.ipc.open_file(pa.py_buffer(view)).read_all()


def memmap_zeros(shape: int | tuple[int, ...], dtype: type, folder: str | Path | None) -> np.ndarray:
    """numpy.zeros in a file of `folder`."""
    if not np.prod(shape):
        return np.zeros(shape, dtype)
    with tempfile.TemporaryFile(dir=folder) as file:
        return np.memmap(file, dtype, "w+", shape=shape)


def take_rows(table: pa.Table, positions: np.ndarray) -> pa.Table:
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


def iter_slices(table: pa.Table, positions: np.ndarray) -> Iterator[pa.RecordBatch]:
    """The rows at these positions, in this order, ROWS_AT_ONCE at a time."""
    for start in range(0, len(positions), ROWS_AT_ONCE):
        yield from take_rows(table, positions[start : start + ROWS_AT_ONCE]).to_batches()


def to_strings(column: pa.ChunkedArray) -> list[str | None]:
    """A column's to_pylist, and a tenth of its time where nothing is null or everything is."""
    if column.null_count == len(column):
        return [None] * len(column)
    if column.null_count:
        return column.to_pylist()
    found: list[str | None] = []
    for chunk in column.chunks:
        offsets, data = _read_buffers(chunk)
        text = data.tobytes()
        if text.isascii():  # a character is a byte
            letters, ends = text.decode(), offsets.tolist()
            found += [letters[start:end] for start, end in pairwise(ends)]
        else:
            found += chunk.to_pylist()
    return found


def to_id_words(image_ids: pa.ChunkedArray, word: int = 0) -> np.ndarray:
    """uint64 (N,): one of the four words of each SHA-256, ordered as they are; 0 where there is none."""
    words, end = np.empty(len(image_ids), np.uint64), 0
    for chunk in image_ids.chunks:
        for start in range(0, len(chunk), ROWS_AT_ONCE):
            some = _parse_id_words(chunk.slice(start, ROWS_AT_ONCE), word)
            words[end : end + len(some)] = some
            end += len(some)
    return words


def _parse_id_words(image_ids: pa.StringArray, word: int) -> np.ndarray:
    if image_ids.null_count:
        image_ids = image_ids.fill_null("0" * _ID_DIGITS)
    digits = to_utf8_bytes(image_ids).reshape(-1, _ID_DIGITS)[:, 16 * word : 16 * (word + 1)]
    halves = digits + 9 * (digits >> 6) & 15  # "0" is 0x30, "a" 0x61
    return (halves[:, ::2] << 4 | halves[:, 1::2]).view(">u8").ravel().astype(np.uint64)


def to_utf8_bytes(array: pa.StringArray) -> np.ndarray:
    """uint8: all strings of an array, one after the other, in UTF-8."""
    return _read_buffers(array)[1]


def _read_buffers(array: pa.StringArray) -> tuple[np.ndarray, np.ndarray]:
    """(int32 (N + 1,), where each string begins and ends; uint8, the bytes of all of them)."""
    if not len(array):
        return np.zeros(1, np.int32), np.empty(0, np.uint8)
    _, offsets, data = array.buffers()
    ends = np.frombuffer(offsets, np.int32)[array.offset : array.offset + len(array) + 1]
    text = np.frombuffer(data, np.uint8)[ends[0] : ends[-1]] if data else np.empty(0, np.uint8)
    return ends - ends[0], text


def argsort_image_ids(image_ids: pa.ChunkedArray) -> np.ndarray:
    """int64 (N,): the positions in the order of the image_ids."""
    words = to_id_words(image_ids)
    order = np.argsort(words, kind="stable")
    words.sort()
    if (words[1:] == words[:-1]).any():  # equal in 64 bits
        order = np.lexsort([to_id_words(image_ids, word) for word in (3, 2, 1, 0)])
    return order
