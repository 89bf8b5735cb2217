"""Comparison of one model with predictions that ignore the images.

Single labels: the accuracy is compared with that of always predicting the most frequent class of the test images.
The interval of the difference has to lie above 0, and so has the exact sign test over groups: with few of them the
percentile interval is too narrow.

Several labels: the mean average precision is compared with that of scores without information. Its bootstrap
interval does not serve: drawing an image twice makes ties, and of 30 images with random scores it lies above the
baseline in more than half of all cases. A permutation test is exact: the labels are shuffled over the images, and
those of a group stay together. Source: P. Good, "Permutation, Parametric and Bootstrap Tests of Hypotheses", 2005.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lightning_modules.comparison.paired import PairedPredictions, compare_paired
from lightning_modules.evaluation.metrics import find_varied_labels

_MAX_LABELS_IN_MEMORY = 4_000_000  # shuffled labels that are held at a time


@dataclass(frozen=True)
class BaselineComparison:
    """A metric of a model beside that of predictions which ignore the images.

    Attributes:
        metric: "accuracy", or "map" of several labels.
        value: of the model; None if it is undefined, since no label has both kinds of images.
        baseline: of the predictions that ignore the images.
        most_frequent: the class that these always predict; None for several labels.
        p_value: the probability of at least this value without information in the model's predictions.
        is_better: whether the model is better, beyond chance.
        can_be_shown: whether these images could show it of a model without mistakes.
    """

    metric: str
    value: float | None
    baseline: float
    most_frequent: str | None
    p_value: float
    is_better: bool
    can_be_shown: bool


def compare_with_baseline(
    labels: np.ndarray,
    probabilities: np.ndarray,
    classes: tuple[str, ...],
    groups: np.ndarray,
    confidence: float,
    num_resamples: int,
) -> BaselineComparison:
    """Compare a model with predictions that ignore the images.

    Args:
        labels: int (N,), positions in `classes`; multi-label: 0 and 1 (N, K).
        probabilities: of the model, float (N, K).
        classes: K names.
        groups: int (N,), equal for images that belong together.
        confidence: of the two-sided interval, e.g. 0.95; the tests use its upper tail.
        num_resamples: how often images are resampled, or labels shuffled.
    """
    compare = _compare_multilabel if labels.ndim == 2 else _compare_multiclass
    return compare(labels, probabilities, classes, groups, confidence, num_resamples)


def _compare_multiclass(
    labels: np.ndarray,
    probabilities: np.ndarray,
    classes: tuple[str, ...],
    groups: np.ndarray,
    confidence: float,
    num_resamples: int,
) -> BaselineComparison:
    most_frequent = int(np.bincount(labels, minlength=len(classes)).argmax())
    constant = np.zeros((len(labels), len(classes)))
    constant[:, most_frequent] = 1
    paired = PairedPredictions(labels, probabilities, constant, classes, groups)
    estimate = compare_paired(paired, "accuracy", confidence, num_resamples)
    tail = (1 - confidence) / 2
    is_baseline_right = labels == most_frequent
    is_right = (probabilities.argmax(axis=1) == labels) & (probabilities.max(axis=1) > 0)
    p_value = _sign_test_of_groups(is_right, is_baseline_right, paired.clusters)
    best_p_value = _sign_test_of_groups(np.ones_like(is_right), is_baseline_right, paired.clusters)
    return BaselineComparison(
        "accuracy", estimate.candidate, estimate.champion, classes[most_frequent], p_value,
        is_better=estimate.low > 0 and p_value <= tail, can_be_shown=best_p_value <= tail,
    )  # fmt: skip


def _sign_test_of_groups(is_right: np.ndarray, is_baseline_right: np.ndarray, clusters: np.ndarray) -> float:
    """Return the probability that by chance alone the model wins in at least as many groups as it does."""
    from scipy.stats import binom

    net = np.bincount(clusters, is_right.astype(int) - is_baseline_right)
    num_won, num_lost = int((net > 0).sum()), int((net < 0).sum())
    return float(binom.sf(num_won - 1, num_won + num_lost, 0.5))


def _compare_multilabel(
    labels: np.ndarray,
    probabilities: np.ndarray,
    classes: tuple[str, ...],
    groups: np.ndarray,
    confidence: float,
    num_resamples: int,
) -> BaselineComparison:
    varied = find_varied_labels(labels > 0)
    if not varied:
        return BaselineComparison("map", None, 0.0, None, 1.0, is_better=False, can_be_shown=False)
    positive, scores = labels[:, varied] > 0, probabilities[:, varied]
    value, p_value = shuffle_labels(positive, scores, groups, num_resamples)
    _, best_p_value = shuffle_labels(positive, positive.astype(float), groups, num_resamples)
    tail = (1 - confidence) / 2
    return BaselineComparison(
        "map", value, float(positive.mean()), None, p_value, is_better=p_value <= tail,
        can_be_shown=best_p_value <= tail,
    )  # fmt: skip


def shuffle_labels(
    positive: np.ndarray, scores: np.ndarray, groups: np.ndarray, num_shuffles: int, seed: int = 0
) -> tuple[float, float]:
    """Return the mean average precision, and the probability of at least as much with shuffled labels.

    Args:
        positive: bool (N, K), with both kinds of images in each column.
        scores: float (N, K).
        groups: int (N,); the labels of a group are shuffled as one block.
        num_shuffles: how often the labels are shuffled.
        seed: of the shuffles.
    """
    rng = np.random.default_rng(seed)
    by_group = np.argsort(groups, kind="stable")
    clusters = np.unique(groups[by_group], return_inverse=True)[1]
    (value,) = _compute_mean_ap(positive, scores, np.arange(len(positive))[None])
    num_as_good = 0
    step = max(1, _MAX_LABELS_IN_MEMORY // positive.size)
    for start in range(0, num_shuffles, step):
        keys = rng.random((min(step, num_shuffles - start), clusters[-1] + 1))
        source = np.empty((len(keys), len(positive)), np.int64)
        source[:, by_group] = by_group[np.argsort(keys[:, clusters], axis=1, kind="stable")]
        num_as_good += int((_compute_mean_ap(positive, scores, source) >= value - 1e-12).sum())
    return float(value), (1 + num_as_good) / (1 + num_shuffles)


def _compute_mean_ap(positive: np.ndarray, scores: np.ndarray, source: np.ndarray) -> np.ndarray:
    """Return the mean average precision (B,) where image i has the labels of image source[:, i], source (B, N)."""
    values = []
    for is_positive, column in zip(positive.T, scores.T, strict=True):
        order = np.argsort(-column, kind="stable")
        ends = np.append(np.flatnonzero(np.diff(column[order])), len(order) - 1)
        true_positives = np.cumsum(is_positive[source[:, order]], axis=1)[:, ends]
        gained = np.diff(true_positives, axis=1, prepend=0)
        values.append((gained * true_positives / (ends + 1)).sum(axis=1) / true_positives[:, -1])
    return np.asarray(np.mean(values, axis=0))
