"""A perceptual hash: pictures that look alike have hashes that differ in few of their 64 bits.

The picture is averaged to 32 x 32 grey cells, the 8 x 8 lowest frequencies of its cosine transform are compared
with their median (the "pHash" of Zauner, 2010). All sums are whole numbers below 2^53: every machine gets the same
bits.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

_CELLS, _FREQUENCIES = 32, 8
_MOST_SIDE = 256  # of a larger picture every second (third ...) pixel is looked at
_GREY = np.array([77, 150, 29], np.float32)  # ITU-R 601, in 256ths


def phashes(pixels: np.ndarray) -> np.ndarray:
    """float32 (N, S, S, C) holding whole numbers 0..255 -> uint64 (N,)."""
    step = -(-pixels.shape[1] // _MOST_SIDE)
    pixels = pixels[:, ::step, ::step]
    num, side, _, channels = pixels.shape
    flat = pixels.reshape(-1, channels)
    grey = (flat[:, 0] * 256 if channels == 1 else flat @ _GREY).astype(np.float64)
    basis = _basis(side)  # (8, S)
    rows = (grey.reshape(num * side, side) @ basis.T).reshape(num, side, _FREQUENCIES)
    spectrum = (basis @ rows).reshape(num, _FREQUENCIES**2)
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
    return np.rint(waves @ np.clip(overlap, 0, None) * 512)
