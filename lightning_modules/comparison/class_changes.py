"""Changes of each class between two models, and the rule by which a class has fallen.

A class has fallen if its recall drops by more than is allowed, and one of two things says that it is no chance:
- the sign test over groups, at the given confidence;
- more than half of its groups are lost, and at least two. No test can be sure with so few pictures, but a class
  that goes from 4 of 4 to 0 of 4 is gone, and a promotion that is refused costs less than one that loses a class.
See docs/decisions/0025.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from lightning_modules.comparison.multiclass_metrics import is_correct
from lightning_modules.comparison.paired import PairedPredictions, sign_test

LOST_SHARE, MIN_LOST_GROUPS = 0.5, 2  # a class that loses more of its recall, and so many groups, has fallen
ROUNDING = 1e-9  # 1 - 0.95 is more than 0.05 in floating point


@dataclass(frozen=True)
class ClassChange:
    """The recall of one class under both models.

    Attributes:
        name: of the class.
        num_images: the number of its images.
        num_groups: the number of groups that these belong to; images without a group are one each.
        candidate: the candidate's recall.
        champion: the champion's recall.
        num_lost_groups: groups with more images lost than gained, minus those with more gained than lost.
        p_value: the probability that as many groups are lost by chance alone.
    """

    name: str
    num_images: int
    num_groups: int
    candidate: float
    champion: float
    num_lost_groups: int
    p_value: float

    @property
    def drop(self) -> float:
        """The recall that is lost; negative if the candidate is better."""
        return self.champion - self.candidate

    def exceeds(self, max_drop: float) -> bool:
        """Return whether the recall drops by more than `max_drop` on these images."""
        return self.drop > max_drop + ROUNDING

    def has_fallen(self, max_drop: float, confidence: float) -> bool:
        """Return whether the class has lost more than `max_drop`, by the rule of this module.

        Args:
            max_drop: recall that a class may lose.
            confidence: of the sign test, e.g. 0.95.
        """
        is_lost = self.exceeds(LOST_SHARE) and self.num_lost_groups >= MIN_LOST_GROUPS
        return self.exceeds(max_drop) and (self.p_value <= 1 - confidence + ROUNDING or is_lost)


def compute_class_changes(predictions: PairedPredictions) -> list[ClassChange]:
    """Compute the change of recall of each class, or label, that has images.

    The p-value is that of the one-sided sign test over groups: the probability of at least as many losses if each
    change were a toss of a fair coin. It is large for a class of few images.
    """
    changes = []
    for name, has_label, candidate, champion in _iter_recalls(predictions):
        if has_label.any():
            step = candidate[has_label].astype(int) - champion[has_label]
            net = np.bincount(np.unique(predictions.clusters[has_label], return_inverse=True)[1], step)
            num_lost, num_gained = int((net < 0).sum()), int((net > 0).sum())
            recalls = candidate[has_label].mean(), champion[has_label].mean()
            p_value = sign_test(num_lost, num_gained)
            changes.append(
                ClassChange(name, int(has_label.sum()), len(net), *recalls, num_lost - num_gained, p_value)
            )
    return changes


def find_fallen_classes(
    evidence: Sequence[Sequence[ClassChange]], max_drop: float, confidence: float
) -> list[ClassChange]:
    """Return the classes that have fallen by any of several sets of images, each by the first that shows it.

    Args:
        evidence: the changes on each set of images. A further set can only add a class, and never clear one.
        max_drop: recall that a class may lose.
        confidence: of the sign test, e.g. 0.95.
    """
    fallen: dict[str, ClassChange] = {}
    for changes in evidence:
        for change in changes:
            if change.has_fallen(max_drop, confidence):
                fallen.setdefault(change.name, change)
    return list(fallen.values())


def count_needed_groups(max_drop: float, confidence: float) -> int:
    """Return how many groups a class needs before the loss of `max_drop` of them can be shown.

    The sign test needs k losses in a row, 2^-k <= 1 - confidence: 5 at 0.95. They are `max_drop` of k / max_drop
    groups, e.g. 100 for a drop of 0.05.

    Args:
        max_drop: recall that a class may lose; 0: the smallest number with which any loss can be shown.
        confidence: of the sign test, e.g. 0.95.
    """
    num_losses = math.ceil(-math.log2(1 - confidence) - ROUNDING)
    return math.ceil(num_losses / max_drop - ROUNDING) if max_drop else num_losses


def _iter_recalls(predictions: PairedPredictions) -> Iterator[tuple[str, np.ndarray, np.ndarray, np.ndarray]]:
    """Yield each class, which images have it, and for which of them each model predicts it.

    Yields:
        The name, and bool (N,) each: has the label, the candidate predicts it, the champion predicts it.
    """
    if predictions.candidate_predicted is None or predictions.champion_predicted is None:
        labels = predictions.labels
        correct = is_correct(labels, predictions.candidate), is_correct(labels, predictions.champion)
        for number, name in enumerate(predictions.classes):
            yield name, labels == number, *correct
    else:
        for number, name in enumerate(predictions.classes):
            predicted = predictions.candidate_predicted[:, number], predictions.champion_predicted[:, number]
            yield name, predictions.labels[:, number] > 0, *predicted
