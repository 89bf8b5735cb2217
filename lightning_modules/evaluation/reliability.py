"""Reliability diagram data, expected calibration error."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class ReliabilityBins:
    """Pictures in bins of how sure the network was: in each, its mean probability and how often it was right."""

    confidence: np.ndarray  # (bins,) mean; 0 where a bin is empty
    accuracy: np.ndarray  # (bins,)
    count: np.ndarray  # (bins,) pictures

    @property
    def ece(self) -> float:
        """Expected calibration error: the mean distance between the two, over the pictures."""
        return float((self.count * abs(self.accuracy - self.confidence)).sum() / max(1, self.count.sum()))


def compute_reliability(confidence: np.ndarray, right: np.ndarray, num_bins: int) -> ReliabilityBins:
    """Bins of equal width over 0..1.

    Args:
        confidence: (n,) probability of what was predicted.
        right: (n,) whether it was so.
        num_bins: how many bins.
    """
    place = np.minimum((confidence * num_bins).astype(int), num_bins - 1)
    count = np.bincount(place, minlength=num_bins)
    sure = np.bincount(place, weights=confidence, minlength=num_bins) / np.maximum(count, 1)
    rightly = np.bincount(place, weights=right, minlength=num_bins) / np.maximum(count, 1)
    return ReliabilityBins(sure, rightly, count)
