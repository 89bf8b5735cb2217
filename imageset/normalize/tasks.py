"""The tasks of a decode worker: read images from a raw shard, decode them, and write them into a pixel shard."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from imageset.decoding.bit_depth import Peak, choose_ranges
from imageset.decoding.decoder import decode_clipped_into, read_image_header
from imageset.decoding.phash import MAX_HASHED_SIDE_PX, compute_phashes, hash_waves, transform_columns
from imageset.decoding.spec import DecodeSpec, ImageHeader
from imageset.exceptions import UserError
from imageset.executors.limits import limit_memory, set_timer
from imageset.rejections import Rejected
from imageset.utils.integrity.file_digests import forget_checks
from imageset.utils.memory import reuse_buffer

READ_BYTES = 256 << 10  # of raw data that are read at once
COPY_BELOW_BYTES = 16 << 10  # a smaller image is copied: that is faster than decoding it through a view
GROUP_BYTES = 512 << 10  # of pixels that are written at once
FLOATS_AT_ONCE = 1 << 18  # numbers that are converted at once


@dataclass(frozen=True, slots=True)
class DecodeBatch:
    """Consecutive images of a raw shard, and the place of their pixels.

    Attributes:
        raw_file: the raw shard.
        image_ids: SHA-256 of each image, 32 bytes.
        offsets: where the bytes of each image start in the raw shard.
        sizes: number of bytes of each image.
        out_file: the pixel shard.
        out_offsets: where the pixels of each image start in it, in bytes.
        timeout_s: seconds for one image.
        contents: the bytes of each image, if the worker cannot read the raw shard.
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
        """Return a batch for each image."""
        return [
            DecodeBatch(
                self.raw_file,
                [self.image_ids[position]],
                [self.offsets[position]],
                [self.sizes[position]],
                self.out_file,
                [self.out_offsets[position]],
                self.timeout_s,
                None if self.contents is None else [self.contents[position]],
            )
            for position in range(len(self))
        ]


class DecodedFacts(NamedTuple):
    """The facts of N decoded images.

    Attributes:
        widths: int32 (N,), in pixels, of the original images, 0 if rejected.
        heights: likewise.
        phashes: uint64 (N,), perceptual hashes.
        sums: int64 (N, C), of the normalized pixels.
        square_sums: int64 (N, C), of the squares of the normalized pixels.
        peaks: float32 (N,), highest values of original images of more than 8 bits a channel, -1 for other images.
        float_peaks: bool (N,), whether the peak is that of floating-point numbers.
        rejected: position -> (reason, detail).
    """

    widths: np.ndarray
    heights: np.ndarray
    phashes: np.ndarray
    sums: np.ndarray
    square_sums: np.ndarray
    peaks: np.ndarray
    float_peaks: np.ndarray
    rejected: dict[int, tuple[str, str]]

    @classmethod
    def empty(cls, num: int, channels: int) -> DecodedFacts:
        """Return the facts of `num` images that are not decoded yet: all zero."""
        return cls(
            np.zeros(num, np.int32),
            np.zeros(num, np.int32),
            np.zeros(num, np.uint64),
            np.zeros((num, channels), np.int64),
            np.zeros((num, channels), np.int64),
            np.full(num, -1, np.float32),
            np.zeros(num, bool),
            {},
        )

    def put_rows(self, positions: np.ndarray, facts: DecodedFacts) -> None:
        """Write the facts of images to these positions."""
        for column, values in zip(self[:-1], facts[:-1], strict=True):
            column[positions] = values
        self.rejected.update((int(positions[row]), reason) for row, reason in facts.rejected.items())

    def take_rows(self, positions: np.ndarray) -> DecodedFacts:
        """Return the facts of the images at these positions, none of which may be rejected."""
        return DecodedFacts._make([*(column[positions] for column in self[:-1]), {}])

    def find_peaks(self, is_float: bool) -> np.ndarray:
        """Return bool (N,): which images have more than 8 bits, as integers or as floating-point numbers."""
        return (self.peaks >= 0) & (self.float_peaks == is_float)

    def list_highest_peaks(self) -> list[Peak]:
        """Return the highest peak of the images of integers, and that of images of floating-point numbers."""
        found = ((is_float, self.peaks[self.find_peaks(is_float)]) for is_float in (False, True))
        return [Peak(float(peaks.max()), is_float) for is_float, peaks in found if len(peaks)]


def decode_batch(batch: DecodeBatch, spec: DecodeSpec) -> DecodedFacts:
    """Decode a batch and write its pixels; the place of an image that cannot be decoded holds zeros.

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
    """Decode a batch that carries its bytes, without writing the pixels.

    Returns:
        (the batch without its bytes, the pixels for `write_batch`, uint8 (N, H, W, C), the facts).
    """
    facts = DecodedFacts.empty(len(batch), spec.channels)
    pixels = np.empty((len(batch), *spec.shape), np.uint8)
    for first, group in _iter_decoded_pixels(batch, spec, facts):
        pixels[first : first + len(group)] = group
    return replace(batch, contents=None), pixels, facts


def with_contents(batch: DecodeBatch) -> DecodeBatch:
    """Return the batch with its bytes, for a worker on another machine."""
    return replace(batch, contents=[bytes(data) for data in _iter_contents(batch)])


def _iter_decoded_pixels(
    batch: DecodeBatch, spec: DecodeSpec, facts: DecodedFacts
) -> Iterator[tuple[int, np.ndarray]]:
    """Decode groups of images that fit into the processor's cache, and fill in their facts.

    Yields:
        (number of the first image, pixels uint8 (n, H, W, C)); the pixels are valid until the next step.
    """
    limit_memory(spec.max_pixels)
    row_bytes = int(np.prod(spec.shape))
    group_size = min(len(batch), max(1, GROUP_BYTES // row_bytes))
    buffer = reuse_buffer(group_size * row_bytes, "group").reshape(group_size, *spec.shape)
    contents = _iter_contents(batch)
    for first in range(0, len(batch), group_size):
        pixels = buffer[: len(batch) - first]
        for position, data in enumerate(islice(contents, len(pixels))):
            set_timer(batch.timeout_s)
            try:
                width, height, peak = decode_clipped_into(pixels[position], data, spec)
            except Rejected as rejected:
                facts.rejected[first + position] = rejected.reason, rejected.detail
                pixels[position] = 0
            else:
                facts.widths[first + position], facts.heights[first + position] = width, height
                if peak is not None:
                    facts.peaks[first + position], facts.float_peaks[first + position] = peak
        _fill_hashes_and_sums(pixels, facts, first)
        yield first, pixels
    set_timer(0)


def read_headers(batch: DecodeBatch, max_pixels: int) -> list[ImageHeader | Rejected]:
    """Read the headers of a batch; a rejected image has a Rejected in its place."""
    limit_memory(max_pixels)
    headers: list[ImageHeader | Rejected] = []
    for data in _iter_contents(batch):
        set_timer(batch.timeout_s)
        try:
            headers.append(read_image_header(data, max_pixels))
        except Rejected as rejected:
            headers.append(rejected)
    set_timer(0)
    return headers


def try_to_decode(data: bytes, max_pixels: int) -> None:
    """Decode an image and forget it.

    Raises:
        Rejected: the image cannot be decoded.
    """
    limit_memory(max_pixels)
    spec = DecodeSpec(32, 3, "stretch", "bilinear", max_pixels)
    decode_clipped_into(np.empty(spec.shape, np.uint8), data, spec)


def measure_image(data: bytes, spec: DecodeSpec) -> tuple[ImageHeader, int, np.ndarray, Peak | None]:
    """Decode a single image; one of more than 8 bits a channel with the range of its own values.

    Returns:
        (header of the original image, perceptual hash, pixels uint8 (H, W, C), highest value of an image of more
        than 8 bits a channel).

    Raises:
        Rejected: the image cannot be decoded.
    """
    limit_memory(spec.max_pixels)
    pixels = np.empty(spec.shape, np.uint8)
    *_, peak = decode_clipped_into(pixels, data, spec)
    if peak and (own := choose_ranges(spec, [peak])) != spec:
        decode_clipped_into(pixels, data, own)
    phash = int(compute_phashes(pixels[None].astype(np.float32))[0])
    return read_image_header(data, spec.max_pixels), phash, pixels, peak


def _iter_contents(batch: DecodeBatch) -> Iterator[bytes | memoryview]:
    """Yield the bytes of each image after a check of their SHA-256; they are valid until the next step."""
    contents: Iterable[bytes | memoryview] = batch.contents or _iter_raw_bytes(batch)
    for image_id, data in zip(batch.image_ids, contents, strict=True):
        if hashlib.sha256(data).digest() != image_id:
            raise _build_corruption_error(batch)
        yield data


def _iter_raw_bytes(batch: DecodeBatch) -> Iterator[bytes | memoryview]:
    """Yield the bytes of each image, read together if close to each other; they are valid until the next step."""
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
            for position in range(first, stop):
                offset = batch.offsets[position] - start
                data = view[offset : offset + batch.sizes[position]]
                yield data if batch.sizes[position] > COPY_BELOW_BYTES else bytes(data)
            first = stop
    finally:
        os.close(descriptor)


def _pread_into(descriptor: int, view: memoryview, offset: int) -> None:
    """Fill the view up to the end of the file; the check of the SHA-256 detects missing bytes."""
    while view and (num := os.preadv(descriptor, [view], offset)):
        view, offset = view[num:], offset + num


def _build_corruption_error(batch: DecodeBatch) -> UserError:
    path = Path(batch.raw_file)
    forget_checks(path.parent)
    return UserError(f"{path}: missing or damaged; `convoy run` restores it")


def write_batch(batch: DecodeBatch, pixels: np.ndarray) -> None:
    """Write the pixels of a batch, uint8 (N, H, W, C), to their places in the pixel shard."""
    descriptor = os.open(batch.out_file, os.O_WRONLY | os.O_CLOEXEC)
    try:
        _write_pixels(descriptor, pixels, batch.out_offsets)
    finally:
        os.close(descriptor)


def _write_pixels(descriptor: int, pixels: np.ndarray, offsets: list[int]) -> None:
    """Write pixels (N, H, W, C) to these offsets of a file; adjacent images in a single call."""
    if offsets[-1] - offsets[0] == pixels[0].nbytes * (len(pixels) - 1):
        _pwrite_all(descriptor, pixels, offsets[0])
    else:
        for image_pixels, offset in zip(pixels, offsets, strict=True):
            _pwrite_all(descriptor, image_pixels, offset)


def _pwrite_all(descriptor: int, pixels: np.ndarray, offset: int) -> None:
    remaining = memoryview(pixels.reshape(-1))  # type: ignore[arg-type]
    while remaining:
        num = os.pwrite(descriptor, remaining, offset)
        remaining, offset = remaining[num:], offset + num


def _fill_hashes_and_sums(pixels: np.ndarray, facts: DecodedFacts, first: int) -> None:
    """Fill in hashes and exact sums of the images from number `first` on.

    A sum of up to 256 squares down a column stays below 2^24 and is exact in single precision.
    """
    num, side, _, channels = pixels.shape
    small = side <= MAX_HASHED_SIDE_PX
    dtype = np.float32 if small else np.float64
    step = max(1, FLOATS_AT_ONCE // pixels[0].size)  # images at once: the floating-point copy stays in the cache
    buffer = reuse_buffer(min(step, num) * pixels[0].size * np.dtype(dtype).itemsize, "floats").view(dtype)
    ones = np.ones((1, side), dtype)
    for start in range(0, num, step):
        group = pixels[start : start + step]
        values = buffer[: group.size].reshape(group.shape)
        np.copyto(values, group)
        positions = slice(first + start, first + start + len(group))
        waves = transform_columns(values)
        facts.phashes[positions] = hash_waves(waves[:, :-1], channels)
        rows = values.reshape(len(group), side, -1)  # (n, S, S*C)
        facts.sums[positions] = _sum_by_channel(waves[:, -1:] if small else ones @ rows, channels)
        facts.square_sums[positions] = _sum_by_channel(ones @ np.multiply(rows, rows, out=rows), channels)
    for position in facts.rejected:
        if position >= first:
            for column in facts[:5]:
                column[position] = 0


def _sum_by_channel(sums: np.ndarray, channels: int) -> np.ndarray:
    """Sum interleaved channels: (n, 1, S*C) -> float64 (n, C)."""
    return np.asarray(sums[:, 0].astype(np.float64) @ _build_channel_matrix(sums.shape[2], channels))


@lru_cache(maxsize=8)
def _build_channel_matrix(num: int, channels: int) -> np.ndarray:
    """Return float64 (num, channels): 1 if an interleaved value belongs to the channel, else 0."""
    return np.tile(np.eye(channels), (num // channels, 1))
