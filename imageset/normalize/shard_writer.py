"""Choose the decode parameters, plan the .npy shards, and decode images into them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from imageset.decoding.spec import AUTO_SIZES_PX, DecodeSpec, ImageHeader
from imageset.executors.base import BaseExecutor
from imageset.executors.stream import CHUNKS_AHEAD, run_tasks
from imageset.normalize.reuse import PreviousDataset
from imageset.normalize.tasks import (
    DecodeBatch,
    DecodedFacts,
    decode_batch,
    decode_batch_remote,
    read_headers,
    with_contents,
    write_batch,
)
from imageset.raw import shards as raw_shards
from imageset.rejections import Rejected, Rejection
from imageset.store import format
from imageset.utils.arrow import (
    ROWS_AT_ONCE,
    argsort_image_ids,
    iter_slices,
    memmap_zeros,
    take_rows,
    to_utf8_bytes,
    write_arrow,
)
from imageset.utils.atomic_write import BackgroundSync
from imageset.utils.progress import Progress

AUTO_SAMPLE = 2000  # pictures whose headers settle `size: auto`
MAX_PIXEL_SHARD_BYTES = 128 << 20  # of pixels
BATCH_BYTES = 1 << 20  # of raw data, of one task for a worker
BATCH_PIXEL_BYTES = 2 << 20


# ---- decode ----------------------------------------------------------------------------------------------------


def choose_decode_spec(
    params: Mapping[str, Any],
    raw_dir: Path,
    rows: pa.Table,
    executor: BaseExecutor,
    timeout_s: float,
    progress: Progress,
) -> DecodeSpec:
    """The decode parameters, with `auto` settled by the pictures' headers."""
    size, channels = params["size_px"], params["channels"]
    if "auto" in (size, channels):
        found_size, found_channels = _measure_headers(rows, raw_dir, params, executor, timeout_s, progress)
        size = found_size if size == "auto" else size
        channels = found_channels if channels == "auto" else channels
    return DecodeSpec(
        size, channels, params["fit"], params["interpolation"], params["max_pixels"], params["fidelity"]
    )


def _measure_headers(
    rows: pa.Table,
    raw_dir: Path,
    params: Mapping[str, Any],
    pool: BaseExecutor,
    timeout_s: float,
    progress: Progress,
) -> tuple[int, int]:
    """(size in px, channels): the size by the median of a sample, one channel only if every picture is grey.

    The sample is the pictures with the smallest image_ids: as good as random, and the same on every machine.
    """
    sides: list[int] = []
    progress.begin(total=len(rows), step="reading headers")
    found_colour = False
    sample = take_rows(rows, np.sort(argsort_image_ids(rows["image_id"])[:AUTO_SAMPLE]))
    for one in _iter_headers(sample, raw_dir, params, pool, timeout_s):
        progress.advance()
        if isinstance(one, ImageHeader):
            sides.append(min(one.width, one.height))
            found_colour = found_colour or not one.is_grey
    if params["channels"] == "auto" and not found_colour:
        for one in _iter_headers(rows, raw_dir, params, pool, timeout_s):
            progress.advance()
            if isinstance(one, ImageHeader) and not one.is_grey:
                found_colour = True
                break
    progress.end()
    median = float(np.median(sides)) if sides else 0.0
    size = next((size for size in AUTO_SIZES_PX if size >= median), AUTO_SIZES_PX[-1])
    return size, 3 if found_colour else 1


def _iter_headers(
    rows: pa.Table, raw_dir: Path, params: Mapping[str, Any], pool: BaseExecutor, timeout_s: float
) -> Iterator[ImageHeader | Rejected]:
    work = partial(read_headers, max_pixels=params["max_pixels"])
    batches = _iter_batches(rows, np.zeros(len(rows), np.int64), raw_dir, "", 0, timeout_s)
    if pool.remote:
        batches = map(with_contents, batches)
    for outcome in run_tasks(pool, work, batches, split_singles=DecodeBatch.split_singles, ahead=CHUNKS_AHEAD * pool.num_workers):
        for part in outcome:
            yield from [part] if isinstance(part, Rejected) else part


@dataclass(frozen=True, slots=True)
class DecodeContext:
    """What decoding needs besides the pictures."""

    raw_dir: Path
    folder: Path
    spec: DecodeSpec
    executor: BaseExecutor
    timeout_s: float
    previous: PreviousDataset
    progress: Progress
    sync: BackgroundSync


def write_pixel_shards(
    work: DecodeContext, rows: pa.Table, refused: list[Rejection]
) -> tuple[pa.Table, DecodedFacts, int]:
    """Decode every row into shards of pixels, or take it over.

    Returns (the rows that are in, with the columns shard and row of the pixels, their facts, how many were
    decoded); `refused` gets the others.
    """
    plan = _plan_shards(rows, work.spec)
    facts = _allocate_facts(len(rows), work.spec.channels, work.folder)
    work.progress.begin(total=len(rows))
    known = work.previous.find_rows(rows["image_id"])
    facts.rejected.update(work.previous.iter_rejections(rows["image_id"]))
    over = np.flatnonzero(known >= 0)
    facts.put_rows(over, work.previous.read_facts(known[over]))
    to_decode = [_prepare_shard(work, number, known, some, facts.rejected) for number, some in enumerate(plan)]
    batches = (
        batch
        for number, ((first, _), todo) in enumerate(zip(plan, to_decode, strict=True))
        for batch in _iter_shard_batches(work, number, rows, first, todo)
    )
    _decode_batches(work, batches, to_decode, facts)
    work.progress.end()
    shards, positions = np.full(len(rows), -1, np.int32), np.full(len(rows), -1, np.int32)
    for number, (first, num) in enumerate(plan):
        good = _exclude_rejected(np.arange(num), facts.rejected, first)
        _close_gaps(work.folder / format.name_pixel_shard(number), good, work.spec)
        shards[first + good], positions[first + good] = number, np.arange(len(good))
    return *_drop_rejected(rows, facts, shards, positions, refused, work.folder), sum(map(len, to_decode))


def _allocate_facts(num: int, channels: int, folder: Path) -> DecodedFacts:
    """Facts.empty in files of `folder`."""
    columns = DecodedFacts.empty(0, channels)[:5]
    return DecodedFacts._make(
        [*(memmap_zeros((num, *one.shape[1:]), one.dtype.type, folder) for one in columns), {}]
    )


def _exclude_rejected(rows: np.ndarray, refused: Mapping[int, object], first: int) -> np.ndarray:
    """The rows that are not refused; those are counted from `first`."""
    return rows[~np.isin(first + rows, np.fromiter(refused, np.int64, len(refused)))] if refused else rows


def _plan_shards(rows: pa.Table, spec: DecodeSpec) -> list[tuple[int, int]]:
    """(first row, number of rows) of each shard of pixels; a new raw shard begins a new one."""
    most = max(1, MAX_PIXEL_SHARD_BYTES // int(np.prod(spec.shape)))
    raw_shards = rows["shard"].to_numpy()
    starts = np.flatnonzero(np.diff(raw_shards, prepend=-1))
    ends = np.append(starts[1:], len(raw_shards))
    return [
        (first, min(most, end - first))
        for start, end in zip(starts.tolist(), ends.tolist(), strict=True)
        for first in range(start, end, most)
    ]


def _prepare_shard(
    work: DecodeContext, number: int, known: np.ndarray, some: tuple[int, int], refused: Mapping[int, object]
) -> np.ndarray:
    """Make one shard's file and take over what is known: the rows of the earlier index, -1 where there is none.

    Returns the rows (numbers in `known`) left to decode.
    """
    first, num = some
    path = work.folder / format.name_pixel_shard(number)
    known = known[first : first + num]
    todo, taken = _exclude_rejected(np.flatnonzero(known < 0), refused, first), np.flatnonzero(known >= 0)
    work.progress.advance(num - len(todo))
    if len(todo) == 0 and work.previous.link_shard(known[taken], path):
        return todo
    _reserve_shard(path, num, work.spec)
    work.previous.copy_pixels(known[taken], path, format.NPY_HEADER_BYTES + taken * int(np.prod(work.spec.shape)))
    return (first + todo).astype(np.int32)


def _reserve_shard(path: Path, num_pictures: int, spec: DecodeSpec) -> None:
    with path.open("wb") as file:
        file.write(format.build_npy_header((num_pictures, *spec.shape)))
        file.truncate(format.NPY_HEADER_BYTES + num_pictures * int(np.prod(spec.shape)))


def _iter_shard_batches(
    work: DecodeContext, number: int, rows: pa.Table, first: int, todo: np.ndarray
) -> Iterator[DecodeBatch]:
    row_bytes = int(np.prod(work.spec.shape))
    out_offsets = format.NPY_HEADER_BYTES + (todo - first) * row_bytes
    out_file = str(work.folder / format.name_pixel_shard(number))
    for start in range(0, len(todo), ROWS_AT_ONCE):
        some = slice(start, start + ROWS_AT_ONCE)
        part = take_rows(rows.select(["image_id", "shard", "offset", "size"]), todo[some])
        yield from _iter_batches(part, out_offsets[some], work.raw_dir, out_file, row_bytes, work.timeout_s)


def _iter_batches(
    rows: pa.Table, out_offsets: np.ndarray, raw_dir: Path, out_file: str, row_bytes: int, timeout_s: float
) -> Iterator[DecodeBatch]:
    """Cut rows (in raw order) into batches of one raw shard each."""
    shards, offsets, sizes = (rows[column].to_numpy() for column in ("shard", "offset", "size"))
    cost = np.maximum(sizes / BATCH_BYTES, row_bytes / BATCH_PIXEL_BYTES) + 1 / 4096
    number = np.floor(np.cumsum(cost)).astype(np.int64)
    starts = np.flatnonzero((np.diff(number, prepend=-1) != 0) | (np.diff(shards, prepend=-1) != 0))
    for start, end in zip(starts.tolist(), np.append(starts[1:], len(sizes)).tolist(), strict=False):
        image_ids = _to_digests(rows["image_id"].slice(start, end - start))
        yield DecodeBatch(
            str(raw_dir / raw_shards.name_raw_shard(int(shards[start]))),
            image_ids,
            offsets[start:end].tolist(),
            sizes[start:end].tolist(),
            out_file,
            out_offsets[start:end].tolist(),
            timeout_s,
        )


def _to_digests(image_ids: pa.ChunkedArray) -> list[bytes]:
    digests = b"".join(bytes.fromhex(to_utf8_bytes(chunk).tobytes().decode()) for chunk in image_ids.chunks)
    return [digests[start : start + 32] for start in range(0, len(digests), 32)]


def _decode_batches(
    work: DecodeContext, batches: Iterator[DecodeBatch], to_decode: list[np.ndarray], facts: DecodedFacts
) -> None:
    """Have the batches decoded; their pictures are the rows `to_decode` of each shard, in order."""
    todo, ends = np.concatenate([*to_decode, np.empty(0, np.int32)]), np.cumsum([*map(len, to_decode)])
    position = 0
    for part in _iter_decoded_facts(work, batches):
        rows = todo[position : position + len(part.widths)]
        facts.put_rows(rows, part)
        whole = np.flatnonzero((ends > position) & (ends <= position + len(rows)))
        position += len(rows)
        for number in whole.tolist():
            work.sync.submit(work.folder / format.name_pixel_shard(number))
        work.progress.advance(len(rows))


def _iter_decoded_facts(work: DecodeContext, batches: Iterator[DecodeBatch]) -> Iterator[DecodedFacts]:
    """Have the pixels written; yield the facts of each batch, or of each picture of one that killed its worker."""
    task: Callable[[DecodeBatch], Any] = partial(decode_batch, spec=work.spec)
    if work.executor.remote:
        task, batches = partial(decode_batch_remote, spec=work.spec), map(with_contents, batches)
    for outcome in run_tasks(
        work.executor, task, batches, split_singles=DecodeBatch.split_singles, ahead=CHUNKS_AHEAD * work.executor.num_workers
    ):
        for part in outcome:
            if isinstance(part, Rejected):
                yield DecodedFacts.empty(1, work.spec.channels)._replace(rejected={0: (part.reason, part.detail)})
            elif work.executor.remote:
                batch, pixels, facts = part
                write_batch(batch, pixels)
                yield facts
            else:
                yield part


def _close_gaps(path: Path, good: np.ndarray, spec: DecodeSpec) -> None:
    """Move the pixels of the good rows together where others between them were refused."""
    row_bytes = int(np.prod(spec.shape))
    if path.stat().st_size == format.NPY_HEADER_BYTES + len(good) * row_bytes:
        return
    with path.open("r+b") as file:
        descriptor = file.fileno()
        for position, row in enumerate(good.tolist()):
            if position != row:
                pixels = os.pread(descriptor, row_bytes, format.NPY_HEADER_BYTES + row * row_bytes)
                os.pwrite(descriptor, pixels, format.NPY_HEADER_BYTES + position * row_bytes)
        file.truncate(format.NPY_HEADER_BYTES + len(good) * row_bytes)
        os.pwrite(descriptor, format.build_npy_header((len(good), *spec.shape)), 0)


def _drop_rejected(
    rows: pa.Table,
    facts: DecodedFacts,
    shards: np.ndarray,
    positions: np.ndarray,
    refused: list[Rejection],
    folder: Path,
) -> tuple[pa.Table, DecodedFacts]:
    """Take the refused rows out; the column `number` then says which rows are left."""
    bad = take_rows(rows.select(["uri", "image_id"]), np.fromiter(facts.rejected, np.int64, len(facts.rejected)))
    refused += [
        Rejection(row["uri"], row["image_id"], *why)
        for row, why in zip(bad.to_pylist(), facts.rejected.values(), strict=True)
    ]
    rows = rows.drop_columns(["shard", "offset", "size"])
    rows = rows.append_column("shard", pa.array(shards)).append_column("row", pa.array(positions))
    if facts.rejected:
        rows = rows.append_column("number", pa.array(np.arange(len(rows), dtype=np.int32)))
        good = np.flatnonzero(positions >= 0)
        rows = write_arrow(iter_slices(rows, good), rows.schema, folder)
        facts = facts.take_rows(good)
    return rows, facts
