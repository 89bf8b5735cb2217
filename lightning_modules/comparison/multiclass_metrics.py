"""Metrics of single-label predictions for the comparison of two models.

Each takes labels (N,) and probabilities (N, K), and returns a function of weights (B, N) that gives values (B,).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from lightning_modules.evaluation.metrics import MIN_PROBABILITY, NUM_ECE_BINS, WeightedMetric


def is_correct(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Return, bool (N,), whether the best class is the true class; False for an image without probabilities."""
    return np.asarray((probabilities.argmax(1) == labels) & (probabilities.max(1) > 0))


def accuracy(labels: np.ndarray, probabilities: np.ndarray) -> WeightedMetric:
    """Return the share of images whose best class is the true class."""
    hit = is_correct(labels, probabilities).astype(np.float64)
    return lambda weights: np.asarray(weights @ hit / weights.sum(1))


def log_loss(labels: np.ndarray, probabilities: np.ndarray) -> WeightedMetric:
    """Return the mean of -log(probability of the true class), in nats."""
    true = probabilities[np.arange(len(labels)), labels]
    loss = -np.log(np.clip(true.astype(np.float64), MIN_PROBABILITY, 1))
    return lambda weights: np.asarray(weights @ loss / weights.sum(1))


def macro_recall(labels: np.ndarray, probabilities: np.ndarray) -> WeightedMetric:
    """Return the mean recall of the classes that have images (balanced accuracy)."""
    hit = is_correct(labels, probabilities)
    actual = _make_class_sum(labels)
    return lambda weights: _average_classes(actual(weights * hit), actual(weights))


def macro_f1(labels: np.ndarray, probabilities: np.ndarray) -> WeightedMetric:
    """Return the mean F1 of the classes that have images."""
    hit = is_correct(labels, probabilities)
    best = np.where(probabilities.max(1) > 0, probabilities.argmax(1), probabilities.shape[1])
    actual, predicted = _make_class_sum(labels), _make_class_sum(best, np.unique(labels))

    def score(weights: np.ndarray) -> np.ndarray:
        num_actual = actual(weights)
        denominator = np.where(num_actual > 0, num_actual + predicted(weights), 0)
        return _average_classes(2 * actual(weights * hit), denominator)

    return score


def calibration_error(labels: np.ndarray, probabilities: np.ndarray) -> WeightedMetric:
    """Return the expected calibration error: |confidence - accuracy| in NUM_ECE_BINS bins, weighted by size."""
    confidence = probabilities.max(1).astype(np.float64)
    gap = confidence - is_correct(labels, probabilities)
    bins = _make_class_sum(np.clip((confidence * NUM_ECE_BINS).astype(int), 0, NUM_ECE_BINS - 1))
    return lambda weights: np.asarray(np.abs(bins(weights * gap)).sum(1) / weights.sum(1))


MULTICLASS_METRICS: dict[str, tuple[Callable[[np.ndarray, np.ndarray], WeightedMetric], float]] = {
    "accuracy": (accuracy, 1.0),
    "macro_f1": (macro_f1, 1.0),
    "macro_recall": (macro_recall, 1.0),
    "log_loss": (log_loss, -1.0),
    "calibration_error": (calibration_error, -1.0),
}


def _make_class_sum(keys: np.ndarray, classes: np.ndarray | None = None) -> WeightedMetric:
    """Return a function that sums values (B, N) over images of equal key, to (B, number of classes).

    Args:
        keys: int (N,), the class of each image.
        classes: the keys to sum over, in order; None for all that occur.
    """
    present = np.unique(keys)
    classes = present if classes is None else classes
    order = np.argsort(keys, kind="stable")
    starts = np.searchsorted(keys[order], present)
    column = {key: number for number, key in enumerate(present.tolist())}

    def sum_by_class(values: np.ndarray) -> np.ndarray:
        sums = np.add.reduceat(values[:, order], starts, axis=1)
        zeros = np.zeros(len(values))
        return np.stack([sums[:, column[key]] if key in column else zeros for key in classes.tolist()], axis=1)

    return sum_by_class


def _average_classes(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Return the mean (B,) of part / whole, (B, K) each, over the classes that were drawn at all."""
    drawn = whole > 0
    return np.asarray(np.where(drawn, part / np.where(drawn, whole, 1), 0).sum(1) / np.maximum(drawn.sum(1), 1))
