"""What a classifier got right: pure functions of labels, predictions and probabilities.

A number that is undefined (the recall of a class without pictures) is left out; nothing here returns NaN.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

NUM_ECE_BINS = 15  # of the expected calibration error of a comparison, as in Guo et al. (2017)
MIN_PROBABILITY = 1e-12  # what the log loss makes of a zero

WeightedMetric = Callable[[np.ndarray], np.ndarray]  # how often each picture counts (B, n) -> values (B,)


def confusion_matrix(labels: np.ndarray, predicted: np.ndarray, num_classes: int) -> np.ndarray:
    """Counts int64 (num_classes, num_classes): row = true class, column = predicted class."""
    cells = np.bincount(labels * num_classes + predicted, minlength=num_classes**2)
    return cells.reshape(num_classes, num_classes)


def compute_class_rates(confusion: np.ndarray, classes: Sequence[str]) -> dict[str, dict[str, float]]:
    """Precision, recall and F1 of each class: {"recall": {class: value}, ...}.

    A class without pictures has no recall and no F1, a class that was never predicted no precision.
    """
    return compute_rates(confusion.diagonal(), confusion.sum(axis=1), confusion.sum(axis=0), classes)


def compute_rates(
    right: np.ndarray, given: np.ndarray, said: np.ndarray, classes: Sequence[str]
) -> dict[str, dict[str, float]]:
    """As `compute_class_rates`, from how often each class was rightly said, was given, and was said; (num_classes,) each."""
    return {
        "recall": _divide_where_defined(classes, right, given),
        "precision": _divide_where_defined(classes, right, said),
        "f1": _divide_where_defined(classes, 2 * right, np.where(given > 0, given + said, 0)),
    }


def macro_average(right: np.ndarray, given: np.ndarray, said: np.ndarray) -> dict[str, np.ndarray]:
    """Means over the classes that have pictures, of recall, precision and F1; each array is (..., num_classes).

    A class that was never predicted counts with precision 0: not to name it is no way to be precise.
    """
    there = given > 0
    num = np.maximum(there.sum(axis=-1), 1)
    return {
        "macro_recall": (right / np.maximum(given, 1) * there).sum(axis=-1) / num,
        "macro_precision": (right / np.maximum(said, 1) * there).sum(axis=-1) / num,
        "macro_f1": (2 * right / np.maximum(given + said, 1) * there).sum(axis=-1) / num,
    }


def micro_average(right: np.ndarray, given: np.ndarray, said: np.ndarray) -> dict[str, np.ndarray]:
    """Recall, precision and F1 of all labels taken together; each array is (..., num_classes)."""
    right, given, said = (counts.sum(axis=-1) for counts in (right, given, said))
    return {
        "micro_recall": right / np.maximum(given, 1),
        "micro_precision": right / np.maximum(said, 1),
        "micro_f1": 2 * right / np.maximum(given + said, 1),
    }


def is_top_k_correct(labels: np.ndarray, scores: np.ndarray, k: int) -> np.ndarray:
    """bool (n,): whether the true class is among the k classes with the highest scores (n, C)."""
    best = np.argpartition(-scores, k - 1, axis=1)[:, :k]
    right: np.ndarray = (best == labels[:, None]).any(axis=1)
    return right


def auroc(positive: np.ndarray, scores: np.ndarray) -> float | None:
    """Chance that a positive has a higher score than a negative, ties half; None without one of each.

    Source: the rank sum of Mann and Whitney, 1947.
    """
    num_positive = int(positive.sum())
    num_negative = len(positive) - num_positive
    if not num_positive or not num_negative:
        return None
    _, place, count = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(count) - (count - 1) / 2)[place]
    above = ranks[positive.astype(bool)].sum() - num_positive * (num_positive + 1) / 2
    return float(above / (num_positive * num_negative))


def average_precision(positive: np.ndarray, scores: np.ndarray) -> float | None:
    """Precision at each new recall, from the highest score down, weighted by what it adds; None without positives.

    Source: M. Zhu, "Recall, Precision and Average Precision", 2004; equal scores are taken together.
    """
    if not positive.sum():
        return None
    return float(weighted_average_precision(positive, scores)(np.ones((1, len(scores))))[0])


def weighted_average_precision(positive: np.ndarray, scores: np.ndarray) -> WeightedMetric:
    """The same where each picture counts several times or not at all; NaN where no positive does."""
    order = np.argsort(-scores, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(order) - 1)
    there = positive[order] > 0

    def measure(weights: np.ndarray) -> np.ndarray:
        ranked = weights[:, order]
        found, seen = (np.cumsum(one, axis=1)[:, ends] for one in (ranked * there, ranked))
        gained = np.diff(found, axis=1, prepend=0)
        with np.errstate(invalid="ignore"):
            return np.asarray((gained * found / np.maximum(seen, 1)).sum(axis=1) / found[:, -1])

    return measure


def weighted_mean_ap(positive: np.ndarray, scores: np.ndarray) -> WeightedMetric:
    """Mean average precision, over the labels that some picture bears; positive and scores are (n, C)."""
    columns = [i for i in range(positive.shape[1]) if positive[:, i].any()]
    each = [weighted_average_precision(positive[:, i], scores[:, i]) for i in columns]

    def measure(weights: np.ndarray) -> np.ndarray:
        values = np.stack([one(weights) for one in each] or [np.zeros(len(weights))])
        there = ~np.isnan(values)
        return np.asarray(np.where(there, values, 0).sum(axis=0) / np.maximum(there.sum(axis=0), 1))

    return measure


def compute_per_class(
    metric: Any, positive: np.ndarray, scores: np.ndarray, classes: Sequence[str]
) -> dict[str, float]:
    """`auroc` or `average_precision` of every class against the rest; positive and scores are (n, C)."""
    values = {name: metric(positive[:, i], scores[:, i]) for i, name in enumerate(classes)}
    return {name: value for name, value in values.items() if value is not None}


def average_over_classes(name: str, values: dict[str, float]) -> dict[str, float]:
    """{name: their mean}, or nothing where there are no values."""
    return {name: float(np.mean(list(values.values())))} if values else {}


def _divide_where_defined(classes: Sequence[str], part: np.ndarray, whole: np.ndarray) -> dict[str, float]:
    return {name: float(part[i] / whole[i]) for i, name in enumerate(classes) if whole[i]}
