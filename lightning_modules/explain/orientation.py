"""Measures of orientation: how far a filter, or a set of patches, has edges of one direction.

Sources: J. Bigun, G. Granlund, "Optimal Orientation Detection of Linear Symmetry", 1987 (the structure tensor, and
doubled angles, so that opposite directions are the same orientation).
"""

from collections.abc import Sequence

import numpy as np

SPECTRUM_SIZE = 32  # filters are padded to this side before the Fourier transform


def measure_filter_orientation(filters: np.ndarray) -> np.ndarray:
    """Return the orientation energy of each filter: 1 for an edge of one direction, 0 for none or all directions.

    That is the length of the mean of exp(2i angle) over all frequencies except the constant one, weighted by the
    filter's power there.

    Args:
        filters: float (F, channels, k, k).

    Returns:
        float64 (F,) of 0..1.
    """
    centred = filters - filters.mean(axis=(2, 3), keepdims=True)
    spectrum = np.fft.fft2(centred, s=(SPECTRUM_SIZE, SPECTRUM_SIZE))
    power = (abs(spectrum) ** 2).sum(axis=1)  # (F, 32, 32)
    frequency = np.fft.fftfreq(SPECTRUM_SIZE)
    angle = np.arctan2(frequency[:, None], frequency[None, :])
    inside = np.hypot(frequency[:, None], frequency[None, :]) < 0.5  # a disc: all directions reach equally far
    inside[0, 0] = False
    weights = power * inside
    total = weights.sum(axis=(1, 2)).clip(1e-12)
    return np.asarray(abs((weights * np.exp(2j * angle)).sum(axis=(1, 2))) / total)


def measure_common_orientation(patches: Sequence[np.ndarray]) -> float:
    """Return how far patches share one orientation: 1 if all edges of all run the same way, 0 for no order.

    The structure tensors of the patches are divided by their traces, so that each patch counts alike, and
    averaged; the result is the difference of the eigenvalues of the mean over their sum.

    Args:
        patches: float or uint8 (h, w), of any sizes of at least 2; a patch without any edge counts nothing.
    """
    tensors = [measure_structure_tensor(patch) for patch in patches if min(patch.shape) >= 2]
    scaled = [tensor / tensor[:2].sum() for tensor in tensors if tensor[:2].sum() > 0]
    if not scaled:
        return 0.0
    xx, yy, xy = np.mean(scaled, axis=0)
    return float(np.hypot(xx - yy, 2 * xy) / (xx + yy))


def measure_structure_tensor(patch: np.ndarray) -> np.ndarray:
    """Return the sums of gx², gy² and gx gy over a patch (h, w), float64 (3,)."""
    down, across = np.gradient(patch.astype(np.float64))
    return np.array([(across**2).sum(), (down**2).sum(), (across * down).sum()])
