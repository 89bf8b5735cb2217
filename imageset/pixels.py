"""What a worker does: read pictures from a raw shard, decode them, and write them into a shard of pixels."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from imageset.decode import DecodeSpec, Header, Rejected, measure, read_header
from imageset.errors import UserError
from imageset.phash import MOST_SIDE, column_waves, hashes, phashes
from imageset.worker import limit_memory, timer


@dataclass(frozen=True, slots=True)
class Batch:
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

    def alone(self) -> list[Batch]:
        """One batch for each picture."""
        return [
            Batch(
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


class Facts(NamedTuple):
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
    refused: dict[int, tuple[str, str]]

    @classmethod
    def empty(cls, num: int, channels: int) -> Facts:
        """Facts of pictures of which nothing is known yet."""
        return cls(
            np.zeros(num, np.int32),
            np.zeros(num, np.int32),
            np.zeros(num, np.uint64),
            np.zeros((num, channels), np.int64),
            np.zeros((num, channels), np.int64),
            {},
        )

    def put(self, positions: np.ndarray, facts: Facts) -> None:
        """Write the facts of some pictures at these positions."""
        for mine, theirs in zip(self[:5], facts[:5], strict=True):
            mine[positions] = theirs
        self.refused.update((int(positions[one]), why) for one, why in facts.refused.items())

    def take(self, positions: np.ndarray) -> Facts:
        """The facts of the pictures at these positions, none of which is refused."""
        return Facts(
            self.widths[positions],
            self.heights[positions],
            self.phashes[positions],
            self.sums[positions],
            self.square_sums[positions],
            {},
        )


def develop(batch: Batch, spec: DecodeSpec) -> Facts:
    """Decode a batch and write its pixels; a picture that cannot be decoded leaves its place empty.

    Raises:
        UserError: the raw shard does not hold the bytes that were ingested.
    """
    pixels, facts = _developed(batch, spec)
    write_batch(batch, pixels)
    return facts


def develop_afar(batch: Batch, spec: DecodeSpec) -> tuple[Batch, np.ndarray, Facts]:
    """The same for a batch that carries its bytes; (the batch without them, what write_batch wants, the facts)."""
    pixels, facts = _developed(batch, spec)
    return replace(batch, contents=None), pixels, facts


def carried(batch: Batch) -> Batch:
    """The batch with its bytes, fit to travel to another machine."""
    return replace(batch, contents=list(_contents(batch)))


def _developed(batch: Batch, spec: DecodeSpec) -> tuple[np.ndarray, Facts]:
    limit_memory(spec.max_pixels)
    pixels = np.zeros((len(batch), *spec.shape), np.uint8)
    facts = Facts.empty(len(batch), spec.channels)
    for position, data in enumerate(_contents(batch)):
        timer(batch.timeout_s)
        try:
            pixels[position], facts.widths[position], facts.heights[position] = measure(data, spec)
        except Rejected as rejected:
            facts.refused[position] = rejected.reason, rejected.detail
    timer(0)
    _summarize(pixels, facts)
    return pixels, facts


def headers(batch: Batch, max_pixels: int) -> list[Header | Rejected]:
    """Read the headers of a batch."""
    limit_memory(max_pixels)
    found: list[Header | Rejected] = []
    for data in _contents(batch):
        timer(batch.timeout_s)
        try:
            found.append(read_header(data, max_pixels))
        except Rejected as rejected:
            found.append(rejected)
    timer(0)
    return found


def look(data: bytes, spec: DecodeSpec) -> tuple[int, int, int, np.ndarray]:
    """(width, height, perceptual hash, pixels) of one picture.

    Raises:
        Rejected: it cannot be decoded.
    """
    limit_memory(spec.max_pixels)
    pixels, width, height = measure(data, spec)
    return width, height, int(phashes(pixels[None].astype(np.float32))[0]), pixels


def _contents(batch: Batch) -> Iterator[bytes]:
    """The bytes of each picture, never believed unseen."""
    for image_id, data in zip(batch.image_ids, batch.contents or _read(batch), strict=True):
        if hashlib.sha256(data).digest() != image_id:
            raise _rotten(batch)
        yield data


def _read(batch: Batch) -> Iterator[bytes]:
    """The bytes of each picture, in one go where they lie close together."""
    try:
        descriptor = os.open(batch.raw_file, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise _rotten(batch) from None
    try:
        start, end = min(batch.offsets), batch.offsets[-1] + batch.sizes[-1]
        span = b""
        if end - start <= 2 * sum(batch.sizes) + 2048 * len(batch):
            span = os.pread(descriptor, end - start, start)
        for offset, size in zip(batch.offsets, batch.sizes, strict=True):
            yield span[offset - start : offset - start + size] if span else os.pread(descriptor, size, offset)
    finally:
        os.close(descriptor)


def _rotten(batch: Batch) -> UserError:
    return UserError(
        f"{batch.raw_file}: missing, or not the bytes that were ingested; restore it with "
        "`dvc checkout`, or ingest the source again"
    )


def write_batch(batch: Batch, pixels: np.ndarray) -> None:
    """(N, H, W, C) to their places; neighbours in one go."""
    descriptor = os.open(batch.out_file, os.O_WRONLY | os.O_CLOEXEC)
    try:
        row_bytes = pixels[0].nbytes
        if batch.out_offsets[-1] - batch.out_offsets[0] == row_bytes * (len(batch) - 1):
            _pwrite(descriptor, pixels, batch.out_offsets[0])
        else:
            for one, offset in zip(pixels, batch.out_offsets, strict=True):
                _pwrite(descriptor, one, offset)
    finally:
        os.close(descriptor)


def _pwrite(descriptor: int, pixels: np.ndarray, offset: int) -> None:
    left = memoryview(pixels.reshape(-1))  # type: ignore[arg-type]
    while left:
        num = os.pwrite(descriptor, left, offset)
        left, offset = left[num:], offset + num


def _summarize(pixels: np.ndarray, facts: Facts) -> None:
    """Fill in hashes and exact sums: down up to 256 squares a sum is exact in single precision (below 2^24)."""
    num, side, _, channels = pixels.shape
    kind = np.float32 if side <= MOST_SIDE else np.float64
    step = max(1, (1 << 18) // pixels[0].size)  # pictures at a time: the floating copy stays in the cache
    buffer = np.empty((min(step, num), *pixels.shape[1:]), kind)  # used again: new memory costs more
    ones = np.ones((1, side), kind)
    waves = []
    for first in range(0, num, step):
        some = slice(first, first + step)
        values = buffer[: len(pixels[some])]
        np.copyto(values, pixels[some])
        waves.append(column_waves(values))
        rows = values.reshape(len(values), side, -1)  # (n, S, S*C)
        facts.sums[some] = _by_channel(ones @ rows, channels)
        facts.square_sums[some] = _by_channel(ones @ np.multiply(rows, rows, out=rows), channels)
    facts.phashes[:] = hashes(np.concatenate(waves), channels)
    for position in facts.refused:
        for column in facts[:5]:
            column[position] = 0


def _by_channel(sums: np.ndarray, channels: int) -> np.ndarray:
    """(n, 1, S*C) -> float64 (n, C)."""
    return np.asarray(sums.reshape(len(sums), -1, channels).sum(1, dtype=np.float64))
