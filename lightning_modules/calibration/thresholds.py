"""Thresholds of multi-label models: the probability from which on a label is predicted, and the confidence.

A threshold of one half minimizes mistakes, which for a rare label means never to predict it. Each label has its
own threshold instead: the one with the highest F1 on the validation split. Source: Z. Lipton, C. Elkan, B.
Naryanaswamy, "Optimal Thresholding of Classifiers to Maximize F1 Measure", 2014, arXiv:1402.1892.
"""

from collections.abc import Sequence

import numpy as np

from imageset.labels import LABEL_SEPARATOR

DEFAULT_THRESHOLD = 0.5
MIN_THRESHOLD = 1e-6  # a threshold of 0 would predict labels for images whose probabilities are all zero


def fit_thresholds(probabilities: np.ndarray, labels: np.ndarray) -> tuple[float, ...]:
    """Return the threshold of each label with the highest F1; one half for a label without images.

    Args:
        probabilities: float (n, K), of images that the network was not trained on.
        labels: 0 and 1 (n, K).
    """
    return tuple(fit_threshold(*columns) for columns in zip(probabilities.T, labels.T, strict=True))


def fit_threshold(probabilities: np.ndarray, has_label: np.ndarray) -> float:
    """Return the threshold of one label with the highest F1.

    All thresholds between two neighbouring probabilities give the same predictions: of them one half is taken if
    it lies between, else the middle. Of equally good intervals the one nearest to one half wins.

    Args:
        probabilities: float (n,).
        has_label: 0 and 1 (n,).
    """
    num = int(has_label.sum())
    if not num:
        return DEFAULT_THRESHOLD
    order = np.argsort(-probabilities, kind="stable")
    high = probabilities[order].astype(np.float64)
    low = np.append(high[1:], 0.0)
    num_predicted = np.arange(1, len(high) + 1)
    f1 = 2 * np.cumsum(has_label[order] > 0) / (num_predicted + num)
    f1[low == high] = -1  # no threshold separates equal probabilities
    best = f1 >= f1.max() - 1e-12
    low, high = low[best], high[best]
    holds_default = (low < DEFAULT_THRESHOLD) & (high >= DEFAULT_THRESHOLD)
    candidates = np.where(holds_default, DEFAULT_THRESHOLD, (low + high) / 2)
    return max(float(candidates[np.abs(candidates - DEFAULT_THRESHOLD).argmin()]), MIN_THRESHOLD)


def apply_thresholds(probabilities: np.ndarray, thresholds: Sequence[float]) -> np.ndarray:
    """Return the predicted labels, bool (..., K), of probabilities (..., K)."""
    return np.asarray(probabilities >= np.asarray(thresholds, probabilities.dtype))


def compute_confidence(probabilities: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Return the confidence (...) of the least confident decision for each image.

    Args:
        probabilities: float (..., K).
        predicted: bool (..., K).
    """
    return np.asarray(np.where(predicted, probabilities, 1 - probabilities).min(axis=-1))


def join_labels(classes: Sequence[str], predicted: np.ndarray) -> str:
    """Join a set of labels, bool (K,), into the string that tables hold (see `imageset.labels`)."""
    return LABEL_SEPARATOR.join(sorted(classes[i] for i in np.flatnonzero(predicted).tolist()))
