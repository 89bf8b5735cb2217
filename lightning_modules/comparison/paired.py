"""Paired comparison of two models on the same test images: differences of metrics and their intervals.

All functions are pure. The bootstrap resamples groups, not images: the images of a group resemble each other, and
resampling them separately would make every interval too narrow.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from math import comb

import numpy as np

from imageset.exceptions import UserError
from lightning_modules.comparison import multilabel_metrics
from lightning_modules.comparison.multiclass_metrics import MULTICLASS_METRICS
from lightning_modules.evaluation.bootstrap import resample_weights
from lightning_modules.evaluation.metrics import WeightedMetric

_MAX_WEIGHTS_IN_CACHE = 1 << 18  # weights that are computed at once; they fit in a processor's cache


@dataclass(frozen=True)
class PairedPredictions:
    """Predictions of candidate and champion on the same N test images.

    Attributes:
        labels: int (N,), positions in `classes`; multi-label: 0 and 1 (N, K).
        candidate: probabilities of the candidate, float (N, K) over `classes`; zeros for an image that the model
            could not read and for a class that it does not know.
        champion: likewise, of the champion.
        classes: K names.
        groups: int (N,), equal for images that belong together.
        candidate_predicted: multi-label: the labels that the candidate predicts, bool (N, K).
        champion_predicted: multi-label: the labels that the champion predicts, bool (N, K).
    """

    labels: np.ndarray
    candidate: np.ndarray
    champion: np.ndarray
    classes: tuple[str, ...]
    groups: np.ndarray
    candidate_predicted: np.ndarray | None = None
    champion_predicted: np.ndarray | None = None

    def __post_init__(self) -> None:
        assert self.candidate.shape == self.champion.shape == (len(self.labels), len(self.classes))
        assert len(self.groups) == len(self.labels) > 0

    def make_metrics(self, metric: str) -> tuple[WeightedMetric, WeightedMetric, float]:
        """Return a metric of the candidate and of the champion, and 1 if higher is better, else -1."""
        if self.candidate_predicted is None or self.champion_predicted is None:
            make, sign = MULTICLASS_METRICS[metric]
            return make(self.labels, self.candidate), make(self.labels, self.champion), sign
        make_multilabel, sign = multilabel_metrics.MULTILABEL_METRICS[metric]
        candidate = make_multilabel(self.labels, self.candidate, self.candidate_predicted)
        return candidate, make_multilabel(self.labels, self.champion, self.champion_predicted), sign

    @cached_property
    def clusters(self) -> np.ndarray:
        """The groups numbered from 0, int64 (N,)."""
        return np.unique(self.groups, return_inverse=True)[1]


@dataclass(frozen=True)
class GainEstimate:
    """A metric of candidate and champion, with the interval of the gain.

    Attributes:
        candidate: the candidate's value.
        champion: the champion's value.
        low: lower end of the interval of the gain.
        high: upper end of the interval of the gain.
        sign: 1 if higher values are better, else -1.
    """

    candidate: float
    champion: float
    low: float
    high: float
    sign: float = 1.0

    @property
    def gain(self) -> float:
        """The improvement of the candidate on these images; above 0 is better."""
        return self.sign * (self.candidate - self.champion)


def compare_paired(
    predictions: PairedPredictions, metric: str, confidence: float, num_resamples: int, seed: int = 0
) -> GainEstimate:
    """Compute the paired difference of a metric with its percentile bootstrap interval (Efron & Tibshirani, 1993).

    Args:
        predictions: of both models.
        metric: a key of MULTICLASS_METRICS; for multi-label predictions of MULTILABEL_METRICS.
        confidence: of the two-sided interval, e.g. 0.95.
        num_resamples: how often the test images are resampled.
        seed: of the resampling.
    """
    candidate, champion, sign = predictions.make_metrics(metric)
    resamples = iter_resamples(predictions, num_resamples, seed)
    gains = [sign * (candidate(weights) - champion(weights)) for weights in resamples]
    tail = 100 * (1 - confidence) / 2
    low, high = np.percentile(np.concatenate(gains), [tail, 100 - tail])
    ones = np.ones((1, len(predictions.labels)))
    return GainEstimate(float(candidate(ones)[0]), float(champion(ones)[0]), float(low), float(high), sign)


def iter_resamples(predictions: PairedPredictions, num_resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Yield how often each image is in each resample, float64 (B, N), B resamples at a time.

    Groups are drawn with replacement.
    """
    for weights in resample_weights(predictions.clusters, num_resamples, seed, _MAX_WEIGHTS_IN_CACHE):
        yield weights.astype(np.float64)


def sign_test(num_losses: int, num_gains: int) -> float:
    """Return the probability of `num_losses` or more heads in `num_losses + num_gains` tosses of a fair coin."""
    tosses = num_losses + num_gains
    return sum(comb(tosses, heads) for heads in range(num_losses, tosses + 1)) / 2**tosses


def check_metric(name: str, where: str, multi_label: bool | None) -> None:
    """Raise UserError if there is no such metric, or none for this kind of dataset.

    Args:
        name: of the metric.
        where: the file and key that name it, for the message.
        multi_label: whether the dataset is multi-label; None if that is not known yet.
    """
    from imageset.utils.text import suggest_name

    known = {**MULTICLASS_METRICS, **multilabel_metrics.MULTILABEL_METRICS}
    if name not in known:
        raise UserError(f"{where}: no metric '{name}'; {suggest_name(name, known)}")
    if multi_label is False and name not in MULTICLASS_METRICS:
        raise UserError(
            f"{where}: '{name}' is for multi-label datasets, this dataset has one label a picture; "
            f"use {', '.join(MULTICLASS_METRICS)}"
        )
