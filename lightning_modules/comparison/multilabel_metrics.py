"""Metrics of multi-label predictions for the comparison of two models.

Each takes labels (N, K) of 0 and 1, probabilities (N, K) and predicted labels, bool (N, K), and returns a function
of weights (B, N) that gives values (B,). The metrics of the same names in `multiclass_metrics` are for one class
an image.
"""

from collections.abc import Callable

import numpy as np

from lightning_modules.evaluation import metrics
from lightning_modules.evaluation.metrics import MIN_PROBABILITY, NUM_ECE_BINS, WeightedMetric


def accuracy(labels: np.ndarray, probabilities: np.ndarray, predicted: np.ndarray) -> WeightedMetric:
    """Return the share of images whose whole set of labels is correct (subset accuracy)."""
    hit = (predicted == (labels > 0)).all(axis=1).astype(np.float64)
    return lambda weights: np.asarray(weights @ hit / weights.sum(1))


def mean_average_precision(labels: np.ndarray, probabilities: np.ndarray, predicted: np.ndarray) -> WeightedMetric:
    """Return the mean average precision over the labels."""
    return metrics.weighted_mean_ap(labels > 0, probabilities)


def macro_recall(labels: np.ndarray, probabilities: np.ndarray, predicted: np.ndarray) -> WeightedMetric:
    """Return the mean recall over the labels."""
    return _make_averaged_metric("macro_recall", labels, predicted)


def macro_f1(labels: np.ndarray, probabilities: np.ndarray, predicted: np.ndarray) -> WeightedMetric:
    """Return the mean F1 over the labels."""
    return _make_averaged_metric("macro_f1", labels, predicted)


def micro_f1(labels: np.ndarray, probabilities: np.ndarray, predicted: np.ndarray) -> WeightedMetric:
    """Return the F1 of all labels taken together."""
    return _make_averaged_metric("micro_f1", labels, predicted)


def log_loss(labels: np.ndarray, probabilities: np.ndarray, predicted: np.ndarray) -> WeightedMetric:
    """Return the mean over images and labels of -log(probability of the true state), in nats."""
    true = np.where(labels > 0, probabilities, 1 - probabilities.astype(np.float64))
    loss = -np.log(np.clip(true, MIN_PROBABILITY, 1)).mean(axis=1)
    return lambda weights: np.asarray(weights @ loss / weights.sum(1))


def calibration_error(labels: np.ndarray, probabilities: np.ndarray, predicted: np.ndarray) -> WeightedMetric:
    """Return the expected calibration error over all labels of all images, in NUM_ECE_BINS bins of probability."""
    num, num_labels = labels.shape
    bins = np.clip((probabilities * NUM_ECE_BINS).astype(int), 0, NUM_ECE_BINS - 1)
    cells = bins + NUM_ECE_BINS * np.arange(num)[:, None]
    gaps = np.bincount(cells.ravel(), (probabilities - labels).ravel(), minlength=num * NUM_ECE_BINS)
    image_gaps = gaps.reshape(num, NUM_ECE_BINS) / num_labels
    return lambda weights: np.asarray(np.abs(weights @ image_gaps).sum(1) / weights.sum(1))


MULTILABEL_METRICS: dict[str, tuple[Callable[[np.ndarray, np.ndarray, np.ndarray], WeightedMetric], float]] = {
    "map": (mean_average_precision, 1.0),
    "macro_f1": (macro_f1, 1.0),
    "micro_f1": (micro_f1, 1.0),
    "macro_recall": (macro_recall, 1.0),
    "accuracy": (accuracy, 1.0),
    "log_loss": (log_loss, -1.0),
    "calibration_error": (calibration_error, -1.0),
}


def _make_averaged_metric(name: str, labels: np.ndarray, predicted: np.ndarray) -> WeightedMetric:
    actual = labels > 0
    counts = [matrix.astype(np.float64) for matrix in (actual & predicted, actual, predicted)]
    average = metrics.micro_average if name.startswith("micro") else metrics.macro_average
    return lambda weights: average(*(weights @ matrix for matrix in counts))[name]
