"""Encode plain 8-bit PNG files without compression: the same pixels give the same bytes with every zlib."""

from __future__ import annotations

import struct
import zlib

import numpy as np


def encode_png(pixels: np.ndarray) -> bytes:
    """Encode uint8 (H, W) grey or (H, W, 3) RGB pixels as the bytes of a PNG file."""
    assert pixels.dtype == np.uint8
    height, width = pixels.shape[:2]
    colour_type = 0 if pixels.ndim == 2 else 2
    rows = np.zeros((height, 1 + pixels[0].size), np.uint8)  # every row begins with its filter, 0: none
    rows[:, 1:] = pixels.reshape(height, -1)
    header = struct.pack(">IIBBBBB", width, height, 8, colour_type, 0, 0, 0)
    return b"".join(
        (
            b"\x89PNG\r\n\x1a\n",
            _build_chunk(b"IHDR", header),
            _build_chunk(b"IDAT", _wrap_uncompressed(rows.tobytes())),
            _build_chunk(b"IEND", b""),
        )
    )


def _build_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _wrap_uncompressed(data: bytes) -> bytes:
    """Wrap data in zlib's format, as uncompressed blocks of at most 65,535 bytes."""
    starts = range(0, max(1, len(data)), 65535)
    blocks = [data[start : start + 65535] for start in starts]
    framed = [
        struct.pack("<BHH", number == len(blocks) - 1, len(block), len(block) ^ 0xFFFF) + block
        for number, block in enumerate(blocks)
    ]
    return b"\x78\x01" + b"".join(framed) + struct.pack(">I", zlib.adler32(data))
