"""Two models on the same test pictures: which is better, by how much, and how sure that is.

Everything here is numbers in, numbers out. What is drawn again in the bootstrap is the group, not the picture: the
pictures of a group resemble each other, and counted one by one they would make every interval too narrow.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from math import comb

import numpy as np

from imageset.exceptions import UserError
from lightning_modules.comparison import multilabel_metrics
from lightning_modules.comparison.multiclass_metrics import MULTICLASS_METRICS, Metric, is_correct
from lightning_modules.evaluation.bootstrap import resample_weights

_CELLS_AT_ONCE = 1 << 18  # numbers resampled at once: what a processor's cache holds


@dataclass(frozen=True)
class PairedPredictions:
    """Newcomer and champion on the same N test pictures.

    Attributes:
        labels: int (N,), positions in `classes`; or 0 and 1 (N, K), where a picture may bear several.
        candidate, champion: probabilities float (N, K) over `classes`; a picture that a model could not read, and a
            class that it does not know, has zeros.
        classes: K names.
        groups: int (N,), equal for pictures that belong together.
        candidate_predicted, champion_predicted: which labels each says, bool (N, K), where a picture may bear several.
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

    def make_metrics(self, metric: str) -> tuple[Metric, Metric, float]:
        """A metric of the candidate and of the champion, and 1 if more of it is better, else -1."""
        if self.candidate_predicted is None or self.champion_predicted is None:
            make, sign = MULTICLASS_METRICS[metric]
            return make(self.labels, self.candidate), make(self.labels, self.champion), sign
        of_sets, sign = multilabel_metrics.MULTILABEL_METRICS[metric]
        new = of_sets(self.labels, self.candidate, self.candidate_predicted)
        return new, of_sets(self.labels, self.champion, self.champion_predicted), sign

    @cached_property
    def clusters(self) -> np.ndarray:
        """int64 (N,): the groups numbered from 0."""
        return np.unique(self.groups, return_inverse=True)[1]


@dataclass(frozen=True)
class GainEstimate:
    """A difference candidate - champion, signed so that more is better, and its interval."""

    candidate: float
    champion: float
    low: float
    high: float

    @property
    def gain(self) -> float:
        """How much better the candidate is on these pictures."""
        return self.sign * (self.candidate - self.champion)

    sign: float = 1.0


@dataclass(frozen=True)
class ClassChange:
    """The recall of one class under both models, and the probability of such a fall by chance alone."""

    name: str
    num_test: int
    candidate: float
    champion: float
    p_value: float


def compare_paired(
    trial: PairedPredictions, metric: str, confidence: float, num_resamples: int, seed: int = 0
) -> GainEstimate:
    """The paired difference in a metric with its percentile bootstrap interval (Efron & Tibshirani, 1993).

    Args:
        metric: a key of METRICS; of `multilabel_metrics.MULTILABEL_METRICS` where a picture may bear several labels.
        confidence: of the two-sided interval, e.g. 0.95.
        num_resamples: how often the test pictures are drawn again.
    """
    new, old, sign = trial.make_metrics(metric)
    whole = np.ones((1, len(trial.labels)))
    drawn = [sign * (new(weights) - old(weights)) for weights in iter_resamples(trial, num_resamples, seed)]
    tail = 100 * (1 - confidence) / 2
    low, high = np.percentile(np.concatenate(drawn), [tail, 100 - tail])
    return GainEstimate(float(new(whole)[0]), float(old(whole)[0]), float(low), float(high), sign)


def iter_resamples(trial: PairedPredictions, num_resamples: int, seed: int) -> Iterator[np.ndarray]:
    """How often each picture was drawn, float64 (B, N), some resamples at a time: groups with replacement."""
    for weights in resample_weights(trial.clusters, num_resamples, seed, _CELLS_AT_ONCE):
        yield weights.astype(np.float64)


def compute_class_changes(trial: PairedPredictions) -> list[ClassChange]:
    """The recall of each class, or label, that has test pictures.

    `chance` is that of the one-sided sign test over groups: how probable as many losses are if each change were a
    toss of a coin. A class of few pictures proves little.
    """
    changes = []
    for name, here, now, was in _iter_recalls(trial):
        if here.any():
            step = now[here].astype(int) - was[here]
            net = np.bincount(np.unique(trial.clusters[here], return_inverse=True)[1], step)
            chance = sign_test(int((net < 0).sum()), int((net > 0).sum()))
            changes.append(ClassChange(name, int(here.sum()), now[here].mean(), was[here].mean(), chance))
    return changes


def _iter_recalls(trial: PairedPredictions) -> Iterator[tuple[str, np.ndarray, np.ndarray, np.ndarray]]:
    """Each class, which pictures bear it, and of which of these candidate and champion say it: bool (N,) each."""
    if trial.candidate_predicted is None or trial.champion_predicted is None:
        now, was = is_correct(trial.labels, trial.candidate), is_correct(trial.labels, trial.champion)
        for number, name in enumerate(trial.classes):
            yield name, trial.labels == number, now, was
    else:
        for number, name in enumerate(trial.classes):
            said = trial.candidate_predicted[:, number], trial.champion_predicted[:, number]
            yield name, trial.labels[:, number] > 0, *said


def sign_test(num_losses: int, num_gains: int) -> float:
    """The probability of `num_losses` or more heads in that many tosses of a fair coin."""
    tosses = num_losses + num_gains
    return sum(comb(tosses, heads) for heads in range(num_losses, tosses + 1)) / 2**tosses


def check_metric(name: str, where: str, multi_label: bool | None) -> None:
    """Raise UserError if there is no such metric, or none for pictures of that kind (None: not known yet)."""
    from imageset.utils.text import suggest_name

    if name not in MULTICLASS_METRICS.keys() | multilabel_metrics.MULTILABEL_METRICS.keys():
        raise UserError(
            f"{where}: no metric '{name}'; {suggest_name(name, {**MULTICLASS_METRICS, **multilabel_metrics.MULTILABEL_METRICS})}"
        )
    if multi_label is False and name not in MULTICLASS_METRICS:
        raise UserError(
            f"{where}: '{name}' is for pictures that bear several labels, the dataset has one a picture; "
            f"give {', '.join(MULTICLASS_METRICS)}"
        )
