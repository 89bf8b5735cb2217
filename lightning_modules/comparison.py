"""Two models on the same test pictures: which is better, by how much, and how sure that is.

Everything here is numbers in, numbers out. What is drawn again in the bootstrap is the group, not the picture: the
pictures of a group resemble each other, and counted one by one they would make every interval too narrow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from math import comb

import numpy as np

from imageset.errors import UserError
from lightning_modules import set_metrics
from lightning_modules.intervals import resampled
from lightning_modules.measures import MIN_PROBABILITY, NUM_BINS

_CELLS_AT_ONCE = 1 << 18  # numbers resampled at once: what a processor's cache holds


Metric = Callable[[np.ndarray], np.ndarray]  # weights (B, N) of the pictures -> values (B,)


@dataclass(frozen=True)
class Trial:
    """Newcomer and champion on the same N test pictures.

    Attributes:
        labels: int (N,), positions in `classes`; or 0 and 1 (N, K), where a picture may bear several.
        newcomer, champion: probabilities float (N, K) over `classes`; a picture that a model could not read, and a
            class that it does not know, has zeros.
        classes: K names.
        groups: int (N,), equal for pictures that belong together.
        newcomer_said, champion_said: which labels each says, bool (N, K), where a picture may bear several.
    """

    labels: np.ndarray
    newcomer: np.ndarray
    champion: np.ndarray
    classes: tuple[str, ...]
    groups: np.ndarray
    newcomer_said: np.ndarray | None = None
    champion_said: np.ndarray | None = None

    def __post_init__(self) -> None:
        assert self.newcomer.shape == self.champion.shape == (len(self.labels), len(self.classes))
        assert len(self.groups) == len(self.labels) > 0

    def measured(self, metric: str) -> tuple[Metric, Metric, float]:
        """A metric of the newcomer and of the champion, and 1 if more of it is better, else -1."""
        if self.newcomer_said is None or self.champion_said is None:
            make, sign = METRICS[metric]
            return make(self.labels, self.newcomer), make(self.labels, self.champion), sign
        of_sets, sign = set_metrics.METRICS[metric]
        new = of_sets(self.labels, self.newcomer, self.newcomer_said)
        return new, of_sets(self.labels, self.champion, self.champion_said), sign

    @cached_property
    def clusters(self) -> np.ndarray:
        """int64 (N,): the groups numbered from 0."""
        return np.unique(self.groups, return_inverse=True)[1]


@dataclass(frozen=True)
class Estimate:
    """A difference newcomer - champion, signed so that more is better, and its interval."""

    newcomer: float
    champion: float
    low: float
    high: float

    @property
    def gain(self) -> float:
        """How much better the newcomer is on these pictures."""
        return self.sign * (self.newcomer - self.champion)

    sign: float = 1.0


@dataclass(frozen=True)
class ClassChange:
    """The recall of one class under both models, and the probability of such a fall by chance alone."""

    name: str
    num_test: int
    newcomer: float
    champion: float
    chance: float


def compare(trial: Trial, metric: str, confidence: float, num_resamples: int, seed: int = 0) -> Estimate:
    """The paired difference in a metric with its percentile bootstrap interval (Efron & Tibshirani, 1993).

    Args:
        metric: a key of METRICS; of `set_metrics.METRICS` where a picture may bear several labels.
        confidence: of the two-sided interval, e.g. 0.95.
        num_resamples: how often the test pictures are drawn again.
    """
    new, old, sign = trial.measured(metric)
    whole = np.ones((1, len(trial.labels)))
    drawn = [sign * (new(weights) - old(weights)) for weights in resamples(trial, num_resamples, seed)]
    tail = 100 * (1 - confidence) / 2
    low, high = np.percentile(np.concatenate(drawn), [tail, 100 - tail])
    return Estimate(float(new(whole)[0]), float(old(whole)[0]), float(low), float(high), sign)


def resamples(trial: Trial, num_resamples: int, seed: int) -> Iterator[np.ndarray]:
    """How often each picture was drawn, float64 (B, N), some resamples at a time: groups with replacement."""
    for weights in resampled(trial.clusters, num_resamples, seed, _CELLS_AT_ONCE):
        yield weights.astype(np.float64)


def changes_by_class(trial: Trial) -> list[ClassChange]:
    """The recall of each class, or label, that has test pictures.

    `chance` is that of the one-sided sign test over groups: how probable as many losses are if each change were a
    toss of a coin. A class of few pictures proves little.
    """
    changes = []
    for name, here, now, was in _recalled(trial):
        if here.any():
            step = now[here].astype(int) - was[here]
            net = np.bincount(np.unique(trial.clusters[here], return_inverse=True)[1], step)
            chance = sign_test(int((net < 0).sum()), int((net > 0).sum()))
            changes.append(ClassChange(name, int(here.sum()), now[here].mean(), was[here].mean(), chance))
    return changes


def _recalled(trial: Trial) -> Iterator[tuple[str, np.ndarray, np.ndarray, np.ndarray]]:
    """Each class, which pictures bear it, and of which of these newcomer and champion say it: bool (N,) each."""
    if trial.newcomer_said is None or trial.champion_said is None:
        now, was = right(trial.labels, trial.newcomer), right(trial.labels, trial.champion)
        for number, name in enumerate(trial.classes):
            yield name, trial.labels == number, now, was
    else:
        for number, name in enumerate(trial.classes):
            said = trial.newcomer_said[:, number], trial.champion_said[:, number]
            yield name, trial.labels[:, number] > 0, *said


def sign_test(num_losses: int, num_gains: int) -> float:
    """The probability of `num_losses` or more heads in that many tosses of a fair coin."""
    tosses = num_losses + num_gains
    return sum(comb(tosses, heads) for heads in range(num_losses, tosses + 1)) / 2**tosses


def right(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """bool (N,): the best class is the true one; a picture without probabilities is wrong."""
    return np.asarray((probabilities.argmax(1) == labels) & (probabilities.max(1) > 0))


# ---- metrics: (labels, probabilities) -> a function of the pictures' weights -----------------------------------


def accuracy(labels: np.ndarray, probabilities: np.ndarray) -> Metric:
    """The share of pictures whose best class is the true one."""
    hit = right(labels, probabilities).astype(np.float64)
    return lambda weights: np.asarray(weights @ hit / weights.sum(1))


def log_loss(labels: np.ndarray, probabilities: np.ndarray) -> Metric:
    """The mean of -log(probability of the true class), in nats."""
    true = probabilities[np.arange(len(labels)), labels]
    loss = -np.log(np.clip(true.astype(np.float64), MIN_PROBABILITY, 1))
    return lambda weights: np.asarray(weights @ loss / weights.sum(1))


def macro_recall(labels: np.ndarray, probabilities: np.ndarray) -> Metric:
    """The mean of the recalls of the classes that have pictures (balanced accuracy)."""
    hit = right(labels, probabilities)
    actual = _sums_by(labels)
    return lambda weights: _mean_of_classes(actual(weights * hit), actual(weights))


def macro_f1(labels: np.ndarray, probabilities: np.ndarray) -> Metric:
    """The mean of the F1 scores of the classes that have pictures."""
    hit = right(labels, probabilities)
    best = np.where(probabilities.max(1) > 0, probabilities.argmax(1), probabilities.shape[1])
    actual, predicted = _sums_by(labels), _sums_by(best, np.unique(labels))

    def score(weights: np.ndarray) -> np.ndarray:
        num_actual = actual(weights)
        denominator = np.where(num_actual > 0, num_actual + predicted(weights), 0)
        return _mean_of_classes(2 * actual(weights * hit), denominator)

    return score


def calibration_error(labels: np.ndarray, probabilities: np.ndarray) -> Metric:
    """The expected calibration error: |confidence - accuracy| in NUM_BINS bins of confidence, weighted by size."""
    confidence = probabilities.max(1).astype(np.float64)
    gap = confidence - right(labels, probabilities)
    bins = _sums_by(np.clip((confidence * NUM_BINS).astype(int), 0, NUM_BINS - 1))
    return lambda weights: np.asarray(np.abs(bins(weights * gap)).sum(1) / weights.sum(1))


METRICS: dict[str, tuple[Callable[[np.ndarray, np.ndarray], Metric], float]] = {
    "accuracy": (accuracy, 1.0),
    "macro_f1": (macro_f1, 1.0),
    "macro_recall": (macro_recall, 1.0),
    "log_loss": (log_loss, -1.0),
    "calibration_error": (calibration_error, -1.0),
}


def check_metric(name: str, where: str, multi_label: bool | None) -> None:
    """Raise UserError if there is no such metric, or none for pictures of that kind (None: not known yet)."""
    from imageset.params import nearest

    if name not in METRICS.keys() | set_metrics.METRICS.keys():
        raise UserError(f"{where}: no metric '{name}'; {nearest(name, {**METRICS, **set_metrics.METRICS})}")
    if multi_label is False and name not in METRICS:
        raise UserError(
            f"{where}: '{name}' is for pictures that bear several labels, the dataset has one a picture; "
            f"give {', '.join(METRICS)}"
        )


def _sums_by(keys: np.ndarray, wanted: np.ndarray | None = None) -> Metric:
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


def _mean_of_classes(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """(B, K), (B, K) -> (B,): the mean of part / whole over the classes that were drawn at all."""
    there = whole > 0
    return np.asarray(np.where(there, part / np.where(there, whole, 1), 0).sum(1) / np.maximum(there.sum(1), 1))
