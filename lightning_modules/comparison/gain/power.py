"""Power of a comparison: the smallest gain that a number of test images would show with a probability of 0.8.

Plain arithmetic with the deviations that the last comparison measured: `convoy status` does not load numpy. The
gain in log loss is taken to be in proportion to the errors: a model with a tenth fewer errors has a tenth less log
loss. Source: J. Cohen, "Statistical Power Analysis for the Behavioral Sciences", 1988.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

from lightning_modules.comparison.gain.alpha_spending import compute_tail

POWER = 0.8
TARGET_GAIN = 0.01  # one point of accuracy
ASSUMED_ACCURACY = 0.9  # where no model was tested yet
METRIC_SHARE = 0.2  # of the error probability, where the log loss decides with the rest
_MAX_IMAGES = 10**9
_Z_POWER = NormalDist().inv_cdf(POWER)


def _find_quantile(tail: float) -> float:
    return NormalDist().inv_cdf(1 - tail)


@dataclass(frozen=True)
class PowerAnalysis:
    """The test images, the champion's value on them, and how much the gain of one image varies.

    Attributes:
        metric: its name.
        value: the champion's, which is right or wrong by `room`.
        num_images: the number of test images.
        num_groups: the number of groups that they form.
        num_looks: decisions that have spent error probability on them.
        total: the error probability of all decisions on a test split together.
        deviation: standard deviation of the metric's gain for one image; None if nothing was compared yet.
        log_loss: the champion's at equal confidence; None if the log loss does not decide.
        log_loss_deviation: standard deviation of its gain for one image.
        max_accuracy_drop: the loss of accuracy that must be ruled out where the log loss decides.
    """

    metric: str
    value: float
    num_images: int
    num_groups: int
    num_looks: int = 0
    total: float = 0.05
    deviation: float | None = None
    log_loss: float | None = None
    log_loss_deviation: float | None = None
    max_accuracy_drop: float | None = None

    @property
    def room(self) -> float:
        """The largest gain that is possible: the share of errors; of a loss, the loss itself."""
        return self.value if self.metric in ("log_loss", "calibration_error") else 1 - self.value

    @property
    def target_gain(self) -> float:
        """The gain that `count_needed_images` is asked for: one point, or half of what is possible."""
        return min(TARGET_GAIN, self.room / 2)

    def find_smallest_gain(self, num_images: int | None = None) -> float | None:
        """Return the smallest gain that would be seen with probability POWER; None if no possible gain would be.

        Args:
            num_images: the number of test images, of which those beyond today's are new; None for today's.
        """
        num = self.num_images if num_images is None else num_images
        counts = {self.num_looks: min(num, self.num_images)}
        counts[0] = counts.get(0, 0) + max(0, num - self.num_images)
        tail = compute_tail(self.total, counts)
        if self.num_groups * num / self.num_images < math.log2(1 / tail) or self.room <= 0:
            return None
        gains = [self._find_gain_by_metric(num, tail)]
        if self.log_loss and self.log_loss_deviation is not None:
            gains.append(self._find_gain_by_log_loss(num, tail))
        return min(gains) if min(gains) <= self.room else None

    def count_needed_images(self) -> int | None:
        """Return the number of test images that would show `target_gain`, to two digits; None if none would."""
        low, high = self.num_images, 2 * self.num_images
        while not self._shows_target(high):
            low, high = high, 2 * high
            if high > _MAX_IMAGES:
                return None
        if self._shows_target(self.num_images):
            return self.num_images
        while high - low > 0.01 * high:
            middle = (low + high) // 2
            low, high = (low, middle) if self._shows_target(middle) else (middle, high)
        unit = 10 ** max(0, len(str(high)) - 2)
        return math.ceil(high / unit) * unit

    def _shows_target(self, num_images: int) -> bool:
        smallest = self.find_smallest_gain(num_images)
        return smallest is not None and smallest <= self.target_gain

    @property
    def _deviation(self) -> float:
        """That of the last comparison; without one, two models disagree as often as the champion is wrong."""
        return math.sqrt(max(self.room, 0.0)) if self.deviation is None else self.deviation

    def _find_gain_by_metric(self, num: int, tail: float) -> float:
        share = METRIC_SHARE if self.log_loss else 1.0
        z = _find_quantile(share * tail) + _Z_POWER
        return max(z * self._deviation / math.sqrt(num), z * z / num)  # a gain is a disagreement itself

    def _find_gain_by_log_loss(self, num: int, tail: float) -> float:
        assert self.log_loss and self.log_loss_deviation is not None
        z = _find_quantile((1 - METRIC_SHARE) * tail) + _Z_POWER
        by_log_loss = z * self.log_loss_deviation / math.sqrt(num) * self.room / self.log_loss
        error = self._deviation / math.sqrt(num)
        gains = [by_log_loss, _Z_POWER * error, 1 / num]
        if self.max_accuracy_drop is not None:
            gains.append((_find_quantile(self.total) + _Z_POWER) * error - self.max_accuracy_drop)
        return max(gains)
