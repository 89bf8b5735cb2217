"""The test whether a candidate is better than the champion: paired, over groups, at a given error probability.

`promote.metric: accuracy` means: right more often. Correct answers alone show little on few images, the
probabilities show more. With accuracy and `min_gain: 0` a candidate is therefore better if one of two holds:
- the interval of its accuracy gain lies above 0;
- the interval of its gain in log loss, both models made equally sure, lies above 0, it has more correct answers on
  these images, and a loss of accuracy of more than `max_accuracy_drop` is ruled out.
The two share the error probability (Bonferroni's inequality, weighted). Any other metric, any other `min_gain`
and datasets with several labels an image are decided by the interval of the metric itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from lightning_modules.comparison.gain.power import METRIC_SHARE
from lightning_modules.comparison.gain.recalibration import compute_losses_at_equal_confidence
from lightning_modules.comparison.gain.sign_flips import SignFlips, count_needed_groups
from lightning_modules.comparison.paired import PairedPredictions
from lightning_modules.evaluation.metrics import WeightedMetric

MAX_JACKKNIFE_GROUPS = 2000  # more are merged at random: the time grows with groups times images
_MAX_WEIGHTS = 1 << 18  # weights that are computed at once; they fit in a processor's cache


@dataclass(frozen=True)
class MetricGain:
    """A metric of candidate and champion, with the interval of the gain.

    Attributes:
        candidate: the candidate's value.
        champion: the champion's value.
        sign: 1 if higher values are better, else -1.
        tail: error probability of each end of the interval.
        flips: the gains of the groups.
    """

    candidate: float
    champion: float
    sign: float
    tail: float
    flips: SignFlips

    @property
    def gain(self) -> float:
        """The improvement of the candidate on these images; above 0 is better."""
        return self.sign * (self.candidate - self.champion)

    @cached_property
    def low(self) -> float:
        """Lower end of the interval of the gain; -inf if there are too few groups for any."""
        return self.flips.find_lower_bound(self.tail)

    @cached_property
    def high(self) -> float:
        """Upper end of the interval of the gain."""
        return self.flips.find_upper_bound(self.tail)

    @property
    def deviation(self) -> float:
        """Standard deviation of the gain for one image; that of n images is it divided by sqrt(n)."""
        return float(np.sqrt((self.flips.sums**2).sum() / self.flips.sizes.sum()))

    def is_above(self, value: float) -> bool:
        """Return whether the interval lies above a value."""
        return self.flips.compute_p_value(value) <= self.tail


@dataclass(frozen=True)
class GainTest:
    """The outcome of the test whether a candidate is better.

    Attributes:
        passes: whether it is.
        metric_gain: of the metric that was asked for.
        log_loss_gain: of the log loss at equal confidence, if that decides, too.
        num_groups: the number of groups of test images.
        num_needed_groups: with fewer, nothing can be decided.
    """

    passes: bool
    metric_gain: MetricGain
    log_loss_gain: MetricGain | None
    num_groups: int
    num_needed_groups: int

    @property
    def can_decide(self) -> bool:
        """Whether there are enough groups for any candidate to pass."""
        return self.num_groups >= self.num_needed_groups


def run_gain_test(
    predictions: PairedPredictions,
    metric: str,
    min_gain: float,
    tail: float,
    max_accuracy_drop: float | None = 0.02,
    drop_tail: float = 0.05,
) -> GainTest:
    """Test whether the candidate is better by more than `min_gain`.

    Args:
        predictions: of both models.
        metric: a key of MULTICLASS_METRICS; for multi-label predictions of MULTILABEL_METRICS.
        min_gain: the gain that must be exceeded.
        tail: the probability that a candidate passes that is not better, e.g. 0.025.
        max_accuracy_drop: the loss of accuracy to be ruled out where the log loss shows the gain; None: any.
        drop_tail: the error probability of that.
    """
    num_groups = int(predictions.clusters.max()) + 1
    if not decides_by_log_loss(metric, min_gain, predictions.candidate_predicted is not None):
        gain = measure_gain(predictions, metric, tail)
        return GainTest(gain.is_above(min_gain), gain, None, num_groups, count_needed_groups(tail))
    gain = measure_gain(predictions, metric, METRIC_SHARE * tail)
    log_loss_gain = measure_log_loss_gain(predictions, (1 - METRIC_SHARE) * tail)
    is_kept = max_accuracy_drop is None or gain.flips.compute_p_value(-max_accuracy_drop) <= drop_tail
    passes = gain.is_above(min_gain) or (gain.gain > 0 and is_kept and log_loss_gain.is_above(0.0))
    return GainTest(passes, gain, log_loss_gain, num_groups, count_needed_groups((1 - METRIC_SHARE) * tail))


def decides_by_log_loss(metric: str, min_gain: float, multi_label: bool) -> bool:
    """Return whether the probabilities can prove a gain of this metric, beside the metric itself."""
    return metric == "accuracy" and min_gain == 0 and not multi_label


def measure_gain(predictions: PairedPredictions, metric: str, tail: float) -> MetricGain:
    """Measure a metric of both models, and the gain of each group by the delete-one-group jackknife.

    For a mean over images that is the sum of the group's gains; for others, such as F1, it is the first-order
    influence of the group. Source: P. S. Kott, "The Delete-a-Group Jackknife", 2001.
    """
    candidate, champion, sign = predictions.make_metrics(metric)
    ones = np.ones((1, len(predictions.labels)))
    values = float(candidate(ones)[0]), float(champion(ones)[0])
    clusters = _merge_clusters(predictions.clusters)
    sizes = np.bincount(clusters).astype(np.float64)
    gain = sign * (values[0] - values[1])
    without = sign * (_leave_groups_out(candidate, clusters) - _leave_groups_out(champion, clusters))
    sums = gain * sizes + (gain - without) * (len(clusters) - sizes)
    sums += (gain - sums.sum() / len(clusters)) * sizes
    return MetricGain(*values, sign, tail, SignFlips(np.round(sums, 9), sizes))


def measure_log_loss_gain(predictions: PairedPredictions, tail: float) -> MetricGain:
    """Measure the log loss of both models, made equally sure on these images, and each group's gain."""
    candidate, champion = compute_losses_at_equal_confidence(
        predictions.labels, predictions.candidate, predictions.champion
    )
    sums = np.bincount(predictions.clusters, champion - candidate)
    flips = SignFlips(np.round(sums, 12), np.bincount(predictions.clusters).astype(np.float64))
    return MetricGain(float(candidate.mean()), float(champion.mean()), -1.0, tail, flips)


def _merge_clusters(clusters: np.ndarray) -> np.ndarray:
    """Return clusters numbered from 0, at most MAX_JACKKNIFE_GROUPS; more are merged at random."""
    num_clusters = int(clusters.max()) + 1
    if num_clusters <= MAX_JACKKNIFE_GROUPS:
        return clusters
    order = np.random.default_rng(0).permutation(num_clusters)
    return np.asarray(order[clusters] % MAX_JACKKNIFE_GROUPS)


def _leave_groups_out(metric: WeightedMetric, clusters: np.ndarray) -> np.ndarray:
    """Return the metric without each group, float (G,); of a single group, the metric of all images."""
    num_groups = int(clusters.max()) + 1
    if num_groups == 1:
        return np.asarray(metric(np.ones((1, len(clusters)))))
    values, num_rows = [], max(1, _MAX_WEIGHTS // len(clusters))
    for start in range(0, num_groups, num_rows):
        left_out = np.arange(start, min(start + num_rows, num_groups))
        values.append(metric((clusters != left_out[:, None]).astype(np.float64)))
    return np.concatenate(values)
