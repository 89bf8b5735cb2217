"""Confidence intervals of test results: bootstrap and Wilson's.

Sources: B. Efron, R. Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13 (percentile intervals);
E. B. Wilson, "Probable Inference, the Law of Succession, and Statistical Inference", 1927.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

Interval = tuple[float, float]
MAX_WEIGHTS_IN_MEMORY = 4_000_000  # weights that are held at a time


@dataclass(frozen=True)
class Bootstrap:
    """Parameters of the percentile bootstrap.

    Attributes:
        resamples: how often the images are resampled.
        level: of the intervals, e.g. 0.95.
        seed: of the resampling.
    """

    resamples: int
    level: float
    seed: int

    def iter_weights(self, units: np.ndarray) -> Iterator[np.ndarray]:
        """Yield how often each image is in each resample, int64 (B, n), B resamples at a time.

        Args:
            units: int (n,); images of one unit (a patient, a scene) are drawn together, because they are not
                independent.
        """
        return resample_weights(units, self.resamples, self.seed, MAX_WEIGHTS_IN_MEMORY)

    def compute_intervals(
        self, units: np.ndarray, measure: Callable[[np.ndarray], Mapping[str, np.ndarray]]
    ) -> dict[str, Interval]:
        """Compute percentile intervals of metrics.

        Args:
            units: as for `iter_weights`.
            measure: computes metrics {name: values (B,)} from weights (B, n).
        """
        resampled = [measure(weights) for weights in self.iter_weights(units)]
        tail = 50 * (1 - self.level)
        intervals = {}
        for name in resampled[0]:
            values = np.concatenate([metrics[name] for metrics in resampled])
            low, high = np.percentile(values, [tail, 100 - tail])
            intervals[name] = (float(low), float(high))
        return intervals


def resample_weights(units: np.ndarray, num_resamples: int, seed: int, max_weights: int) -> Iterator[np.ndarray]:
    """Yield how often each image is in each resample, int64 (B, n), B resamples at a time.

    Units are drawn with replacement. The resamples do not depend on how many are made at a time.

    Args:
        units: int (n,), the unit of each image, numbered from 0.
        num_resamples: how many resamples there are in total.
        seed: of the random numbers.
        max_weights: the largest number of weights that are held at a time.
    """
    num_units = int(units.max()) + 1
    rng = np.random.default_rng(seed)
    batch_size = max(1, max_weights // len(units))
    for start in range(0, num_resamples, batch_size):
        num_rows = min(batch_size, num_resamples - start)
        drawn = rng.integers(0, num_units, (num_rows, num_units)) + num_units * np.arange(num_rows)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=num_rows * num_units).reshape(num_rows, num_units)
        yield counts[:, units]


def assign_resampling_units(groups: Sequence[str | None]) -> np.ndarray:
    """Return the resampling unit of each image, int64 (n,): one for each group, and one for each single image."""
    names = [f"group {group}" if group is not None else f"alone {i}" for i, group in enumerate(groups)]
    return np.unique(names, return_inverse=True)[1].ravel()


def sum_by_key(weights: np.ndarray, keys: np.ndarray, num_keys: int) -> np.ndarray:
    """Sum weights (B, n) by the key of each image, int (n,), to (B, num_keys)."""
    order = np.argsort(keys, kind="stable")
    counts = np.bincount(keys, minlength=num_keys)
    sums = np.zeros((len(weights), num_keys), np.int64)
    starts = (np.cumsum(counts) - counts)[counts > 0]
    if len(starts):
        sums[:, counts > 0] = np.add.reduceat(weights[:, order], starts, axis=1)
    return sums


def compute_wilson_interval(num_correct: int, num: int, level: float) -> Interval:
    """Compute Wilson's interval of a share; for few images it is more accurate than the bootstrap."""
    z = NormalDist().inv_cdf((1 + level) / 2)
    share, spread = num_correct / num, z * z / num
    middle = (share + spread / 2) / (1 + spread)
    half = z * np.sqrt(share * (1 - share) / num + spread / (4 * num)) / (1 + spread)
    return float(max(0.0, middle - half)), float(min(1.0, middle + half))
