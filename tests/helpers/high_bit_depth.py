"""Pictures of 16 bits a channel and of floating-point numbers, which Pillow can read and mostly cannot write."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np

PNG_COLOUR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}  # by the number of channels
TIFF_KINDS = {"u": 1, "i": 2, "f": 3}  # SampleFormat


def encode_png16(values: np.ndarray) -> bytes:
    """uint16 (H, W[, C]) -> the bytes of a PNG."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    height, width, channels = values.reshape(*values.shape[:2], -1).shape
    rows = b"".join(b"\0" + row.tobytes() for row in values.astype(">u2"))
    header = struct.pack(">IIBBBBB", width, height, 16, PNG_COLOUR_TYPES[channels], 0, 0, 0)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def encode_tiff(
    values: np.ndarray, order: str = "<", *, compressed: bool = False, rows_per_strip: int = 5
) -> bytes:
    """(H, W[, C]) of any type -> the bytes of a TIFF in the byte order `<` or `>`."""
    height, width, channels = values.reshape(*values.shape[:2], -1).shape
    typed = values.astype(values.dtype.newbyteorder(order))
    strips = [typed[row : row + rows_per_strip].tobytes() for row in range(0, height, rows_per_strip)]
    strips = [zlib.compress(strip) for strip in strips] if compressed else strips
    data = bytearray(struct.pack(f"{order}2sHI", b"II" if order == "<" else b"MM", 42, 0))
    offsets = []
    for strip in strips:
        offsets.append(len(data))
        data += strip + b"\0" * (len(strip) % 2)
    entries = []
    for tag, kind, numbers in [
        *((256, "I", [width]), (257, "I", [height]), (258, "H", [8 * values.dtype.itemsize] * channels)),
        *((259, "H", [8 if compressed else 1]), (262, "H", [1 if channels == 1 else 2]), (273, "I", offsets)),
        *((277, "H", [channels]), (278, "I", [rows_per_strip]), (279, "I", [len(strip) for strip in strips])),
        *([(338, "H", [2])] if channels == 4 else []),
        (339, "H", [TIFF_KINDS[values.dtype.kind]] * channels),
    ]:
        body = struct.pack(f"{order}{len(numbers)}{kind}", *numbers)
        if len(body) > 4:
            data += b"\0" * (len(data) % 2)
            body, position = struct.pack(f"{order}I", len(data)), body
            data += position
        entries.append(
            struct.pack(f"{order}HHI", tag, 3 if kind == "H" else 4, len(numbers)) + body.ljust(4, b"\0")
        )
    data += b"\0" * (len(data) % 2)
    data[4:8] = struct.pack(f"{order}I", len(data))
    return bytes(data) + struct.pack(f"{order}H", len(entries)) + b"".join(entries) + b"\0\0\0\0"


def draw_values(seed: int, bits: int, shape: tuple[int, ...] = (20, 20)) -> np.ndarray:
    """uint16 values that use all bits."""
    values = np.random.default_rng(seed).integers(0, 1 << bits, shape).astype(np.uint16)
    values.flat[:2] = 0, (1 << bits) - 1
    return values


def write_deep_images(root: Path, bits: int, first: int = 0, num_each: int = 15) -> Path:
    """root/CLASS/000.png, 001.tif ... of 16 bits that hold fewer; one folder a class."""
    for position, name in enumerate(("ant", "bee")):
        (root / name).mkdir(parents=True, exist_ok=True)
        for number in range(first, first + num_each):
            values = draw_values(1000 * position + number, bits)
            data = encode_tiff(values, "<>"[number % 4 > 1]) if number % 2 else encode_png16(values)
            (root / name / f"{number:03d}.{'tif' if number % 2 else 'png'}").write_bytes(data)
    return root
