"""The fast path for JPEG: libjpeg-turbo through simplejpeg gives the same pixels as Pillow in half the time.

Unusual files (CMYK, lossless, damaged, or with warnings of the decoder) are left to Pillow, whose error then
becomes the rejection.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from PIL import Image

_FRAMES = frozenset({0xC0, 0xC1, 0xC2})  # baseline, extended, progressive
_UNSUPPORTED_FRAMES = frozenset(range(0xC3, 0xD0)) - {0xC4, 0xC8, 0xCC}
MAX_CACHED_HEADER_BYTES = 1 << 10  # a longer header is not remembered
_PROGRESSIVE = 0xC2
_APP1 = 0xE1  # EXIF or XMP


class JpegHeader(NamedTuple):
    """The fields of the segments before the pixel data.

    Attributes:
        width: in pixels, as stored.
        height: in pixels, as stored.
        is_grey: whether the image has a single component.
        may_be_rotated: whether an APP1 segment (EXIF or XMP) may hold an orientation.
        is_progressive: whether the decoder holds the coefficients of the whole image.
    """

    width: int
    height: int
    is_grey: bool
    may_be_rotated: bool
    is_progressive: bool = False


_cached_header: tuple[bytes, JpegHeader | None] = b"none", None


def read_jpeg_header(data: bytes | memoryview) -> JpegHeader | None:
    """Read the segments up to the frame header; return None if Pillow has to read the file.

    Small images of the same encoder share these bytes: the last header is cached and compared first.
    """
    global _cached_header
    start, header = _cached_header
    if header is not None and data[: len(start)] == start and len(data) - 9 > len(start):
        return header
    position, may_be_rotated, end = 2, False, len(data) - 9
    while position < end and data[position] == 0xFF:
        marker = data[position + 1]
        if marker in _FRAMES:
            precision, components = data[position + 4], data[position + 9]
            height = data[position + 5] << 8 | data[position + 6]
            width = data[position + 7] << 8 | data[position + 8]
            if precision != 8 or components not in (1, 3) or not width or not height:
                return None
            header = JpegHeader(width, height, components == 1, may_be_rotated, marker == _PROGRESSIVE)
            if not may_be_rotated and position < MAX_CACHED_HEADER_BYTES:
                _cached_header = bytes(data[: position + 10]), header
            return header
        if marker in _UNSUPPORTED_FRAMES:
            return None
        may_be_rotated = may_be_rotated or marker == _APP1
        position += 1 if marker == 0xFF else 2 + (data[position + 2] << 8 | data[position + 3])
    return None


def decode_jpeg(
    data: bytes | memoryview, grey: bool, buffer: np.ndarray, min_side_px: int = 0
) -> np.ndarray | None:
    """Decode a JPEG into a buffer.

    Args:
        data: the bytes of the file.
        grey: decode one channel instead of three.
        buffer: uint8, C-contiguous, large enough for all pixels; the result is a view of it.
        min_side_px: if above 0, the decoder may scale down, to no less than twice this on either side.

    Returns:
        uint8 (H, W, 1) if grey, else (H, W, 3); None if the file is damaged.
    """
    fast = min_side_px > 0
    try:
        return _load_simplejpeg()(
            data,
            "GRAY" if grey else "RGB",
            fastdct=fast,
            fastupsample=fast,
            min_height=2 * min_side_px,
            min_width=2 * min_side_px,
            buffer=buffer,
            strict=True,
        )
    except Exception:
        return None


@lru_cache(maxsize=1)
def _load_simplejpeg() -> Callable[..., np.ndarray]:
    """Import simplejpeg, at the first JPEG only."""
    from simplejpeg import decode_jpeg

    return decode_jpeg


def read_orientation(data: bytes | memoryview) -> int:
    """Return the orientation in EXIF or XMP, 1 to 8, as Pillow reads it; 1 if it is missing or damaged."""
    try:
        orientation = Image.open(io.BytesIO(data), formats=("JPEG",)).getexif().get(0x0112, 1)
    except Exception:
        return 1
    return orientation if isinstance(orientation, int) and 1 <= orientation <= 8 else 1


def apply_orientation(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Return a view of the (H, W, C) pixels with the EXIF orientation applied."""
    if orientation >= 5:
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels
