"""A perceptual hash: pictures that look alike have hashes that differ in few of their 64 bits.

The picture is averaged to 32 x 32 grey cells, the 8 x 8 lowest frequencies of its cosine transform are compared
with their median (the "pHash" of Zauner, 2010). All sums are whole numbers below 2^53: every machine gets the same
bits.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

_CELLS, _FREQUENCIES = 32, 8
_GREY = np.array([299, 587, 114], np.float64)  # ITU-R 601, per mille


def phash(pixels: np.ndarray) -> int:
    """uint8 (H, W, C) with H = W -> 64-bit unsigned integer."""
    return int(phashes(pixels[None])[0])


def phashes(pixels: np.ndarray) -> np.ndarray:
    """uint8 (N, S, S, C) -> uint64 (N,)."""
    side, channels = pixels.shape[1], pixels.shape[3]
    grey = pixels[..., 0].astype(np.float64) if channels == 1 else np.rint(pixels @ _GREY / 1000)
    basis = _basis(side)  # (8, S)
    spectrum = (basis @ grey @ basis.T).reshape(-1, _FREQUENCIES**2)  # (N, 64)
    bits = spectrum > np.median(spectrum, axis=1, keepdims=True)
    return np.packbits(bits, axis=1).view(">u8").ravel().astype(np.uint64)


@lru_cache(maxsize=8)
def _basis(side: int) -> np.ndarray:
    """(8, side): the lowest cosine waves over 32 cells, each cell the mean of its pixels, as whole numbers."""
    cells = np.arange(_CELLS)
    waves = np.cos(np.pi / _CELLS * (cells + 0.5)[None, :] * np.arange(_FREQUENCIES)[:, None])  # (8, 32)
    edges = np.arange(_CELLS + 1) * side / _CELLS
    pixel = np.arange(side)
    overlap = np.minimum(edges[1:, None], pixel + 1) - np.maximum(edges[:-1, None], pixel)  # (32, S)
    return np.rint(waves @ np.clip(overlap, 0, None) * 1024)
