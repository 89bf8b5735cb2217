"""Small real pictures for the tests of imageset."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

PARAMS: dict[str, Any] = {
    "size_px": 16,
    "channels": "auto",
    "fit": "crop",
    "interpolation": "bilinear",
    "max_pixels": 1_000_000,
    "max_reject_fraction": 0.05,
    "split": {"seed": 0, "val": 0.2, "test": 0.2},
}


def encoded(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    """uint8 (H, W[, 3]) -> the bytes of a file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def noise(seed: int, height: int = 20, width: int = 20, kind: str = "PNG") -> bytes:
    """A picture like no other."""
    return encoded(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8), kind)


def make_folder(root: Path, classes: tuple[str, ...] = ("ant", "bee"), num_each: int = 20, first: int = 0) -> Path:
    """root/CLASS/0000.png ..., every picture different."""
    for position, name in enumerate(classes):
        (root / name).mkdir(parents=True, exist_ok=True)
        for number in range(first, first + num_each):
            (root / name / f"{number:04d}.png").write_bytes(noise(1000 * position + number))
    return root


def snapshot(folder: Path) -> dict[str, bytes]:
    """The bytes of every file of a folder."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}
