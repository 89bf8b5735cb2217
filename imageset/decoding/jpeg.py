"""The fast way for JPEG: libjpeg-turbo by simplejpeg, which gives the very pixels Pillow gives, in half the time.

Whatever is unusual (CMYK, lossless, damage, warnings of the decoder) is left to Pillow, which then also words the
refusal.
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
MAX_CACHED_HEADER_BYTES = 1 << 10  # bytes of a header
_APP1 = 0xE1  # EXIF or XMP


class JpegHeader(NamedTuple):
    """What the segments before the pixels say; width and height in px, as stored."""

    width: int
    height: int
    is_grey: bool
    may_be_rotated: bool


_cached_header: tuple[bytes, JpegHeader | None] = b"none", None


def read_jpeg_header(data: bytes | memoryview) -> JpegHeader | None:
    """Walk the segments up to the frame header; None where Pillow must look.

    Small pictures of one encoder have these bytes in common: what they mean is remembered from one to the next.
    """
    global _cached_header
    start, header = _cached_header
    if header is not None and data[: len(start)] == start and len(data) - 9 > len(start):
        return header
    position, may_be_turned, end = 2, False, len(data) - 9
    while position < end and data[position] == 0xFF:
        marker = data[position + 1]
        if marker in _FRAMES:
            precision, components = data[position + 4], data[position + 9]
            height = data[position + 5] << 8 | data[position + 6]
            width = data[position + 7] << 8 | data[position + 8]
            if precision != 8 or components not in (1, 3) or not width or not height:
                return None
            header = JpegHeader(width, height, components == 1, may_be_turned)
            if not may_be_turned and position < MAX_CACHED_HEADER_BYTES:
                _cached_header = bytes(data[: position + 10]), header
            return header
        if marker in _UNSUPPORTED_FRAMES:
            return None
        may_be_turned = may_be_turned or marker == _APP1
        position += 1 if marker == 0xFF else 2 + (data[position + 2] << 8 | data[position + 3])
    return None


def decode_jpeg(data: bytes | memoryview, grey: bool, buffer: np.ndarray, min_side_px: int = 0) -> np.ndarray | None:
    """uint8 (H, W, 1) for a grey picture, else (H, W, 3); None where the bytes are not sound.

    The pixels lie in `room`, uint8, C-contiguous and large enough for all of them. With at_least_px the decoder
    may scale down by itself, to no less than twice that on either side.
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
    """Imported only where there is a JPEG."""
    from simplejpeg import decode_jpeg

    return decode_jpeg


def read_orientation(data: bytes | memoryview) -> int:
    """EXIF's (or XMP's) orientation, 1 to 8, by Pillow; 1 where there is none or it is damaged."""
    try:
        found = Image.open(io.BytesIO(data), formats=("JPEG",)).getexif().get(0x0112, 1)
    except Exception:
        return 1
    return found if isinstance(found, int) and 1 <= found <= 8 else 1


def apply_orientation(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """A view of (H, W, C) with the right side up."""
    if orientation >= 5:
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels
