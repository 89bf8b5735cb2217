"""Metrics of a classifier: pure functions of labels, predictions and probabilities.

Undefined values, such as the recall of a class without images, are left out of dictionaries.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

NUM_ECE_BINS = 15  # of the expected calibration error of a comparison, as in Guo et al. (2017)
MIN_PROBABILITY = 1e-12  # lower limit of probabilities in the log loss

BASELINE_PREFIX = "baseline_"  # before the name of a metric: that of predictions that ignore the images

WeightedMetric = Callable[[np.ndarray], np.ndarray]  # how often each image counts (B, n) -> values (B,)


def confusion_matrix(labels: np.ndarray, predicted: np.ndarray, num_classes: int) -> np.ndarray:
    """Return counts, int64 (num_classes, num_classes): row = true class, column = predicted class."""
    cells = np.bincount(labels * num_classes + predicted, minlength=num_classes**2)
    return cells.reshape(num_classes, num_classes)


def compute_class_rates(confusion: np.ndarray, classes: Sequence[str]) -> dict[str, dict[str, float]]:
    """Return precision, recall and F1 of each class: {"recall": {class: value}, ...}.

    A class without images has no recall and no F1, a class that was never predicted has no precision.
    """
    return compute_rates(confusion.diagonal(), confusion.sum(axis=1), confusion.sum(axis=0), classes)


def compute_rates(
    correct: np.ndarray, actual: np.ndarray, predicted: np.ndarray, classes: Sequence[str]
) -> dict[str, dict[str, float]]:
    """Return precision, recall and F1 of each class, as `compute_class_rates` does, from counts.

    Args:
        correct: (num_classes,), how often each class was predicted correctly.
        actual: (num_classes,), the number of images of each class.
        predicted: (num_classes,), how often each class was predicted.
        classes: names.
    """
    return {
        "recall": _divide_where_defined(classes, correct, actual),
        "precision": _divide_where_defined(classes, correct, predicted),
        "f1": _divide_where_defined(classes, 2 * correct, np.where(actual > 0, actual + predicted, 0)),
    }


def macro_average(correct: np.ndarray, actual: np.ndarray, predicted: np.ndarray) -> dict[str, np.ndarray]:
    """Return the means of recall, precision and F1 over the classes that have images.

    A class that was never predicted counts with precision 0. The arrays are counts as in `compute_rates`, each
    (..., num_classes).
    """
    has_images = actual > 0
    num = np.maximum(has_images.sum(axis=-1), 1)
    return {
        "macro_recall": (correct / np.maximum(actual, 1) * has_images).sum(axis=-1) / num,
        "macro_precision": (correct / np.maximum(predicted, 1) * has_images).sum(axis=-1) / num,
        "macro_f1": (2 * correct / np.maximum(actual + predicted, 1) * has_images).sum(axis=-1) / num,
    }


def micro_average(correct: np.ndarray, actual: np.ndarray, predicted: np.ndarray) -> dict[str, np.ndarray]:
    """Return recall, precision and F1 of all labels taken together; the arrays are as in `macro_average`."""
    correct, actual, predicted = (counts.sum(axis=-1) for counts in (correct, actual, predicted))
    return {
        "micro_recall": correct / np.maximum(actual, 1),
        "micro_precision": correct / np.maximum(predicted, 1),
        "micro_f1": 2 * correct / np.maximum(actual + predicted, 1),
    }


def is_top_k_correct(labels: np.ndarray, scores: np.ndarray, k: int) -> np.ndarray:
    """Return, bool (n,), whether the true class is among the k classes with the highest scores (n, C)."""
    best = np.argpartition(-scores, k - 1, axis=1)[:, :k]
    correct: np.ndarray = (best == labels[:, None]).any(axis=1)
    return correct


def auroc(positive: np.ndarray, scores: np.ndarray) -> float | None:
    """Return the probability that a positive has a higher score than a negative; ties count half.

    None if there are no positives or no negatives. Source: the rank sum of Mann and Whitney, 1947.
    """
    num_positive = int(positive.sum())
    num_negative = len(positive) - num_positive
    if not num_positive or not num_negative:
        return None
    _, inverse, count = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(count) - (count - 1) / 2)[inverse]
    above = ranks[positive.astype(bool)].sum() - num_positive * (num_positive + 1) / 2
    return float(above / (num_positive * num_negative))


def average_precision(positive: np.ndarray, scores: np.ndarray) -> float | None:
    """Return the mean of the precisions at each recall, weighted by the gain in recall.

    None without positives, and without negatives: any scores would then have a precision of 1.

    Source: M. Zhu, "Recall, Precision and Average Precision", 2004; equal scores are taken together.
    """
    if positive.all() or not positive.any():
        return None
    return float(weighted_average_precision(positive, scores)(np.ones((1, len(scores))))[0])


def weighted_average_precision(positive: np.ndarray, scores: np.ndarray) -> WeightedMetric:
    """Return average precision as a function of the images' weights; NaN if all that count are of one kind."""
    order = np.argsort(-scores, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(order) - 1)
    is_positive = positive[order] > 0

    def measure(weights: np.ndarray) -> np.ndarray:
        ranked = weights[:, order]
        true_positives = np.cumsum(ranked * is_positive, axis=1)[:, ends]
        num_above = np.cumsum(ranked, axis=1)[:, ends]
        gained = np.diff(true_positives, axis=1, prepend=0)
        num_positive, num = true_positives[:, -1], num_above[:, -1]
        sums = (gained * true_positives / np.maximum(num_above, 1)).sum(axis=1)
        is_defined = (num_positive > 0) & (num_positive < num)
        return np.where(is_defined, sums / np.maximum(num_positive, 1), np.nan)

    return measure


def weighted_mean_ap(positive: np.ndarray, scores: np.ndarray) -> WeightedMetric:
    """Return mean average precision over the labels that some images have and some lack, by the images' weights.

    Args:
        positive: 0 and 1 (n, C).
        scores: float (n, C).
    """
    columns = find_varied_labels(positive)
    label_metrics = [weighted_average_precision(positive[:, i], scores[:, i]) for i in columns]

    def measure(weights: np.ndarray) -> np.ndarray:
        values = np.stack([metric(weights) for metric in label_metrics] or [np.zeros(len(weights))])
        is_defined = ~np.isnan(values)
        return np.asarray(np.where(is_defined, values, 0).sum(axis=0) / np.maximum(is_defined.sum(axis=0), 1))

    return measure


def find_varied_labels(positive: np.ndarray) -> list[int]:
    """Return the columns of (n, C) with both kinds of images: of the others the average precision is undefined."""
    return np.flatnonzero(positive.any(axis=0) & ~positive.all(axis=0)).tolist()


def compute_per_class(
    metric: Any, positive: np.ndarray, scores: np.ndarray, classes: Sequence[str]
) -> dict[str, float]:
    """Return `auroc` or `average_precision` of every class against the rest; undefined values are left out.

    Args:
        metric: either of the two functions.
        positive: 0 and 1 (n, C).
        scores: float (n, C).
        classes: names.
    """
    values = {name: metric(positive[:, i], scores[:, i]) for i, name in enumerate(classes)}
    return {name: value for name, value in values.items() if value is not None}


def average_over_classes(name: str, values: dict[str, float]) -> dict[str, float]:
    """Return {name: mean of the values}, or an empty dictionary if there are no values."""
    return {name: float(np.mean(list(values.values())))} if values else {}


def _divide_where_defined(classes: Sequence[str], part: np.ndarray, whole: np.ndarray) -> dict[str, float]:
    return {name: float(part[i] / whole[i]) for i, name in enumerate(classes) if whole[i]}


def compute_baselines(labels: np.ndarray, num_classes: int) -> dict[str, float]:
    """Return the metrics of predictions that ignore the images and know only how often each class occurs.

    `baseline_accuracy` is that of always predicting the most frequent class (multi-label: the most frequent set of
    labels), and `baseline_loss` the log loss of the shares of the classes as probabilities (multi-label: the mean
    over the labels). For multi-label datasets `baseline_map` is the mean share of the labels that some images have
    and some lack, which is the average precision of scores without information; without such labels it is left
    out. The first two are scikit-learn's DummyClassifier with the strategies `most_frequent` and `prior`, on the
    images themselves.

    Args:
        labels: int (n,), n > 0; multi-label: 0 and 1 (n, K).
        num_classes: K.
    """
    if labels.ndim == 2:
        shares = (labels > 0).mean(axis=0)
        _, counts = np.unique(labels > 0, axis=0, return_counts=True)
        varied = find_varied_labels(labels > 0)
        baselines = {
            "accuracy": counts.max() / len(labels),
            "loss": _entropy(np.stack([shares, 1 - shares])).mean(),
        }
        baselines |= {"map": shares[varied].mean()} if varied else {}
    else:
        shares = np.bincount(labels, minlength=num_classes) / len(labels)
        baselines = {"accuracy": shares.max(), "loss": _entropy(shares)}
    return {f"{BASELINE_PREFIX}{name}": float(value) for name, value in baselines.items()}


def _entropy(shares: np.ndarray) -> np.ndarray:
    """Return the entropy, in nats, of shares along the first axis: the log loss of predicting just them."""
    return -(shares * np.log(np.where(shares > 0, shares, 1))).sum(axis=0)
