"""What a worker does with a picture: read it from its raw shard, decode it, write it into a shard of pixels."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from PIL import Image

from imageset.decode import DecodeSpec, Header, measure, read_header
from imageset.errors import UserError
from imageset.phash import phash


class Place(NamedTuple):
    """Where a picture's bytes lie in the raw data, and where its pixels go; offset and size in bytes."""

    image_id: str
    raw_file: str
    offset: int
    size: int
    out_file: str = ""
    out_offset: int = 0


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a picture once it is decoded; width and height in px, of the picture itself."""

    width: int
    height: int
    phash: int
    sums: list[int]
    square_sums: list[int]


def develop(place: Place, spec: DecodeSpec) -> Facts:
    """Decode one picture and write its pixels to their place.

    Raises:
        Rejected: it cannot be decoded.
        UserError: the raw data does not hold the bytes that its table promises.
    """
    pixels, width, height = measure(_read(place), spec)
    os.pwrite(_opened(place.out_file, os.O_WRONLY), pixels.data, place.out_offset)
    return Facts(width, height, phash(pixels), *channel_sums(pixels))


def look(data: bytes, spec: DecodeSpec) -> Facts:
    """Decode one picture for what can be known of it, and forget its pixels.

    Raises:
        Rejected: it cannot be decoded.
    """
    pixels, width, height = measure(data, spec)
    return Facts(width, height, phash(pixels), [], [])


def header(place: Place, max_pixels: int) -> Header:
    """Read one picture's header.

    Raises:
        Rejected: it has none.
    """
    return read_header(_read(place), max_pixels)


def channel_sums(pixels: np.ndarray) -> tuple[list[int], list[int]]:
    """uint8 (H, W, C) -> exact sums and sums of squares of each channel."""
    channels = pixels.shape[2]
    picture = Image.fromarray(pixels if channels == 3 else pixels[..., 0])
    counts = np.array(picture.histogram(), np.int64).reshape(channels, 256)
    values = np.arange(256)
    return (counts @ values).tolist(), (counts @ values**2).tolist()


def _read(place: Place) -> bytes:
    try:
        data = os.pread(_opened(place.raw_file, os.O_RDONLY), place.size, place.offset)
    except FileNotFoundError:
        data = b""
    if hashlib.sha256(data).hexdigest() != place.image_id:
        raise UserError(f"{place.raw_file}: missing, or not the bytes that were ingested; restore it with "
                        "`dvc checkout`, or ingest the source again")
    return data


_descriptors: dict[int, tuple[str, int]] = {}  # flags -> (path, descriptor); neighbours lie in the same file


def _opened(path: str, flags: int) -> int:
    if flags in _descriptors:
        known, descriptor = _descriptors[flags]
        if known == path:
            return descriptor
        del _descriptors[flags]
        os.close(descriptor)
    _descriptors[flags] = path, os.open(path, flags | os.O_CLOEXEC)
    return _descriptors[flags][1]
