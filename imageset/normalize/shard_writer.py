"""The choice of the decode parameters, the plan of the .npy shards, and their writer."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from imageset.decoding.bit_depth import choose_ranges
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

AUTO_SAMPLE = 2000  # images whose headers determine `size_px: auto`
MAX_PIXEL_SHARD_BYTES = 128 << 20
BATCH_BYTES = 1 << 20  # of raw data in a worker's task
BATCH_PIXEL_BYTES = 2 << 20  # of pixels in a worker's task


def choose_decode_spec(
    params: Mapping[str, Any],
    raw_dir: Path,
    rows: pa.Table,
    executor: BaseExecutor,
    timeout_s: float,
    progress: Progress,
) -> DecodeSpec:
    """Return the decode parameters; `auto` is replaced by a choice based on the images' headers.

    Args:
        params: the section `normalize` of params.yaml.
        raw_dir: the ingested raw data.
        rows: the images to decode.
        executor: reads the headers.
        timeout_s: seconds for one image.
        progress: shows the headers that are read.
    """
    size, channels = params["size_px"], params["channels"]
    if "auto" in (size, channels):
        auto_size, auto_channels = _measure_headers(rows, raw_dir, params, executor, timeout_s, progress)
        size = auto_size if size == "auto" else size
        channels = auto_channels if channels == "auto" else channels
    return DecodeSpec(
        size, channels, params["fit"], params["interpolation"], params["max_pixels"], params["fidelity"]
    )


def _measure_headers(
    rows: pa.Table,
    raw_dir: Path,
    params: Mapping[str, Any],
    executor: BaseExecutor,
    timeout_s: float,
    progress: Progress,
) -> tuple[int, int]:
    """Return (size in pixels, channels), as the headers suggest.

    The size follows from the median of a sample; channels is 1 only if every image is grey. The sample is the
    images with the smallest image_ids: as good as random, and the same on every machine.
    """
    sides: list[int] = []
    progress.begin(total=len(rows), step="reading headers")
    has_colour = False
    sample = take_rows(rows, select_auto_sample(rows["image_id"]))
    for header in _iter_headers(sample, raw_dir, params, executor, timeout_s):
        progress.advance()
        if isinstance(header, ImageHeader):
            sides.append(min(header.width, header.height))
            has_colour = has_colour or not header.is_grey
    if params["channels"] == "auto" and not has_colour:
        for header in _iter_headers(rows, raw_dir, params, executor, timeout_s):
            progress.advance()
            if isinstance(header, ImageHeader) and not header.is_grey:
                has_colour = True
                break
    progress.end()
    return choose_auto_size(sides), 3 if has_colour else 1


def select_auto_sample(image_ids: pa.ChunkedArray) -> np.ndarray:
    """Return the positions, int (n,), of the images whose headers determine `size_px: auto`."""
    return np.sort(argsort_image_ids(image_ids)[:AUTO_SAMPLE])


def choose_auto_size(short_sides_px: Sequence[int] | np.ndarray) -> int:
    """Return the smallest size that is not below the median of the short sides."""
    median = float(np.median(short_sides_px)) if len(short_sides_px) else 0.0
    return next((size for size in AUTO_SIZES_PX if size >= median), AUTO_SIZES_PX[-1])


def _iter_headers(
    rows: pa.Table, raw_dir: Path, params: Mapping[str, Any], executor: BaseExecutor, timeout_s: float
) -> Iterator[ImageHeader | Rejected]:
    task = partial(read_headers, max_pixels=params["max_pixels"])
    batches = _iter_batches(rows, np.zeros(len(rows), np.int64), raw_dir, "", 0, timeout_s)
    if executor.remote:
        batches = map(with_contents, batches)
    ahead = CHUNKS_AHEAD * executor.num_workers
    for outcome in run_tasks(executor, task, batches, split_singles=DecodeBatch.split_singles, ahead=ahead):
        for headers in outcome:
            yield from [headers] if isinstance(headers, Rejected) else headers


@dataclass(frozen=True, slots=True)
class DecodeContext:
    """The settings and resources of decoding.

    Attributes:
        raw_dir: the ingested raw data.
        folder: of the new dataset.
        spec: the decode parameters.
        executor: runs the tasks.
        timeout_s: seconds for one image.
        previous: the dataset whose pixels are reused.
        progress: shows the images that are decoded.
        sync: writes finished shards to disk.
    """

    raw_dir: Path
    folder: Path
    spec: DecodeSpec
    executor: BaseExecutor
    timeout_s: float
    previous: PreviousDataset
    progress: Progress
    sync: BackgroundSync


def write_pixel_shards(
    context: DecodeContext, rows: pa.Table, rejections: list[Rejection]
) -> tuple[pa.Table, DecodedFacts, int, DecodeSpec]:
    """Write the pixels of every row into shards: decoded, or reused from the previous dataset.

    Args:
        context: the settings and resources.
        rows: the images to decode, in raw order.
        rejections: the images that cannot be decoded are appended to it.

    Returns:
        (the rows that are in the shards, with the columns shard and row of their pixels, their facts, the number
        of images that were decoded, the decode parameters with the ranges that contain all values).
    """
    plan = _plan_shards(rows, context.spec)
    facts = _allocate_facts(len(rows), context.spec.channels, context.folder)
    context.progress.begin(total=len(rows))
    known = context.previous.find_rows(rows["image_id"])
    facts.rejected.update(context.previous.iter_rejections(rows["image_id"]))
    reused = np.flatnonzero(known >= 0)
    facts.put_rows(reused, context.previous.read_facts(known[reused]))
    first_spec = choose_ranges(context.spec, facts.list_highest_peaks())
    known[_find_stale(facts, context.previous.spec, first_spec)] = -1
    context = replace(context, spec=first_spec)
    to_decode = [
        _prepare_shard(context, number, known, rows_of_shard, facts.rejected)
        for number, rows_of_shard in enumerate(plan)
    ]
    _decode_rows(context, rows, plan, to_decode, facts)
    context.progress.end()
    again = _decode_stale_rows(context, rows, plan, facts)
    num_decoded = len(np.unique(np.concatenate([*to_decode, again])))
    spec = choose_ranges(context.spec, facts.list_highest_peaks())
    shards, positions = np.full(len(rows), -1, np.int32), np.full(len(rows), -1, np.int32)
    for number, (first, num) in enumerate(plan):
        good = _exclude_rejected(np.arange(num), facts.rejected, first)
        _close_gaps(context.folder / format.name_pixel_shard(number), good, context.spec)
        shards[first + good], positions[first + good] = number, np.arange(len(good))
    return *_drop_rejected(rows, facts, shards, positions, rejections, context.folder), num_decoded, spec


def _find_stale(facts: DecodedFacts, used: DecodeSpec, wanted: DecodeSpec) -> np.ndarray:
    """Return the rows, int64 (n,), whose pixels are made with another range than the wanted one."""
    is_stale = np.zeros(len(facts.peaks), bool)
    for is_float in (False, True):
        field = "float_max" if is_float else "integer_max"
        if getattr(used, field) != getattr(wanted, field):
            is_stale |= facts.find_peaks(is_float)
    return np.flatnonzero(is_stale)


def _decode_stale_rows(
    context: DecodeContext, rows: pa.Table, plan: list[tuple[int, int]], facts: DecodedFacts
) -> np.ndarray:
    """Decode the rows again whose range turned out to be another one; return them, int32 (n,)."""
    wanted = choose_ranges(context.spec, facts.list_highest_peaks())
    stale = _find_stale(facts, context.spec, wanted).astype(np.int32)
    if not len(stale):
        return stale
    context.progress.begin(total=len(stale), step="scaling 16-bit pictures")
    ends = np.cumsum([num for _, num in plan])
    by_shard = [part.astype(np.int32) for part in np.split(stale, np.searchsorted(stale, ends[:-1]))]
    for number, part in enumerate(by_shard):
        if len(part):
            _unlink_from_previous(context.folder / format.name_pixel_shard(number))
            context.previous.linked_digests.pop(format.name_pixel_shard(number), None)
    _decode_rows(replace(context, spec=wanted), rows, plan, by_shard, facts)
    context.progress.end()
    return stale


def _unlink_from_previous(path: Path) -> None:
    """Make a shard that is linked to the previous dataset a file of its own, so that it can be written to."""
    if path.stat().st_nlink > 1:
        copy = path.with_name(f".{path.name}.copy")
        shutil.copyfile(path, copy)
        os.replace(copy, path)


def _decode_rows(
    context: DecodeContext,
    rows: pa.Table,
    plan: list[tuple[int, int]],
    to_decode: list[np.ndarray],
    facts: DecodedFacts,
) -> None:
    """Decode rows into their shards; `to_decode` holds the rows of each shard."""
    batches = (
        batch
        for number, ((first, _), todo) in enumerate(zip(plan, to_decode, strict=True))
        for batch in _iter_shard_batches(context, number, rows, first, todo)
    )
    _decode_batches(context, batches, to_decode, facts)


def _allocate_facts(num: int, channels: int, folder: Path) -> DecodedFacts:
    """Return `DecodedFacts.empty`, with arrays in files of `folder`."""
    columns = DecodedFacts.empty(0, channels)[:-1]
    facts = DecodedFacts._make(
        [*(memmap_zeros((num, *column.shape[1:]), column.dtype.type, folder) for column in columns), {}]
    )
    facts.peaks[:] = -1
    return facts


def _exclude_rejected(rows: np.ndarray, rejected: Mapping[int, object], first: int) -> np.ndarray:
    """Return the rows, counted from `first`, that are not rejected."""
    if not rejected:
        return rows
    return rows[~np.isin(first + rows, np.fromiter(rejected, np.int64, len(rejected)))]


def _plan_shards(rows: pa.Table, spec: DecodeSpec) -> list[tuple[int, int]]:
    """Return (first row, number of rows) of each pixel shard; a new raw shard begins a new pixel shard."""
    max_rows = max(1, MAX_PIXEL_SHARD_BYTES // int(np.prod(spec.shape)))
    raw_shards = rows["shard"].to_numpy()
    starts = np.flatnonzero(np.diff(raw_shards, prepend=-1))
    ends = np.append(starts[1:], len(raw_shards))
    return [
        (first, min(max_rows, end - first))
        for start, end in zip(starts.tolist(), ends.tolist(), strict=True)
        for first in range(start, end, max_rows)
    ]


def _prepare_shard(
    context: DecodeContext,
    number: int,
    known: np.ndarray,
    rows_of_shard: tuple[int, int],
    rejected: Mapping[int, object],
) -> np.ndarray:
    """Create the file of a pixel shard and copy or link the pixels that can be reused.

    Args:
        context: the settings and resources.
        number: of the shard.
        known: for each image the number of its row in the previous index, or -1.
        rows_of_shard: (first row, number of rows) of the shard.
        rejected: numbers of images that the previous dataset rejected.

    Returns:
        int32, the rows (numbers in `known`) that remain to be decoded.
    """
    first, num = rows_of_shard
    path = context.folder / format.name_pixel_shard(number)
    known = known[first : first + num]
    todo, reused = _exclude_rejected(np.flatnonzero(known < 0), rejected, first), np.flatnonzero(known >= 0)
    context.progress.advance(num - len(todo))
    if len(todo) == 0 and context.previous.link_shard(known[reused], path):
        return todo
    _reserve_shard(path, num, context.spec)
    offsets = format.NPY_HEADER_BYTES + reused * int(np.prod(context.spec.shape))
    context.previous.copy_pixels(known[reused], path, offsets)
    return (first + todo).astype(np.int32)


def _reserve_shard(path: Path, num_images: int, spec: DecodeSpec) -> None:
    with path.open("wb") as file:
        file.write(format.build_npy_header((num_images, *spec.shape)))
        file.truncate(format.NPY_HEADER_BYTES + num_images * int(np.prod(spec.shape)))


def _iter_shard_batches(
    context: DecodeContext, number: int, rows: pa.Table, first: int, todo: np.ndarray
) -> Iterator[DecodeBatch]:
    row_bytes = int(np.prod(context.spec.shape))
    out_offsets = format.NPY_HEADER_BYTES + (todo - first) * row_bytes
    out_file = str(context.folder / format.name_pixel_shard(number))
    for start in range(0, len(todo), ROWS_AT_ONCE):
        batch = slice(start, start + ROWS_AT_ONCE)
        selected = take_rows(rows.select(["image_id", "shard", "offset", "size"]), todo[batch])
        yield from _iter_batches(
            selected, out_offsets[batch], context.raw_dir, out_file, row_bytes, context.timeout_s
        )


def _iter_batches(
    rows: pa.Table, out_offsets: np.ndarray, raw_dir: Path, out_file: str, row_bytes: int, timeout_s: float
) -> Iterator[DecodeBatch]:
    """Split rows, in raw order, into batches of a single raw shard each."""
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
    context: DecodeContext, batches: Iterator[DecodeBatch], to_decode: list[np.ndarray], facts: DecodedFacts
) -> None:
    """Decode the batches and fill in the facts of their images: the rows `to_decode` of each shard, in order."""
    todo, ends = np.concatenate([*to_decode, np.empty(0, np.int32)]), np.cumsum([*map(len, to_decode)])
    position = 0
    for batch_facts in _iter_decoded_facts(context, batches):
        rows = todo[position : position + len(batch_facts.widths)]
        facts.put_rows(rows, batch_facts)
        finished = np.flatnonzero((ends > position) & (ends <= position + len(rows)))
        position += len(rows)
        for number in finished.tolist():
            context.sync.submit(context.folder / format.name_pixel_shard(number))
        context.progress.advance(len(rows))


def _iter_decoded_facts(context: DecodeContext, batches: Iterator[DecodeBatch]) -> Iterator[DecodedFacts]:
    """Decode the batches and write their pixels.

    Yields:
        The facts of each batch, or of each image of a batch that killed its worker.
    """
    task: Callable[[DecodeBatch], Any] = partial(decode_batch, spec=context.spec)
    if context.executor.remote:
        task, batches = partial(decode_batch_remote, spec=context.spec), map(with_contents, batches)
    ahead = CHUNKS_AHEAD * context.executor.num_workers
    for outcome in run_tasks(
        context.executor, task, batches, split_singles=DecodeBatch.split_singles, ahead=ahead
    ):
        for result in outcome:
            if isinstance(result, Rejected):
                rejected = {0: (result.reason, result.detail)}
                yield DecodedFacts.empty(1, context.spec.channels)._replace(rejected=rejected)
            elif context.executor.remote:
                batch, pixels, facts = result
                write_batch(batch, pixels)
                yield facts
            else:
                yield result


def _close_gaps(path: Path, good: np.ndarray, spec: DecodeSpec) -> None:
    """Move the pixels of the good rows together if rows between them were rejected."""
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
    rejections: list[Rejection],
    folder: Path,
) -> tuple[pa.Table, DecodedFacts]:
    """Remove the rejected rows; if there are any, the column `number` holds the earlier numbers of the others."""
    bad = take_rows(rows.select(["uri", "image_id"]), np.fromiter(facts.rejected, np.int64, len(facts.rejected)))
    rejections += [
        Rejection(row["uri"], row["image_id"], *reason_and_detail)
        for row, reason_and_detail in zip(bad.to_pylist(), facts.rejected.values(), strict=True)
    ]
    rows = rows.drop_columns(["shard", "offset", "size"])
    rows = rows.append_column("shard", pa.array(shards)).append_column("row", pa.array(positions))
    if facts.rejected:
        rows = rows.append_column("number", pa.array(np.arange(len(rows), dtype=np.int32)))
        good = np.flatnonzero(positions >= 0)
        rows = write_arrow(iter_slices(rows, good), rows.schema, folder)
        facts = facts.take_rows(good)
    return rows, facts
