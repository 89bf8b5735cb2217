"""Data of reliability diagrams, and the expected calibration error."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class ReliabilityBins:
    """Predictions in bins of confidence.

    Attributes:
        confidence: (num_bins,), mean confidence of each bin; 0 if it is empty.
        accuracy: (num_bins,), share of correct predictions of each bin; 0 if it is empty.
        count: (num_bins,), predictions in each bin.
    """

    confidence: np.ndarray
    accuracy: np.ndarray
    count: np.ndarray

    @property
    def ece(self) -> float:
        """The expected calibration error: the mean distance of confidence and accuracy over all predictions."""
        return float((self.count * abs(self.accuracy - self.confidence)).sum() / max(1, self.count.sum()))


def compute_reliability(confidence: np.ndarray, correct: np.ndarray, num_bins: int) -> ReliabilityBins:
    """Group predictions into bins of confidence, of equal width over 0..1.

    Args:
        confidence: (n,), probability of each prediction.
        correct: (n,), whether each prediction is correct.
        num_bins: the number of bins.
    """
    bin_index = np.minimum((confidence * num_bins).astype(int), num_bins - 1)
    count = np.bincount(bin_index, minlength=num_bins)
    mean_confidence = np.bincount(bin_index, weights=confidence, minlength=num_bins) / np.maximum(count, 1)
    accuracy = np.bincount(bin_index, weights=correct, minlength=num_bins) / np.maximum(count, 1)
    return ReliabilityBins(mean_confidence, accuracy, count)
