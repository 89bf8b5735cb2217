"""What a worker does: read pictures from a raw shard, decode them, and write them into a shard of pixels."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import islice
from typing import NamedTuple

import numpy as np

from imageset.decoding.decoder import decode_into, decode_with_size, read_image_header
from imageset.decoding.phash import MAX_HASHED_SIDE_PX, compute_phashes, hash_waves, transform_columns
from imageset.decoding.spec import DecodeSpec, ImageHeader
from imageset.exceptions import UserError
from imageset.executors.limits import limit_memory, set_timer
from imageset.rejections import Rejected
from imageset.utils.memory import reuse_buffer

READ_BYTES = 256 << 10  # of raw data at a time
COPY_BELOW_BYTES = 16 << 10  # bytes that are copied sooner than looked at through a view
GROUP_BYTES = 512 << 10  # of pixels at a time
FLOATS_AT_ONCE = 1 << 18  # numbers at a time


@dataclass(frozen=True, slots=True)
class DecodeBatch:
    """Pictures that lie one after the other in one raw shard, and where their pixels go.

    Attributes:
        raw_file: the raw shard.
        image_ids: their SHA-256, 32 bytes each.
        offsets, sizes: of their bytes in the raw shard.
        out_file: the shard of pixels.
        out_offsets: where each picture's pixels begin in it.
        timeout_s: for one picture.
        contents: their bytes, where the raw shard is out of the worker's reach.
    """

    raw_file: str
    image_ids: list[bytes]
    offsets: list[int]
    sizes: list[int]
    out_file: str
    out_offsets: list[int]
    timeout_s: float
    contents: list[bytes] | None = None

    def __len__(self) -> int:
        return len(self.offsets)

    def split_singles(self) -> list[DecodeBatch]:
        """One batch for each picture."""
        return [
            DecodeBatch(
                self.raw_file,
                [self.image_ids[one]],
                [self.offsets[one]],
                [self.sizes[one]],
                self.out_file,
                [self.out_offsets[one]],
                self.timeout_s,
                None if self.contents is None else [self.contents[one]],
            )
            for one in range(len(self))
        ]


class DecodedFacts(NamedTuple):
    """What is known of N pictures once they are decoded.

    widths, heights: int32 (N,), px, of the pictures themselves, 0 where refused.
    phashes: uint64 (N,).
    sums, square_sums: int64 (N, C), of the normalized pixels.
    refused: position -> (reason, detail).
    """

    widths: np.ndarray
    heights: np.ndarray
    phashes: np.ndarray
    sums: np.ndarray
    square_sums: np.ndarray
    rejected: dict[int, tuple[str, str]]

    @classmethod
    def empty(cls, num: int, channels: int) -> DecodedFacts:
        """Facts of pictures of which nothing is known yet."""
        return cls(
            np.zeros(num, np.int32),
            np.zeros(num, np.int32),
            np.zeros(num, np.uint64),
            np.zeros((num, channels), np.int64),
            np.zeros((num, channels), np.int64),
            {},
        )

    def put_rows(self, positions: np.ndarray, facts: DecodedFacts) -> None:
        """Write the facts of some pictures at these positions."""
        for mine, theirs in zip(self[:5], facts[:5], strict=True):
            mine[positions] = theirs
        self.rejected.update((int(positions[one]), why) for one, why in facts.rejected.items())

    def take_rows(self, positions: np.ndarray) -> DecodedFacts:
        """The facts of the pictures at these positions, none of which is refused."""
        return DecodedFacts(
            self.widths[positions],
            self.heights[positions],
            self.phashes[positions],
            self.sums[positions],
            self.square_sums[positions],
            {},
        )


def decode_batch(batch: DecodeBatch, spec: DecodeSpec) -> DecodedFacts:
    """Decode a batch and write its pixels; a picture that cannot be decoded leaves its place empty.

    Raises:
        UserError: the raw shard does not hold the bytes that were ingested.
    """
    facts = DecodedFacts.empty(len(batch), spec.channels)
    descriptor = os.open(batch.out_file, os.O_WRONLY | os.O_CLOEXEC)
    try:
        for first, pixels in _iter_decoded_pixels(batch, spec, facts):
            _write_pixels(descriptor, pixels, batch.out_offsets[first : first + len(pixels)])
    finally:
        os.close(descriptor)
    return facts


def decode_batch_remote(batch: DecodeBatch, spec: DecodeSpec) -> tuple[DecodeBatch, np.ndarray, DecodedFacts]:
    """The same for a batch that carries its bytes; (the batch without them, what write_batch wants, the facts)."""
    facts = DecodedFacts.empty(len(batch), spec.channels)
    pixels = np.empty((len(batch), *spec.shape), np.uint8)
    for first, some in _iter_decoded_pixels(batch, spec, facts):
        pixels[first : first + len(some)] = some
    return replace(batch, contents=None), pixels, facts


def with_contents(batch: DecodeBatch) -> DecodeBatch:
    """The batch with its bytes, fit to travel to another machine."""
    return replace(batch, contents=[bytes(data) for data in _iter_contents(batch)])


def _iter_decoded_pixels(
    batch: DecodeBatch, spec: DecodeSpec, facts: DecodedFacts
) -> Iterator[tuple[int, np.ndarray]]:
    """(number of the first, pixels) of some pictures at a time, few enough to stay in the processor's cache.

    The pixels are good until the next are asked for; the facts are filled in.
    """
    limit_memory(spec.max_pixels)
    row_bytes = int(np.prod(spec.shape))
    most = min(len(batch), max(1, GROUP_BYTES // row_bytes))
    room = reuse_buffer(most * row_bytes, "group").reshape(most, *spec.shape)
    contents = _iter_contents(batch)
    for first in range(0, len(batch), most):
        pixels = room[: len(batch) - first]
        for position, data in enumerate(islice(contents, len(pixels))):
            set_timer(batch.timeout_s)
            try:
                sides = decode_into(pixels[position], data, spec)
            except Rejected as rejected:
                facts.rejected[first + position] = rejected.reason, rejected.detail
                pixels[position] = 0
            else:
                facts.widths[first + position], facts.heights[first + position] = sides
        _fill_hashes_and_sums(pixels, facts, first)
        yield first, pixels
    set_timer(0)


def read_headers(batch: DecodeBatch, max_pixels: int) -> list[ImageHeader | Rejected]:
    """Read the headers of a batch."""
    limit_memory(max_pixels)
    found: list[ImageHeader | Rejected] = []
    for data in _iter_contents(batch):
        set_timer(batch.timeout_s)
        try:
            found.append(read_image_header(data, max_pixels))
        except Rejected as rejected:
            found.append(rejected)
    set_timer(0)
    return found


def measure_image(data: bytes, spec: DecodeSpec) -> tuple[int, int, int, np.ndarray]:
    """(width, height, perceptual hash, pixels) of one picture.

    Raises:
        Rejected: it cannot be decoded.
    """
    limit_memory(spec.max_pixels)
    pixels, width, height = decode_with_size(data, spec)
    return width, height, int(compute_phashes(pixels[None].astype(np.float32))[0]), pixels


def _iter_contents(batch: DecodeBatch) -> Iterator[bytes | memoryview]:
    """The bytes of each picture, never believed unseen, and good until the next are asked for."""
    contents: Iterable[bytes | memoryview] = batch.contents or _iter_raw_bytes(batch)
    for image_id, data in zip(batch.image_ids, contents, strict=True):
        if hashlib.sha256(data).digest() != image_id:
            raise _build_corruption_error(batch)
        yield data


def _iter_raw_bytes(batch: DecodeBatch) -> Iterator[bytes | memoryview]:
    """The bytes of each picture, in one go where they lie close together; good until the next are asked for."""
    try:
        descriptor = os.open(batch.raw_file, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise _build_corruption_error(batch) from None
    try:
        first = 0
        while first < len(batch):
            start, stop = batch.offsets[first], first + 1
            end = start + batch.sizes[first]
            while stop < len(batch) and batch.offsets[stop] + batch.sizes[stop] - start <= READ_BYTES:
                end = batch.offsets[stop] + batch.sizes[stop]
                stop += 1
            view = memoryview(reuse_buffer(end - start, "reading"))  # type: ignore[arg-type]
            _pread_into(descriptor, view, start)
            for one in range(first, stop):
                offset = batch.offsets[one] - start
                data = view[offset : offset + batch.sizes[one]]
                yield data if batch.sizes[one] > COPY_BELOW_BYTES else bytes(data)
            first = stop
    finally:
        os.close(descriptor)


def _pread_into(descriptor: int, view: memoryview, offset: int) -> None:
    """Fill the view as far as the file goes; what is missing is noticed by its SHA-256."""
    while view and (num := os.preadv(descriptor, [view], offset)):
        view, offset = view[num:], offset + num


def _build_corruption_error(batch: DecodeBatch) -> UserError:
    return UserError(
        f"{batch.raw_file}: missing, or not the bytes that were ingested; restore it with "
        "`dvc checkout`, or ingest the source again"
    )


def write_batch(batch: DecodeBatch, pixels: np.ndarray) -> None:
    """(N, H, W, C) to their places."""
    descriptor = os.open(batch.out_file, os.O_WRONLY | os.O_CLOEXEC)
    try:
        _write_pixels(descriptor, pixels, batch.out_offsets)
    finally:
        os.close(descriptor)


def _write_pixels(descriptor: int, pixels: np.ndarray, offsets: list[int]) -> None:
    """(N, H, W, C) to these offsets of a file; neighbours in one go."""
    if offsets[-1] - offsets[0] == pixels[0].nbytes * (len(pixels) - 1):
        _pwrite_all(descriptor, pixels, offsets[0])
    else:
        for one, offset in zip(pixels, offsets, strict=True):
            _pwrite_all(descriptor, one, offset)


def _pwrite_all(descriptor: int, pixels: np.ndarray, offset: int) -> None:
    left = memoryview(pixels.reshape(-1))  # type: ignore[arg-type]
    while left:
        num = os.pwrite(descriptor, left, offset)
        left, offset = left[num:], offset + num


def _fill_hashes_and_sums(pixels: np.ndarray, facts: DecodedFacts, first: int) -> None:
    """Fill in hashes and exact sums of the pictures from number `first` on.

    Down up to 256 squares a sum is exact in single precision (below 2^24).
    """
    num, side, _, channels = pixels.shape
    small = side <= MAX_HASHED_SIDE_PX
    kind = np.float32 if small else np.float64
    step = max(1, FLOATS_AT_ONCE // pixels[0].size)  # pictures at a time: the floating copy stays in the cache
    room = reuse_buffer(min(step, num) * pixels[0].size * np.dtype(kind).itemsize, "floats").view(kind)
    ones = np.ones((1, side), kind)
    for start in range(0, num, step):
        part = pixels[start : start + step]
        values = room[: part.size].reshape(part.shape)
        np.copyto(values, part)
        some = slice(first + start, first + start + len(part))
        waves = transform_columns(values)
        facts.phashes[some] = hash_waves(waves[:, :-1], channels)
        rows = values.reshape(len(part), side, -1)  # (n, S, S*C)
        facts.sums[some] = _sum_by_channel(waves[:, -1:] if small else ones @ rows, channels)
        facts.square_sums[some] = _sum_by_channel(ones @ np.multiply(rows, rows, out=rows), channels)
    for position in facts.rejected:
        if position >= first:
            for column in facts[:5]:
                column[position] = 0


def _sum_by_channel(sums: np.ndarray, channels: int) -> np.ndarray:
    """(n, 1, S*C) -> float64 (n, C)."""
    return np.asarray(sums[:, 0].astype(np.float64) @ _build_channel_matrix(sums.shape[2], channels))


@lru_cache(maxsize=8)
def _build_channel_matrix(num: int, channels: int) -> np.ndarray:
    """float64 (num, channels): 1 where a number of interleaved pixels belongs to a channel."""
    return np.tile(np.eye(channels), (num // channels, 1))
