"""Sign-flip test of paired gains over groups: p-values and confidence bounds, for few groups and for many.

If two models are equally good, each group's gain has the one sign as often as the other. The p-value is the share
of all assignments of signs to groups whose sum is at least the one that was observed. It is exact for any number
and any sizes of groups whose gains are distributed symmetrically, and for many groups for any distribution: it is
the wild cluster bootstrap with the null hypothesis imposed. With G groups no p-value is below 1 / 2^G.

Sources: R. A. Fisher, "The Design of Experiments", 1935; A. C. Cameron, J. B. Gelbach, D. L. Miller,
"Bootstrap-Based Improvements for Inference with Clustered Errors", 2008; I. A. Canay, J. P. Romano, A. M. Shaikh,
"Randomization Tests under an Approximate Symmetry Assumption", 2017. The tail for many groups: J. Robinson,
"Saddlepoint Approximations for Permutation Tests and Confidence Intervals", 1982; R. Lugannani, S. Rice, 1980.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

MAX_ENUMERATED_GROUPS = 14  # of so many groups all assignments of signs are counted; it takes a millisecond
_NUM_BISECTIONS = 60


def count_needed_groups(tail: float) -> int:
    """Return the smallest number of groups with which a p-value can be at most `tail`."""
    return math.ceil(math.log2(1 / tail) - 1e-9)


@dataclass(frozen=True)
class SignFlips:
    """Gains of groups, whose mean over the images is tested.

    Attributes:
        sums: float (G,), the gain of each group, summed over its images.
        sizes: float (G,), the number of its images.
    """

    sums: np.ndarray
    sizes: np.ndarray

    def compute_p_value(self, gain: float) -> float:
        """Return the one-sided p-value of the hypothesis that the mean gain is at most `gain`."""
        if len(self.sums) <= MAX_ENUMERATED_GROUPS:
            return float((1 + (self._subset_means <= gain).sum()) / 2 ** len(self.sums))
        return _compute_tail(self.sums - gain * self.sizes, self._lattice_step)

    def find_lower_bound(self, tail: float) -> float:
        """Return the value above which the mean gain lies, with an error probability of `tail`.

        The p-value grows with the gain that is tested, so it is at most `tail` exactly for the gains below the
        bound. -inf if there are too few groups for any bound.
        """
        num_groups = len(self.sums)
        if num_groups < count_needed_groups(tail):
            return -math.inf
        if num_groups <= MAX_ENUMERATED_GROUPS:
            return float(self._subset_means[math.floor(tail * 2**num_groups + 1e-9) - 1])
        high = float(self.sums.sum() / self.sizes.sum())
        step = float(np.sqrt((self.sums**2).sum()) / self.sizes.sum()) or 1e-9
        while self.compute_p_value(high - step) > tail:
            step *= 2
        low = high - step
        for _ in range(_NUM_BISECTIONS):
            middle = (low + high) / 2
            low, high = (middle, high) if self.compute_p_value(middle) <= tail else (low, middle)
        return low

    def find_upper_bound(self, tail: float) -> float:
        """Return the value below which the mean gain lies, with an error probability of `tail`."""
        return -SignFlips(-self.sums, self.sizes).find_lower_bound(tail)

    @cached_property
    def _subset_means(self) -> np.ndarray:
        """The mean gain of each set of groups but the empty one, in ascending order, (2^G - 1,).

        Flipping the signs of a set does not lower the sum exactly if the mean gain of the set is at most the one
        that is tested.
        """
        sums, sizes = np.zeros(1), np.zeros(1)
        for group_sum, size in zip(self.sums, self.sizes, strict=True):
            sums, sizes = np.append(sums, sums + group_sum), np.append(sizes, sizes + size)
        return np.sort(np.round(sums[1:] / sizes[1:], 12))

    @cached_property
    def _lattice_step(self) -> float:
        """Half the distance of possible sums if all are whole numbers, as of correct answers; else 0."""
        rounded = np.abs(np.round(self.sums)).astype(np.int64)
        is_whole = bool((np.abs(self.sums - np.round(self.sums)) < 1e-7).all())
        return float(np.gcd.reduce(rounded)) if is_whole else 0.0


def _compute_tail(gains: np.ndarray, lattice_step: float) -> float:
    """Return the probability that the gains (G,), with random signs, sum to at least their sum."""
    magnitudes = np.abs(gains[gains != 0])
    observed = float(gains.sum()) - lattice_step
    if not len(magnitudes) or not math.isfinite(observed):
        return 1.0
    scale = float(np.sqrt((magnitudes**2).sum()))
    magnitudes, observed = magnitudes / scale, observed / scale
    if observed < 0:
        return 1 - _compute_upper_tail(magnitudes, -observed)
    return _compute_upper_tail(magnitudes, observed)


def _compute_upper_tail(magnitudes: np.ndarray, observed: float) -> float:
    """Return P(S >= observed >= 0) for sums S of magnitudes (G,), of square sum 1, by Lugannani and Rice."""
    largest = float(magnitudes.sum())
    if observed >= largest * (1 - 1e-9):
        return float(0.5 ** len(magnitudes))
    if observed < 1e-4:
        return 0.5 - observed / math.sqrt(2 * math.pi)
    point = _solve_saddlepoint(magnitudes, observed)
    scaled = point * magnitudes
    cumulants = float((scaled + np.log1p(np.exp(-2 * scaled)) - math.log(2)).sum())  # log cosh
    root = math.sqrt(max(2 * (point * observed - cumulants), 1e-300))
    curvature = float((magnitudes**2 * (1 - np.tanh(scaled) ** 2)).sum())
    width = point * math.sqrt(max(curvature, 1e-300))
    density = math.exp(-(root**2) / 2) / math.sqrt(2 * math.pi)
    tail = 0.5 * math.erfc(root / math.sqrt(2)) + density * (1 / width - 1 / root)
    return min(max(tail, 0.5 ** len(magnitudes)), 0.5)


def _solve_saddlepoint(magnitudes: np.ndarray, observed: float) -> float:
    """Return the point t at which sum(m * tanh(t * m)) is `observed`, by Newton's method within brackets."""
    low, high = 0.0, 1.0
    while (magnitudes * np.tanh(high * magnitudes)).sum() < observed:
        low, high = high, 2 * high
    point = min(max(observed, low), high)
    for _ in range(_NUM_BISECTIONS):
        slopes = np.tanh(point * magnitudes)
        error = float((magnitudes * slopes).sum()) - observed
        if abs(error) < 1e-10:
            break
        low, high = (point, high) if error < 0 else (low, point)
        curvature = float((magnitudes**2 * (1 - slopes**2)).sum())
        step = point - error / curvature if curvature > 0 else low
        point = step if low < step < high else (low + high) / 2
    return point
