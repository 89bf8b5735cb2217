"""Drift detection: compare a batch of images with a sample from the training. All functions are pure.

Each check tests whether two samples may come from one source, and computes the probability (p) of a difference at
least as large as the observed one if they do. Images come in groups, so whole groups are permuted
(lightning_modules.drift.group_permutation); a batch of too few groups is not decided. With many checks one is
large by chance; Holm's correction keeps the probability that a batch from the same source is called drifted at
`alpha`, whatever the dependence between the checks. A difference that is certain but too small to matter is no
drift.

Sources: A. Gretton, K. Borgwardt, M. Rasch, B. Schoelkopf, A. Smola, "A Kernel Two-Sample Test", 2012 (MMD, its
witness function, the median heuristic); Z. Harchaoui, F. Bach, E. Moulines, "Testing for homogeneity with kernel
Fisher discriminant analysis", 2007 (directions scaled by their variance, with shrinkage); S. Rabanser, S.
Guennemann, Z. Lipton, "Failing Loudly", 2019 (tests on a network's features); T. Anderson, "On the distribution of
the two-sample Cramer-von Mises criterion", 1962; D. Guillory et al., "Predicting with confidence on unseen
distributions", 2021 (the change of the mean confidence predicts that of the accuracy); S. Holm, "A Simple
Sequentially Rejective Multiple Test Procedure", 1979.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from lightning_modules.drift.group_permutation import (
    ImageGroups,
    find_min_groups,
    run_kernel_test,
    run_vector_test,
)
from lightning_modules.features.reference_sample import ImageSample

MAX_CHECKS = 8
STATISTICS = ("confidence", "brightness", "contrast", "short_side_px")
# Changes that matter: of the mean confidence, which is the accuracy that the model expects of itself; of
# brightness and contrast, 5 and 2.5 of 255 grey levels; of the short side, as a fraction of its median.
MIN_CHANGES = {"confidence": 0.02, "brightness": 0.02, "contrast": 0.01, "short_side_px": 0.05}
NUM_DIRECTIONS = 20  # of the features, those of the largest variance
SHRINKAGE = 0.1  # of their variances: this part of the mean variance is added to each
NUM_QUANTILES = 64  # points at which two distribution functions are compared


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
        moved: whether `adjusted` is at or below alpha, and the difference matters.
        matters: whether a difference of this size is worth a word.
    """

    name: str
    distance: float
    p: float
    said: str
    adjusted: float = 1.0
    moved: bool = False
    matters: bool = True


@dataclass(frozen=True)
class DriftResult:
    """The comparison of a batch with its reference.

    Attributes:
        checks: the smallest p first.
        witness: float (n,), of each image of the batch: above 0 the image resembles the batch more than the
            reference; None without features.
        num_groups: groups that the images of the batch come in.
        min_groups: groups that the batch needs; with fewer there are no checks and nothing is decided.
    """

    checks: tuple[DriftCheck, ...]
    witness: np.ndarray | None
    num_groups: int = 0
    min_groups: int = 0

    @property
    def is_decided(self) -> bool:
        """Whether the batch holds enough groups to be judged."""
        return self.num_groups >= self.min_groups

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
    rejected = compare_shares("rejected", reference.rejected, batch.rejected)
    if not len(batch):
        return DriftResult(tuple(apply_holm_correction([rejected], params.alpha)), None)
    groups = ImageGroups.join(reference.list_groups(), batch.list_groups())
    min_groups = find_min_groups(groups.num_reference, params.alpha / MAX_CHECKS)
    if groups.num_batch < min_groups:
        return DriftResult((), None, groups.num_batch, min_groups)
    checks, witness = [rejected], None
    if reference.features is not None and batch.features is not None:
        check, witness = compare_features(reference.features, batch.features, groups, params)
        checks.append(check)
    checks.append(compare_classes(reference.classes, batch.classes, groups, params, classes))
    for name in STATISTICS:
        before, now = getattr(reference, name), getattr(batch, name)
        if before is not None and now is not None:
            checks.append(compare_numbers(name, before, now, groups, params))
    if abstain_below is not None:
        is_unsure = np.concatenate([reference.confidence, batch.confidence]) < abstain_below
        checks.append(compare_shares("abstained", *count_groups(is_unsure, groups)))
    assert len(checks) <= MAX_CHECKS
    corrected = tuple(apply_holm_correction(checks, params.alpha))
    return DriftResult(corrected, witness, groups.num_batch, min_groups)


def apply_holm_correction(checks: Sequence[DriftCheck], alpha: float) -> list[DriftCheck]:
    """Return the checks with Holm's correction applied, the smallest p first."""
    ordered = sorted(checks, key=lambda check: check.p)
    corrected, highest = [], 0.0
    for rank, check in enumerate(ordered):
        highest = max(highest, min(1.0, (len(ordered) - rank) * check.p))
        corrected.append(replace(check, adjusted=highest, moved=check.matters and highest <= alpha))
    return corrected


# ---- features: maximum mean discrepancy
# --------------------------------------------------------------------------


def compare_features(
    reference: np.ndarray, batch: np.ndarray, groups: ImageGroups, params: DriftParams
) -> tuple[DriftCheck, np.ndarray]:
    """Test features with the maximum mean discrepancy (MMD) and a Gaussian kernel on scaled directions.

    Args:
        reference: float (m, d).
        batch: float (n, d).
        groups: of the images.
        params: of the tests.

    Returns:
        The check, and the witness function at each image of the batch (n,).
    """
    weights = groups.weigh_images()
    kernel = gaussian_kernel(
        scale_directions(np.concatenate([reference, batch]), 1 / groups.sizes[groups.numbers])
    )
    result = run_kernel_test(kernel, groups, params.permutations, np.random.default_rng([params.seed, 0]))
    witness = kernel @ weights
    description = f"{result.times:.1f} times as far from training (MMD²) as by chance"
    check = DriftCheck("features", float(np.sqrt(max(result.distance, 0.0))), result.p, description)
    return check, witness[len(reference) :]


def scale_directions(points: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the coordinates of points in their directions of largest variance, each scaled to about variance 1.

    A shift that is small beside the differences between classes, such as blur, is then as visible as these. The
    directions are those of both samples together, with the same weight for every group, so that groups that are
    dealt out anew have the same.

    Args:
        points: float (N, d).
        weights: float (N,), positive.

    Returns:
        float64 (N, k) with k of at most NUM_DIRECTIONS.
    """
    shares = weights / weights.sum()
    x = points - shares @ points.astype(np.float64)
    scaled = x * np.sqrt(shares)[:, None]
    if len(x) <= x.shape[1]:
        _, vectors = np.linalg.eigh(scaled @ scaled.T)
        directions = scaled.T @ vectors[:, ::-1][:, :NUM_DIRECTIONS]
        directions /= np.maximum(np.linalg.norm(directions, axis=0), 1e-12)
    else:
        directions = np.linalg.eigh(scaled.T @ scaled)[1][:, ::-1][:, :NUM_DIRECTIONS]
    coordinates = x @ directions
    variances = shares @ coordinates**2
    return np.asarray(coordinates / np.sqrt(np.maximum(variances + SHRINKAGE * variances.mean(), 1e-12)))


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


# ---- predictions and image statistics
# ----------------------------------------------------------------------------


def compare_classes(
    reference: np.ndarray, batch: np.ndarray, groups: ImageGroups, params: DriftParams, classes: Sequence[str]
) -> DriftCheck:
    """Test the shares of the predicted classes with the chi-square statistic of homogeneity, over groups.

    p is from permutations, so that rare classes do no harm. The distance is the total variation, 0 to 1.

    Args:
        reference: int (m,), predicted classes.
        batch: int (n,), predicted classes.
        groups: of the images.
        params: of the tests.
        classes: names, as in the bundle.
    """
    predicted = np.concatenate([reference, batch])
    is_class = predicted[:, None] == np.arange(len(classes))  # (m + n, K)
    scales = np.sqrt(np.maximum(groups.average(is_class).mean(axis=0), 1e-12))
    rng = np.random.default_rng([params.seed, 1])
    result = run_vector_test(is_class / scales, groups, params.permutations, rng)
    before, now = (np.bincount(labels, minlength=len(classes)) / len(labels) for labels in (reference, batch))
    change = now - before
    top = int(np.abs(change).argmax())
    description = f"{classes[top]}: {100 * now[top]:.1f}% here, {100 * before[top]:.1f}% in training"
    return DriftCheck("classes", float(np.abs(change).sum() / 2), result.p, description)


def compare_numbers(
    name: str, reference: np.ndarray, batch: np.ndarray, groups: ImageGroups, params: DriftParams
) -> DriftCheck:
    """Compare a statistic of images with the criterion of Cramer and von Mises, over groups.

    The distance is the mean by which numbers moved, in their own unit (the Wasserstein distance).

    Args:
        name: of the check, one of STATISTICS.
        reference: (m,).
        batch: (n,).
        groups: of the images.
        params: of the tests.
    """
    from scipy.stats import wasserstein_distance

    numbers = np.concatenate([reference, batch])
    points = np.unique(np.quantile(numbers, np.linspace(0, 1, NUM_QUANTILES), method="lower"))
    rng = np.random.default_rng([params.seed, 2 + STATISTICS.index(name)])
    result = run_vector_test(numbers[:, None] <= points, groups, params.permutations, rng)
    distance = float(wasserstein_distance(reference, batch))
    unit = float(np.median(reference)) if name == "short_side_px" else 1.0
    matters = distance >= MIN_CHANGES[name] * unit
    before, now = (_format_number(name, values) for values in (reference, batch))
    return DriftCheck(name, distance, result.p, f"{now} here, {before} in training", matters=matters)


def count_groups(is_affected: np.ndarray, groups: ImageGroups) -> tuple[np.ndarray, np.ndarray]:
    """Return for the reference and the batch int (2,): affected groups and all groups.

    A group counts by its share of affected images; the sum is rounded down.

    Args:
        is_affected: bool (m + n,), of the images.
        groups: of the images.
    """
    shares = groups.average(is_affected)
    samples = shares[: groups.num_reference], shares[groups.num_reference :]
    first, second = (np.array([int(sample.sum() + 1e-9), len(sample)]) for sample in samples)
    return first, second


def compare_shares(name: str, reference: np.ndarray, batch: np.ndarray) -> DriftCheck:
    """Test with Fisher's exact test whether a share rose; a smaller share is harmless.

    Args:
        name: of the check.
        reference: int (2,), the number of affected images, or groups, and of all.
        batch: likewise.
    """
    from scipy.stats import hypergeom

    (num_before, total_before), (num_now, total_now) = reference.tolist(), batch.tolist()
    p = float(hypergeom.sf(num_now - 1, total_before + total_now, num_before + num_now, total_now))
    before, now = num_before / max(total_before, 1), num_now / max(total_now, 1)
    return DriftCheck(name, max(now - before, 0.0), p, f"{100 * now:.1f}% here, {100 * before:.1f}% in training")


def _format_number(name: str, numbers: np.ndarray) -> str:
    """Return the mean of a statistic on a scale of 0 to 1, else the median."""
    if name == "short_side_px":
        return f"median {np.median(numbers):.0f}"
    return f"mean {numbers.mean():.3f}"
