"""Whether a batch of pictures differs from what a model was trained on: pure functions of two samples.

Each check asks whether two samples may come from one source, and gives the chance (p) of a difference as large as
the one seen if they do. With many checks one of them is large by luck; Holm's correction holds the chance that a
batch from the same source is called drifted at `alpha`, whatever the checks have to do with each other.

Sources: A. Gretton, K. Borgwardt, M. Rasch, B. Schoelkopf, A. Smola, "A Kernel Two-Sample Test", 2012 (MMD, its
witness function, the median heuristic); S. Rabanser, S. Guennemann, Z. Lipton, "Failing Loudly", 2019 (tests on a
network's features); B. Phipson, G. Smyth, "Permutation P-values Should Never Be Zero", 2010; J. Besag, P.
Clifford, "Sequential Monte Carlo p-values", 1991; S. Holm, "A Simple Sequentially Rejective Multiple Test
Procedure", 1979.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from lightning_modules.features.reference_sample import ImageSample

PERMUTATIONS_PER_BATCH = 500  # permutations
MAX_EXCEEDANCES = 50  # permutations with as large a difference: p is no longer small, so no more are drawn
MAX_CHECKS = 8
STATISTICS = ("confidence", "brightness", "contrast", "short_side_px")


@dataclass(frozen=True)
class DriftParams:
    """When a batch counts as drifted; see params.yaml: monitor."""

    alpha: float
    permutations: int
    seed: int


@dataclass(frozen=True)
class DriftCheck:
    """One comparison.

    Attributes:
        name: "features", "classes", "confidence", "brightness", "contrast", "short_side_px", "rejected" or
            "abstained".
        distance: how far apart the samples are, in the check's own measure.
        p: the chance of such a distance between samples of one source.
        adjusted: p after Holm's correction for all checks of the batch.
        moved: adjusted is at or below alpha.
        said: the comparison in words.
    """

    name: str
    distance: float
    p: float
    said: str
    adjusted: float = 1.0
    moved: bool = False


@dataclass(frozen=True)
class DriftResult:
    """A batch beside its reference.

    Attributes:
        checks: the smallest p first.
        witness: float (n,) of each picture of the batch: above 0, it looks like the batch more than like the
            reference; None where features are not known.
    """

    checks: tuple[DriftCheck, ...]
    witness: np.ndarray | None

    @property
    def drifted(self) -> bool:
        return any(check.moved for check in self.checks)

    @property
    def moved_checks(self) -> list[str]:
        """The names of the checks that say so."""
        return [check.name for check in self.checks if check.moved]


def detect_drift(
    reference: ImageSample,
    batch: ImageSample,
    rules: DriftParams,
    classes: Sequence[str],
    abstain_below: float | None = None,
) -> DriftResult:
    """Compare a batch with a reference, in all that both know; of a batch without a readable picture that is the
    share of those.

    Args:
        classes: names, as in the bundle.
        abstain_below: confidence below which the model gives no answer.
    """
    checks = [compare_shares("rejected", reference.rejected, batch.rejected)]
    if not len(batch):
        return DriftResult(tuple(apply_holm_correction(checks, rules.alpha)), None)
    witness = None
    if reference.features is not None and batch.features is not None:
        check, witness = compare_features(reference.features, batch.features, rules)
        checks.append(check)
    checks.append(compare_classes(reference.classes, batch.classes, rules, classes))
    for name in STATISTICS:
        before, now = getattr(reference, name), getattr(batch, name)
        if before is not None and now is not None:
            checks.append(compare_numbers(name, before, now))
    if abstain_below is not None:
        before, now = (np.array([(one < abstain_below).sum(), len(one)])
                       for one in (reference.confidence, batch.confidence))  # fmt: skip
        checks.append(compare_shares("abstained", before, now))
    assert len(checks) <= MAX_CHECKS
    return DriftResult(tuple(apply_holm_correction(checks, rules.alpha)), witness)


def apply_holm_correction(checks: Sequence[DriftCheck], alpha: float) -> list[DriftCheck]:
    """Holm's correction; the smallest p first."""
    ordered = sorted(checks, key=lambda check: check.p)
    found, highest = [], 0.0
    for place, check in enumerate(ordered):
        highest = max(highest, min(1.0, (len(ordered) - place) * check.p))
        found.append(DriftCheck(check.name, check.distance, check.p, check.said, highest, highest <= alpha))
    return found


# ---- what the network sees: maximum mean discrepancy ------------------------------------------------------------


def compare_features(
    reference: np.ndarray, batch: np.ndarray, rules: DriftParams
) -> tuple[DriftCheck, np.ndarray]:
    """MMD with a Gaussian kernel between features (m, d) and (n, d), its p from permutations, and the witness
    function at each picture of the batch (n,)."""
    kernel = gaussian_kernel(np.concatenate([reference, batch]))
    m, n = len(reference), len(batch)
    weights = np.concatenate([np.full(m, -1 / m), np.full(n, 1 / n)]).astype(np.float32)
    draws = np.random.default_rng([rules.seed, 0])

    def distances(num: int) -> np.ndarray:
        shuffled = draws.permuted(np.tile(weights, (num, 1)), axis=1)  # (num, m + n)
        return np.asarray(((shuffled @ kernel) * shuffled).sum(axis=1))

    seen = kernel @ weights
    squared = float(weights @ seen)
    p, by_chance = permutation_test(squared, distances, rules.permutations)
    times = squared / by_chance if by_chance > 0 else 1.0
    said = f"{times:.1f} times as far from training (MMD²) as chance gives"
    return DriftCheck("features", float(np.sqrt(max(squared, 0.0))), p, said), seen[m:]


def gaussian_kernel(points: np.ndarray) -> np.ndarray:
    """exp(-|x - y|² / (2 s²)), float32 (N, N), s the median distance of two different points."""
    x = points.astype(np.float64)
    x -= x.mean(axis=0)
    squares = (x * x).sum(axis=1)
    distances = np.maximum(squares[:, None] + squares - 2 * (x @ x.T), 0.0)
    apart = distances[np.triu_indices(len(x), 1)]
    apart = apart[apart > 1e-12 * max(float(squares.max(initial=0.0)), 1e-300)]
    scale = float(np.median(apart)) if len(apart) else 1.0
    return np.exp(distances / (-2 * scale)).astype(np.float32)


def permutation_test(
    observed: float, draw: Callable[[int], np.ndarray], num: int, at_once: int = PERMUTATIONS_PER_BATCH
) -> tuple[float, float]:
    """How often a permutation is as far apart as what was observed, and the mean over permutations.

    At most `num` are drawn; fewer where it is plain before that p is not small. p is at least 1 / (num + 1).
    """
    as_large, done, total = 0, 0, 0.0
    tolerance = 1e-6 * abs(observed) + 1e-7  # float32 sums in another order
    while done < num and as_large < MAX_EXCEEDANCES:
        drawn = draw(min(at_once, num - done))
        as_large += int((drawn >= observed - tolerance).sum())
        total += float(drawn.sum(dtype=np.float64))
        done += len(drawn)
    return (as_large + 1) / (done + 1), total / max(done, 1)


# ---- the answers and the pictures ------------------------------------------------------------------------------


def compare_classes(
    reference: np.ndarray, batch: np.ndarray, rules: DriftParams, classes: Sequence[str]
) -> DriftCheck:
    """The shares of the predicted classes: the chi-square statistic of homogeneity, its p from draws of the same
    table's margins, so that rare classes do no harm; the distance is the total variation, 0 to 1."""
    before = np.bincount(reference, minlength=len(classes))
    now = np.bincount(batch, minlength=len(classes))
    both, m, n = before + now, len(reference), len(batch)
    there = both > 0
    both = both[there]
    expected = both * n / (m + n)
    spread = both * (m * n / (m + n) ** 2)  # (now - expected)² / spread sums to chi-square
    draws = np.random.default_rng([rules.seed, 1])

    def statistic(counts: np.ndarray) -> np.ndarray:
        return np.asarray(((counts - expected) ** 2 / spread).sum(axis=-1))

    def drawn(num: int) -> np.ndarray:
        return statistic(draws.multivariate_hypergeometric(both, n, num, method="marginals"))

    p, _ = permutation_test(float(statistic(now[there])), drawn, rules.permutations)
    change = now / n - before / m
    most = int(np.abs(change).argmax())
    said = f"{classes[most]}: {100 * now[most] / n:.1f}% here, {100 * before[most] / m:.1f}% in training"
    return DriftCheck("classes", float(np.abs(change).sum() / 2), p, said)


def compare_numbers(name: str, reference: np.ndarray, batch: np.ndarray) -> DriftCheck:
    """Kolmogorov's and Smirnov's test; the distance is the largest gap between the two distributions, 0 to 1."""
    from scipy.stats import ks_2samp

    found = ks_2samp(reference, batch, method="asymp")
    said = f"median {_format_number(np.median(batch))} here, {_format_number(np.median(reference))} in training"
    return DriftCheck(name, float(found.statistic), float(found.pvalue), said)


def compare_shares(name: str, reference: np.ndarray, batch: np.ndarray) -> DriftCheck:
    """Fisher's exact test whether a share, given as (so many, of all), rose; a smaller one is no harm."""
    from scipy.stats import hypergeom

    (had, of), (has, out_of) = reference.tolist(), batch.tolist()
    p = float(hypergeom.sf(has - 1, of + out_of, had + has, out_of))
    before, now = had / max(of, 1), has / max(out_of, 1)
    return DriftCheck(name, max(now - before, 0.0), p, f"{100 * now:.1f}% here, {100 * before:.1f}% in training")


def _format_number(number: float) -> str:
    return f"{number:.0f}" if number >= 10 else f"{number:.3f}"
