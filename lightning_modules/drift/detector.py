"""Drift detection: compare a batch of images with a sample from the training. All functions are pure.

Each check tests whether two samples may come from one source, and computes the probability (p) of a difference at
least as large as the observed one if they do. With many checks one is large by chance; Holm's correction keeps the
probability that a batch from the same source is called drifted at `alpha`, whatever the dependence between the
checks.

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

PERMUTATIONS_PER_BATCH = 500
MAX_EXCEEDANCES = 50  # with so many permutations of at least the observed difference p is not small: stop drawing
MAX_CHECKS = 8
STATISTICS = ("confidence", "brightness", "contrast", "short_side_px")


@dataclass(frozen=True)
class DriftParams:
    """Parameters of the tests; see params.yaml: monitor.

    Attributes:
        alpha: the probability of calling a batch drifted that comes from the same source.
        permutations: the largest number of permutations of a test.
        seed: of the permutations.
    """

    alpha: float
    permutations: int
    seed: int


@dataclass(frozen=True)
class DriftCheck:
    """The result of one test.

    Attributes:
        name: "features", "classes", "confidence", "brightness", "contrast", "short_side_px", "rejected" or
            "abstained".
        distance: between the samples, in the check's own measure.
        p: the probability of at least this distance between samples of one source.
        said: the comparison in words.
        adjusted: p after Holm's correction for all checks of the batch.
        moved: whether `adjusted` is at or below alpha.
    """

    name: str
    distance: float
    p: float
    said: str
    adjusted: float = 1.0
    moved: bool = False


@dataclass(frozen=True)
class DriftResult:
    """The comparison of a batch with its reference.

    Attributes:
        checks: the smallest p first.
        witness: float (n,), of each image of the batch: above 0 the image resembles the batch more than the
            reference; None without features.
    """

    checks: tuple[DriftCheck, ...]
    witness: np.ndarray | None

    @property
    def drifted(self) -> bool:
        """Whether at least one check moved."""
        return any(check.moved for check in self.checks)

    @property
    def moved_checks(self) -> list[str]:
        """The names of the checks that moved."""
        return [check.name for check in self.checks if check.moved]


def detect_drift(
    reference: ImageSample,
    batch: ImageSample,
    params: DriftParams,
    classes: Sequence[str],
    abstain_below: float | None = None,
) -> DriftResult:
    """Compare a batch with a reference, by all statistics that both have.

    If no image of the batch is readable, only the share of rejected images is compared.

    Args:
        reference: the sample from the training.
        batch: the sample of new images.
        params: of the tests.
        classes: names, as in the bundle.
        abstain_below: confidence below which the model predicts no label.
    """
    checks = [compare_shares("rejected", reference.rejected, batch.rejected)]
    if not len(batch):
        return DriftResult(tuple(apply_holm_correction(checks, params.alpha)), None)
    witness = None
    if reference.features is not None and batch.features is not None:
        check, witness = compare_features(reference.features, batch.features, params)
        checks.append(check)
    checks.append(compare_classes(reference.classes, batch.classes, params, classes))
    for name in STATISTICS:
        before, now = getattr(reference, name), getattr(batch, name)
        if before is not None and now is not None:
            checks.append(compare_numbers(name, before, now))
    if abstain_below is not None:
        counts = [
            np.array([(confidence < abstain_below).sum(), len(confidence)])
            for confidence in (reference.confidence, batch.confidence)
        ]
        checks.append(compare_shares("abstained", *counts))
    assert len(checks) <= MAX_CHECKS
    return DriftResult(tuple(apply_holm_correction(checks, params.alpha)), witness)


def apply_holm_correction(checks: Sequence[DriftCheck], alpha: float) -> list[DriftCheck]:
    """Return the checks with Holm's correction applied, the smallest p first."""
    ordered = sorted(checks, key=lambda check: check.p)
    corrected, highest = [], 0.0
    for rank, check in enumerate(ordered):
        highest = max(highest, min(1.0, (len(ordered) - rank) * check.p))
        corrected.append(DriftCheck(check.name, check.distance, check.p, check.said, highest, highest <= alpha))
    return corrected


# ---- features: maximum mean discrepancy
# --------------------------------------------------------------------------


def compare_features(
    reference: np.ndarray, batch: np.ndarray, params: DriftParams
) -> tuple[DriftCheck, np.ndarray]:
    """Test features with the maximum mean discrepancy (MMD) and a Gaussian kernel; p is from permutations.

    Args:
        reference: float (m, d).
        batch: float (n, d).
        params: of the tests.

    Returns:
        The check, and the witness function at each image of the batch (n,).
    """
    kernel = gaussian_kernel(np.concatenate([reference, batch]))
    m, n = len(reference), len(batch)
    weights = np.concatenate([np.full(m, -1 / m), np.full(n, 1 / n)]).astype(np.float32)
    rng = np.random.default_rng([params.seed, 0])

    def draw_distances(num: int) -> np.ndarray:
        shuffled = rng.permuted(np.tile(weights, (num, 1)), axis=1)  # (num, m + n)
        return np.asarray(((shuffled @ kernel) * shuffled).sum(axis=1))

    witness = kernel @ weights
    squared = float(weights @ witness)
    p, by_chance = permutation_test(squared, draw_distances, params.permutations)
    times = squared / by_chance if by_chance > 0 else 1.0
    description = f"{times:.1f} times as far from training (MMD²) as by chance"
    return DriftCheck("features", float(np.sqrt(max(squared, 0.0))), p, description), witness[m:]


def gaussian_kernel(points: np.ndarray) -> np.ndarray:
    """Return exp(-|x - y|² / (2 s²)), float32 (N, N), where s is the median distance of two different points."""
    x = points.astype(np.float64)
    x -= x.mean(axis=0)
    squares = (x * x).sum(axis=1)
    distances = np.maximum(squares[:, None] + squares - 2 * (x @ x.T), 0.0)
    apart = distances[np.triu_indices(len(x), 1)]
    apart = apart[apart > 1e-12 * max(float(squares.max(initial=0.0)), 1e-300)]
    scale = float(np.median(apart)) if len(apart) else 1.0
    return np.exp(distances / (-2 * scale)).astype(np.float32)


def permutation_test(
    observed: float, draw: Callable[[int], np.ndarray], num: int, batch_size: int = PERMUTATIONS_PER_BATCH
) -> tuple[float, float]:
    """Return the p-value of an observed distance, and the mean distance over permutations.

    Drawing stops early once p cannot be small any more. p is at least 1 / (num + 1).

    Args:
        observed: the observed distance.
        draw: returns the distances of as many permutations as asked for.
        num: the largest number of permutations.
        batch_size: permutations that are drawn at a time.
    """
    as_large, done, total = 0, 0, 0.0
    tolerance = 1e-6 * abs(observed) + 1e-7  # float32 sums in another order
    while done < num and as_large < MAX_EXCEEDANCES:
        drawn = draw(min(batch_size, num - done))
        as_large += int((drawn >= observed - tolerance).sum())
        total += float(drawn.sum(dtype=np.float64))
        done += len(drawn)
    return (as_large + 1) / (done + 1), total / max(done, 1)


# ---- predictions and image statistics
# ----------------------------------------------------------------------------


def compare_classes(
    reference: np.ndarray, batch: np.ndarray, params: DriftParams, classes: Sequence[str]
) -> DriftCheck:
    """Test the shares of the predicted classes with the chi-square statistic of homogeneity.

    p is from random tables with the same margins, so that rare classes do no harm. The distance is the total
    variation, 0 to 1.

    Args:
        reference: int (m,), predicted classes.
        batch: int (n,), predicted classes.
        params: of the tests.
        classes: names, as in the bundle.
    """
    before = np.bincount(reference, minlength=len(classes))
    now = np.bincount(batch, minlength=len(classes))
    both, m, n = before + now, len(reference), len(batch)
    occurs = both > 0
    both = both[occurs]
    expected = both * n / (m + n)
    spread = both * (m * n / (m + n) ** 2)  # (now - expected)² / spread sums to chi-square
    rng = np.random.default_rng([params.seed, 1])

    def compute_chi_square(counts: np.ndarray) -> np.ndarray:
        return np.asarray(((counts - expected) ** 2 / spread).sum(axis=-1))

    def draw_chi_squares(num: int) -> np.ndarray:
        return compute_chi_square(rng.multivariate_hypergeometric(both, n, num, method="marginals"))

    p, _ = permutation_test(float(compute_chi_square(now[occurs])), draw_chi_squares, params.permutations)
    change = now / n - before / m
    top = int(np.abs(change).argmax())
    description = f"{classes[top]}: {100 * now[top] / n:.1f}% here, {100 * before[top] / m:.1f}% in training"
    return DriftCheck("classes", float(np.abs(change).sum() / 2), p, description)


def compare_numbers(name: str, reference: np.ndarray, batch: np.ndarray) -> DriftCheck:
    """Compare a statistic of images with the Kolmogorov-Smirnov test.

    The distance is the largest gap between the two distribution functions, 0 to 1.

    Args:
        name: of the check.
        reference: (m,).
        batch: (n,).
    """
    from scipy.stats import ks_2samp

    result = ks_2samp(reference, batch, method="asymp")
    medians = _format_number(np.median(batch)), _format_number(np.median(reference))
    description = f"median {medians[0]} here, {medians[1]} in training"
    return DriftCheck(name, float(result.statistic), float(result.pvalue), description)


def compare_shares(name: str, reference: np.ndarray, batch: np.ndarray) -> DriftCheck:
    """Test with Fisher's exact test whether a share rose; a smaller share is harmless.

    Args:
        name: of the check.
        reference: int (2,), the number of affected images and of all images.
        batch: likewise.
    """
    from scipy.stats import hypergeom

    (num_before, total_before), (num_now, total_now) = reference.tolist(), batch.tolist()
    p = float(hypergeom.sf(num_now - 1, total_before + total_now, num_before + num_now, total_now))
    before, now = num_before / max(total_before, 1), num_now / max(total_now, 1)
    return DriftCheck(name, max(now - before, 0.0), p, f"{100 * now:.1f}% here, {100 * before:.1f}% in training")


def _format_number(number: float) -> str:
    return f"{number:.0f}" if number >= 10 else f"{number:.3f}"
