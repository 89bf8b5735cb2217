"""Metrics of single-label predictions that promotion compares."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from lightning_modules.evaluation.metrics import MIN_PROBABILITY, NUM_ECE_BINS

Metric = Callable[[np.ndarray], np.ndarray]  # weights (B, N) of the pictures -> values (B,)


def is_correct(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """bool (N,): the best class is the true one; a picture without probabilities is wrong."""
    return np.asarray((probabilities.argmax(1) == labels) & (probabilities.max(1) > 0))


# ---- metrics: (labels, probabilities) -> a function of the pictures' weights -----------------------------------


def accuracy(labels: np.ndarray, probabilities: np.ndarray) -> Metric:
    """The share of pictures whose best class is the true one."""
    hit = is_correct(labels, probabilities).astype(np.float64)
    return lambda weights: np.asarray(weights @ hit / weights.sum(1))


def log_loss(labels: np.ndarray, probabilities: np.ndarray) -> Metric:
    """The mean of -log(probability of the true class), in nats."""
    true = probabilities[np.arange(len(labels)), labels]
    loss = -np.log(np.clip(true.astype(np.float64), MIN_PROBABILITY, 1))
    return lambda weights: np.asarray(weights @ loss / weights.sum(1))


def macro_recall(labels: np.ndarray, probabilities: np.ndarray) -> Metric:
    """The mean of the recalls of the classes that have pictures (balanced accuracy)."""
    hit = is_correct(labels, probabilities)
    actual = _make_class_sum(labels)
    return lambda weights: _average_classes(actual(weights * hit), actual(weights))


def macro_f1(labels: np.ndarray, probabilities: np.ndarray) -> Metric:
    """The mean of the F1 scores of the classes that have pictures."""
    hit = is_correct(labels, probabilities)
    best = np.where(probabilities.max(1) > 0, probabilities.argmax(1), probabilities.shape[1])
    actual, predicted = _make_class_sum(labels), _make_class_sum(best, np.unique(labels))

    def score(weights: np.ndarray) -> np.ndarray:
        num_actual = actual(weights)
        denominator = np.where(num_actual > 0, num_actual + predicted(weights), 0)
        return _average_classes(2 * actual(weights * hit), denominator)

    return score


def calibration_error(labels: np.ndarray, probabilities: np.ndarray) -> Metric:
    """The expected calibration error: |confidence - accuracy| in NUM_BINS bins of confidence, weighted by size."""
    confidence = probabilities.max(1).astype(np.float64)
    gap = confidence - is_correct(labels, probabilities)
    bins = _make_class_sum(np.clip((confidence * NUM_ECE_BINS).astype(int), 0, NUM_ECE_BINS - 1))
    return lambda weights: np.asarray(np.abs(bins(weights * gap)).sum(1) / weights.sum(1))


MULTICLASS_METRICS: dict[str, tuple[Callable[[np.ndarray, np.ndarray], Metric], float]] = {
    "accuracy": (accuracy, 1.0),
    "macro_f1": (macro_f1, 1.0),
    "macro_recall": (macro_recall, 1.0),
    "log_loss": (log_loss, -1.0),
    "calibration_error": (calibration_error, -1.0),
}


def _make_class_sum(keys: np.ndarray, wanted: np.ndarray | None = None) -> Metric:
    """Sums of (B, N) over pictures of equal key: (B, number of different keys), or of the `wanted` ones."""
    there = np.unique(keys)
    wanted = there if wanted is None else wanted
    order = np.argsort(keys, kind="stable")
    starts = np.searchsorted(keys[order], there)
    column = {key: number for number, key in enumerate(there.tolist())}

    def sums(values: np.ndarray) -> np.ndarray:
        found = np.add.reduceat(values[:, order], starts, axis=1)
        empty = np.zeros(len(values))
        return np.stack([found[:, column[key]] if key in column else empty for key in wanted.tolist()], axis=1)

    return sums


def _average_classes(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """(B, K), (B, K) -> (B,): the mean of part / whole over the classes that were drawn at all."""
    there = whole > 0
    return np.asarray(np.where(there, part / np.where(there, whole, 1), 0).sum(1) / np.maximum(there.sum(1), 1))
