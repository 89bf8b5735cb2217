"""How far a test result may be off by the luck of the draw of its pictures.

Sources: B. Efron, R. Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13 (percentile intervals);
E. B. Wilson, "Probable Inference, the Law of Succession, and Statistical Inference", 1927.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

Interval = tuple[float, float]
MAX_WEIGHTS_IN_MEMORY = 4_000_000  # numbers that are held at a time


@dataclass(frozen=True)
class Bootstrap:
    """Pictures are drawn again, `resamples` times, from `seed`; intervals hold the middle `level` of them."""

    resamples: int
    level: float
    seed: int

    def iter_weights(self, units: np.ndarray) -> Iterator[np.ndarray]:
        """How often each picture is in each resample, int64 (some resamples, n), a few resamples at a time.

        Args:
            units: int (n,): pictures of one unit (a patient, a scene) are drawn together: they are no
                independent witnesses.
        """
        return resample_weights(units, self.resamples, self.seed, MAX_WEIGHTS_IN_MEMORY)

    def compute_intervals(
        self, units: np.ndarray, measure: Callable[[np.ndarray], Mapping[str, np.ndarray]]
    ) -> dict[str, Interval]:
        """Percentile intervals of what `measure` makes of weights (B, n): {name: values (B,)}."""
        drawn = [measure(weights) for weights in self.iter_weights(units)]
        tail = 50 * (1 - self.level)
        found = {}
        for name in drawn[0]:
            low, high = np.percentile(np.concatenate([one[name] for one in drawn]), [tail, 100 - tail])
            found[name] = (float(low), float(high))
        return found


def resample_weights(
    units: np.ndarray, num_resamples: int, seed: int, numbers_at_once: int
) -> Iterator[np.ndarray]:
    """How often each picture is in each resample, int64 (some resamples, n); `units` int (n,) are drawn, numbered
    from 0, with replacement. How many resamples are made at a time changes none of them."""
    num_units = int(units.max()) + 1
    draws = np.random.default_rng(seed)
    at_once = max(1, numbers_at_once // len(units))
    for start in range(0, num_resamples, at_once):
        rows = min(at_once, num_resamples - start)
        drawn = draws.integers(0, num_units, (rows, num_units)) + num_units * np.arange(rows)[:, None]
        times = np.bincount(drawn.ravel(), minlength=rows * num_units).reshape(rows, num_units)
        yield times[:, units]


def assign_resampling_units(groups: Sequence[str | None]) -> np.ndarray:
    """int64 (n,): pictures of one group share a number, a picture without a group has its own."""
    names = [f"group {group}" if group is not None else f"alone {i}" for i, group in enumerate(groups)]
    return np.unique(names, return_inverse=True)[1].ravel()


def sum_by_key(weights: np.ndarray, keys: np.ndarray, num_keys: int) -> np.ndarray:
    """Weights (B, n) summed by the key of each picture (n,) -> (B, num_keys)."""
    order = np.argsort(keys, kind="stable")
    counts = np.bincount(keys, minlength=num_keys)
    sums = np.zeros((len(weights), num_keys), np.int64)
    starts = (np.cumsum(counts) - counts)[counts > 0]
    if len(starts):
        sums[:, counts > 0] = np.add.reduceat(weights[:, order], starts, axis=1)
    return sums


def compute_wilson_interval(num_correct: int, num: int, level: float) -> Interval:
    """The interval of a share of few pictures, where drawing them again would say too little."""
    z = NormalDist().inv_cdf((1 + level) / 2)
    share, spread = num_correct / num, z * z / num
    middle = (share + spread / 2) / (1 + spread)
    half = z * np.sqrt(share * (1 - share) / num + spread / (4 * num)) / (1 + spread)
    return float(max(0.0, middle - half)), float(min(1.0, middle + half))
