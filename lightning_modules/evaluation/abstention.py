"""Abstaining: the accuracy of a model that predicts only where its confidence is high enough.

Without a label for its least confident images, a model covers a part of them (the coverage) and is wrong about
fewer of that part (the selective risk). Each threshold of confidence gives one pair of the two, and all of them
are the risk-coverage curve.

Sources: R. El-Yaniv, Y. Wiener, "On the Foundations of Noise-free Selective Classification", 2010; Y. Geifman,
R. El-Yaniv, "Selective Classification for Deep Neural Networks", 2017, arXiv:1705.08500.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

COVERAGES = (0.5, 0.8, 0.9)  # at which metrics.json gives the accuracy


@dataclass(frozen=True)
class RiskCoverageCurve:
    """Accuracy by coverage, from the most confident images to all.

    Attributes:
        threshold: (m,), each confidence that occurs, falling: images with at least this much are labelled.
        coverage: (m,), the share of all images that are labelled; the last is 1.
        accuracy: (m,), the share of correct predictions among these; the last is that of all images.
    """

    threshold: np.ndarray
    coverage: np.ndarray
    accuracy: np.ndarray

    @property
    def area_under_risk(self) -> float:
        """The mean of 1 - accuracy over all coverages (AURC, Geifman and El-Yaniv): low if mistakes come last."""
        widths = np.diff(self.coverage, prepend=0)
        return float((widths * (1 - self.accuracy)).sum())

    def find_accuracy(self, coverage: float) -> float:
        """Return the accuracy with the highest threshold that labels at least this share of the images."""
        position = int(np.searchsorted(self.coverage, coverage - 1e-9))
        return float(self.accuracy[position])

    def find_point(self, abstain_below: float) -> tuple[float, float | None]:
        """Return coverage and accuracy of a threshold; the accuracy is None if no image is labelled.

        Args:
            abstain_below: images with a lower confidence get no label.
        """
        num = int((self.threshold >= abstain_below).sum())
        return (float(self.coverage[num - 1]), float(self.accuracy[num - 1])) if num else (0.0, None)


def compute_risk_coverage(confidence: np.ndarray, correct: np.ndarray) -> RiskCoverageCurve:
    """Compute the risk-coverage curve; images of equal confidence are labelled together.

    Args:
        confidence: (n,), of each prediction, n > 0.
        correct: bool (n,), whether it is correct.
    """
    order = np.argsort(-confidence, kind="stable")
    ranked = confidence[order].astype(np.float64)  # as `predict` compares them with the threshold
    ends = np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1)
    num_labelled = ends + 1
    accuracy = np.cumsum(correct[order])[ends] / num_labelled
    return RiskCoverageCurve(ranked[ends], num_labelled / len(ranked), accuracy)


def summarize_abstention(curve: RiskCoverageCurve, abstain_below: float | None) -> dict[str, float]:
    """Return the numbers of metrics.json; those of the bundle's threshold only if it has one.

    Args:
        curve: of the test images.
        abstain_below: the bundle's threshold.
    """
    numbers = {f"accuracy_of_best_{share:.0%}": curve.find_accuracy(share) for share in COVERAGES}
    numbers = {name.replace("%", "_percent"): value for name, value in numbers.items()}
    numbers["area_under_risk"] = curve.area_under_risk
    if abstain_below is None:
        return numbers
    coverage, accuracy = curve.find_point(abstain_below)
    numbers |= {"abstain_below": abstain_below, "coverage": coverage}
    return numbers if accuracy is None else numbers | {"selective_accuracy": accuracy}


def describe_abstention(numbers: dict[str, float]) -> str:
    """Return the effect of the bundle's threshold as a phrase; empty if it has none.

    Args:
        numbers: of `summarize_abstention`.
    """
    if "abstain_below" not in numbers:
        return ""
    start = f"with abstain_below {numbers['abstain_below']:g} it answers {numbers['coverage']:.0%}"
    if "selective_accuracy" not in numbers:
        return start
    return f"{start}, of those {numbers['selective_accuracy']:.4f} right"
