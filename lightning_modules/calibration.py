"""How sure a network may say it is: one temperature, fitted on the validation split, and how far off it then is.

Source: C. Guo, G. Pleiss, Y. Sun, K. Weinberger, "On Calibration of Modern Neural Networks", 2017,
arXiv:1706.04599 (temperature scaling, reliability diagrams, expected calibration error).
"""

from dataclasses import dataclass

import numpy as np

COLDEST, HOTTEST = 0.05, 20.0  # a temperature beyond these says that there was nothing to fit it on
HALVINGS = 40


def probabilities(logits: np.ndarray, temperature: float, multi_label: bool) -> np.ndarray:
    """Logits (n, C) -> probabilities float32 (n, C): softmax of each row; for `multi_label` each one's sigmoid."""
    scaled = logits.astype(np.float64) / temperature
    if multi_label:
        return _sigmoid(scaled).astype(np.float32)
    return _softmax(scaled).astype(np.float32)


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """The temperature that gives the validation split the smallest negative log-likelihood.

    That likelihood is convex in 1 / temperature, so halving the range of its slope's sign finds the minimum. As
    in Platt's scaling a label counts (n + 1) / (n + 2), not 1: a network that makes no mistake on a small split
    would otherwise be called infinitely sure.

    Args:
        logits: float (n, C).
        labels: int (n,): positions of the classes; or 0 and 1 (n, C), several labels a picture.

    Returns:
        0.05 to 20; 1 where there are no pictures.

    Source of the smoothed labels: J. Platt, "Probabilistic Outputs for Support Vector Machines", 1999.
    """
    if not len(logits):
        return 1.0
    z = logits.astype(np.float64)
    z -= 0 if labels.ndim == 2 else z.max(axis=1, keepdims=True)
    targets = _smoothed(labels, z.shape)
    predict = _sigmoid if labels.ndim == 2 else _softmax
    low, high = np.log(1 / HOTTEST), np.log(1 / COLDEST)  # of 1 / temperature
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        slope = ((predict(z * np.exp(middle)) - targets) * z).sum()
        low, high = (middle, high) if slope < 0 else (low, middle)
    return float(np.exp(-(low + high) / 2))


@dataclass(frozen=True)
class Reliability:
    """Pictures in bins of how sure the network was: in each, its mean probability and how often it was right."""

    confidence: np.ndarray  # (bins,) mean; 0 where a bin is empty
    accuracy: np.ndarray  # (bins,)
    count: np.ndarray  # (bins,) pictures

    @property
    def ece(self) -> float:
        """Expected calibration error: the mean distance between the two, over the pictures."""
        return float((self.count * abs(self.accuracy - self.confidence)).sum() / max(1, self.count.sum()))


def reliability(confidence: np.ndarray, right: np.ndarray, num_bins: int) -> Reliability:
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
    return Reliability(sure, rightly, count)


def _smoothed(labels: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    n, num_classes = shape
    if labels.ndim == 2:
        return (labels.astype(np.float64) * n + 1) / (n + 2)
    targets = np.full(shape, 1 / ((n + 2) * max(1, num_classes - 1)))
    targets[np.arange(n), labels] = (n + 1) / (n + 2)
    return targets


def _softmax(scaled: np.ndarray) -> np.ndarray:
    powers = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def _sigmoid(scaled: np.ndarray) -> np.ndarray:
    return 0.5 * (1 + np.tanh(scaled / 2))  # never overflows
