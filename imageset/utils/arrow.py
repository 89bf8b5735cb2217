"""Tables and arrays on disk, so that a stage's facts about each image take no memory.

They are memory-mapped temporary files without a name; the system removes them when the process ends, for any
reason.
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
    """Write batches to a temporary file and return them as one memory-mapped table.

    Args:
        batches: the rows.
        schema: their schema.
        folder: where the file is made; None: the system's folder for temporary files.
    """
    with tempfile.TemporaryFile(dir=folder) as file:
        with pa.ipc.new_file(file, schema) as writer:
            for batch in batches:
                writer.write_batch(batch)
        file.flush()
        view = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return pa.ipc.open_file(pa.py_buffer(view)).read_all()


def memmap_zeros(shape: int | tuple[int, ...], dtype: type, folder: str | Path | None) -> np.ndarray:
    """Return `numpy.zeros(shape, dtype)` in a temporary file of `folder` (None: the system's)."""
    if not np.prod(shape):
        return np.zeros(shape, dtype)
    with tempfile.TemporaryFile(dir=folder) as file:
        return np.memmap(file, dtype, "w+", shape=shape)


def take_rows(table: pa.Table, positions: np.ndarray) -> pa.Table:
    """Return the rows at these positions, in this order.

    Arrow's own `take` combines the whole table in memory first.
    """
    batches = table.to_batches()
    starts = np.cumsum([0, *map(len, batches)])
    batch_of = np.searchsorted(starts, positions, side="right") - 1
    order = np.argsort(batch_of, kind="stable")
    cuts = np.searchsorted(batch_of[order], np.arange(len(batches) + 1)).tolist()
    taken = [
        batch.take(pa.array(positions[order[first:end]] - start))
        for batch, start, (first, end) in zip(batches, starts.tolist(), pairwise(cuts), strict=False)
        if first < end
    ]
    rows = pa.Table.from_batches(taken, table.schema).combine_chunks()
    return rows if (np.diff(order) > 0).all() else rows.take(pa.array(np.argsort(order)))


def iter_slices(table: pa.Table, positions: np.ndarray) -> Iterator[pa.RecordBatch]:
    """Yield the rows at these positions, in this order, ROWS_AT_ONCE at a time."""
    for start in range(0, len(positions), ROWS_AT_ONCE):
        yield from take_rows(table, positions[start : start + ROWS_AT_ONCE]).to_batches()


def to_strings(column: pa.ChunkedArray) -> list[str | None]:
    """Return the same list as `column.to_pylist()`, ten times faster if no value is null or every value is."""
    if column.null_count == len(column):
        return [None] * len(column)
    if column.null_count:
        return column.to_pylist()
    strings: list[str | None] = []
    for chunk in column.chunks:
        offsets, data = _read_buffers(chunk)
        text = data.tobytes()
        if text.isascii():  # one byte per character
            letters, ends = text.decode(), offsets.tolist()
            strings += [letters[start:end] for start, end in pairwise(ends)]
        else:
            strings += chunk.to_pylist()
    return strings


def to_id_words(image_ids: pa.ChunkedArray, word: int = 0) -> np.ndarray:
    """Return one of the four 64-bit words of each SHA-256, as uint64 (N,); 0 where an id is null.

    The words sort in the order of the hexadecimal digits; word 0 holds the first 16.
    """
    words, end = np.empty(len(image_ids), np.uint64), 0
    for chunk in image_ids.chunks:
        for start in range(0, len(chunk), ROWS_AT_ONCE):
            block = _parse_id_words(chunk.slice(start, ROWS_AT_ONCE), word)
            words[end : end + len(block)] = block
            end += len(block)
    return words


def _parse_id_words(image_ids: pa.StringArray, word: int) -> np.ndarray:
    if image_ids.null_count:
        image_ids = image_ids.fill_null("0" * _ID_DIGITS)
    digits = to_utf8_bytes(image_ids).reshape(-1, _ID_DIGITS)[:, 16 * word : 16 * (word + 1)]
    halves = digits + 9 * (digits >> 6) & 15  # "0" is 0x30, "a" 0x61
    return (halves[:, ::2] << 4 | halves[:, 1::2]).view(">u8").ravel().astype(np.uint64)


def to_utf8_bytes(array: pa.StringArray) -> np.ndarray:
    """Return the UTF-8 bytes of all strings of an array, one after the other, as uint8."""
    return _read_buffers(array)[1]


def _read_buffers(array: pa.StringArray) -> tuple[np.ndarray, np.ndarray]:
    """Return (int32 (N + 1,): where each string begins and ends; uint8: the bytes of all strings)."""
    if not len(array):
        return np.zeros(1, np.int32), np.empty(0, np.uint8)
    _, offsets, data = array.buffers()
    ends = np.frombuffer(offsets, np.int32)[array.offset : array.offset + len(array) + 1]
    text = np.frombuffer(data, np.uint8)[ends[0] : ends[-1]] if data else np.empty(0, np.uint8)
    return ends - ends[0], text


def argsort_image_ids(image_ids: pa.ChunkedArray) -> np.ndarray:
    """Return the positions that sort the image_ids, as int64 (N,)."""
    words = to_id_words(image_ids)
    order = np.argsort(words, kind="stable")
    words.sort()
    if (words[1:] == words[:-1]).any():  # equal in 64 bits
        order = np.lexsort([to_id_words(image_ids, word) for word in (3, 2, 1, 0)])
    return order
