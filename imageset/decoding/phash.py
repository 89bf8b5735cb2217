"""A perceptual hash: the hashes of images that look alike differ in few of their 64 bits.

The image is averaged to 32 x 32 grey cells, and the 8 x 8 lowest frequencies of its cosine transform are compared
with their median (the "pHash" of Zauner, 2010). All sums are integers that their type represents exactly, so every
machine computes the same bits.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

MAX_HASHED_SIDE_PX = 256  # a larger image is subsampled: every second (third ...) pixel
_CELLS, _FREQUENCIES = 32, 8
_GREY = np.array([77, 150, 29], np.float64)  # ITU-R 601, in 256ths


def compute_phashes(pixels: np.ndarray) -> np.ndarray:
    """Compute the perceptual hash of each image.

    Args:
        pixels: float32 (N, S, S, C), integers from 0 to 255.

    Returns:
        uint64 (N,).
    """
    return hash_waves(transform_columns(pixels)[:, :_FREQUENCIES], pixels.shape[3])


def transform_columns(pixels: np.ndarray) -> np.ndarray:
    """Transform the columns of each image to their lowest cosine frequencies and their sums.

    Args:
        pixels: floating-point (N, S, S, C). Images with sides above MAX_HASHED_SIDE_PX are subsampled first.

    Returns:
        The 8 frequencies and, last, the sum of each column, (N, 8 + 1, S*C) in the type of `pixels`.
    """
    step = -(-pixels.shape[1] // MAX_HASHED_SIDE_PX)
    rows = pixels[:, ::step, ::step]
    num, side = rows.shape[:2]
    cells, basis = rows.reshape(num, side, -1), _build_basis_with_ones(side, pixels.dtype)
    if side > _CELLS and side % _CELLS == 0:  # whole rows make a cell: the same numbers with a third of the work
        cell_rows = side // _CELLS
        cells = np.matmul(np.ones((1, cell_rows), pixels.dtype), cells.reshape(num * _CELLS, cell_rows, -1))
        cells, basis = cells.reshape(num, _CELLS, -1), np.ascontiguousarray(basis[:, ::cell_rows])
    return np.matmul(basis, cells)


def hash_waves(waves: np.ndarray, channels: int) -> np.ndarray:
    """Compute the perceptual hashes from the column frequencies of `transform_columns`.

    Args:
        waves: floating-point (N, 8, S*C), without the row of sums.
        channels: C.

    Returns:
        uint64 (N,).
    """
    num, side = len(waves), waves.shape[2] // channels
    colours = waves.astype(np.float64).reshape(-1, channels)
    grey = colours[:, 0] * 256 if channels == 1 else colours @ _GREY
    spectrum = (grey.reshape(-1, side) @ _build_basis(side).T).reshape(num, _FREQUENCIES**2)
    median = np.sort(spectrum, axis=1)[:, 31:33].mean(1, keepdims=True)
    return np.packbits(spectrum > median, axis=1).view(">u8").ravel().astype(np.uint64)


@lru_cache(maxsize=8)
def _build_basis_with_ones(side: int, dtype: np.dtype) -> np.ndarray:
    """Return `_build_basis` with a row of ones below it."""
    return np.concatenate([_build_basis(side), np.ones((1, side))]).astype(dtype)


@lru_cache(maxsize=8)
def _build_basis(side: int) -> np.ndarray:
    """Return the 8 lowest cosine waves over 32 cells, each cell the mean of its pixels, as float64 (8, side).

    The values are integers whose sums of products with pixels stay below 2^24: exact in float32.
    """
    cells = np.arange(_CELLS)
    waves = np.cos(np.pi / _CELLS * (cells + 0.5)[None, :] * np.arange(_FREQUENCIES)[:, None])  # (8, 32)
    edges = np.arange(_CELLS + 1) * side / _CELLS
    pixel = np.arange(side)
    overlap = np.minimum(edges[1:, None], pixel + 1) - np.maximum(edges[:-1, None], pixel)  # (32, S)
    return np.rint(waves @ np.clip(overlap, 0, None) * (512 if side <= 128 else 256))
