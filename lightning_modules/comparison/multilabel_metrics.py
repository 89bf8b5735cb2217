"""Metrics of pictures that may bear several labels, as functions of how often each picture counts.

Each takes labels (N, K) of 0 and 1, probabilities (N, K), and what was said, bool (N, K), and returns a function
of weights (B, N) that gives values (B,); see `comparison`, whose metrics of one class a picture bear these names.
"""

from collections.abc import Callable

import numpy as np

from lightning_modules.evaluation import metrics
from lightning_modules.evaluation.metrics import MIN_PROBABILITY, NUM_ECE_BINS, WeightedMetric


def accuracy(labels: np.ndarray, probabilities: np.ndarray, said: np.ndarray) -> WeightedMetric:
    """The share of pictures of which the whole set is right (subset accuracy)."""
    hit = (said == (labels > 0)).all(axis=1).astype(np.float64)
    return lambda weights: np.asarray(weights @ hit / weights.sum(1))


def mean_average_precision(labels: np.ndarray, probabilities: np.ndarray, said: np.ndarray) -> WeightedMetric:
    """The mean over the labels of average precision."""
    return metrics.weighted_mean_ap(labels > 0, probabilities)


def macro_recall(labels: np.ndarray, probabilities: np.ndarray, said: np.ndarray) -> WeightedMetric:
    """The mean over the labels of recall."""
    return _make_averaged_metric("macro_recall", labels, said)


def macro_f1(labels: np.ndarray, probabilities: np.ndarray, said: np.ndarray) -> WeightedMetric:
    """The mean over the labels of F1."""
    return _make_averaged_metric("macro_f1", labels, said)


def micro_f1(labels: np.ndarray, probabilities: np.ndarray, said: np.ndarray) -> WeightedMetric:
    """F1 of all labels taken together."""
    return _make_averaged_metric("micro_f1", labels, said)


def log_loss(labels: np.ndarray, probabilities: np.ndarray, said: np.ndarray) -> WeightedMetric:
    """The mean over pictures and labels of -log(probability of what is so), in nats."""
    true = np.where(labels > 0, probabilities, 1 - probabilities.astype(np.float64))
    loss = -np.log(np.clip(true, MIN_PROBABILITY, 1)).mean(axis=1)
    return lambda weights: np.asarray(weights @ loss / weights.sum(1))


def calibration_error(labels: np.ndarray, probabilities: np.ndarray, said: np.ndarray) -> WeightedMetric:
    """The expected calibration error over all labels of all pictures, in NUM_BINS bins of probability."""
    num, num_labels = labels.shape
    bins = np.clip((probabilities * NUM_ECE_BINS).astype(int), 0, NUM_ECE_BINS - 1)
    places = bins + NUM_ECE_BINS * np.arange(num)[:, None]
    gaps = np.bincount(places.ravel(), (probabilities - labels).ravel(), minlength=num * NUM_ECE_BINS)
    of_picture = gaps.reshape(num, NUM_ECE_BINS) / num_labels
    return lambda weights: np.asarray(np.abs(weights @ of_picture).sum(1) / weights.sum(1))


MULTILABEL_METRICS: dict[str, tuple[Callable[[np.ndarray, np.ndarray, np.ndarray], WeightedMetric], float]] = {
    "map": (mean_average_precision, 1.0),
    "macro_f1": (macro_f1, 1.0),
    "micro_f1": (micro_f1, 1.0),
    "macro_recall": (macro_recall, 1.0),
    "accuracy": (accuracy, 1.0),
    "log_loss": (log_loss, -1.0),
    "calibration_error": (calibration_error, -1.0),
}


def _make_averaged_metric(name: str, labels: np.ndarray, said: np.ndarray) -> WeightedMetric:
    given = labels > 0
    counts = [matrix.astype(np.float64) for matrix in (given & said, given, said)]
    mean = metrics.micro_average if name.startswith("micro") else metrics.macro_average
    return lambda weights: mean(*(weights @ one for one in counts))[name]
