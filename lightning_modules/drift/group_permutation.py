"""A permutation test of two samples whose images come in groups, such as scenes, days or folders.

Images of a group resemble each other, so 100 images of 5 scenes say little more than 5 images. The unit of the
test is therefore the group: each is represented by the mean of its images, and the groups of both samples are
dealt out anew. If the groups of the batch come from where those of the reference come from, and are as large, p is
exact. Images that stand alone are groups of one.

Groups of other sizes scatter differently, and the statistic is therefore divided by its variance, as estimated
within each sample. Means of large groups also scatter in fewer directions than single images, so that large values
are less rare than permutations say. The larger of two p-values counts: that of the permutations, and that of an F
distribution whose degrees of freedom are those of the batch's own groups.

Sources: M. Anderson, C. ter Braak, "Permutation tests for multi-factorial analysis of variance", 2003 (the groups
are the exchangeable units of nested data); A. Winkler et al., "Multi-level block permutation", 2015; E. Chung, J.
Romano, "Exact and asymptotically robust permutation tests", 2013 (studentized statistics); E. Brunner, H. Dette,
A. Munk, "Box-type approximations in nonparametric factorial designs", 1997 (the F distribution of a quadratic form
divided by the trace of its covariance); M. Srivastava, "Some tests concerning the covariance matrix in high
dimensional data", 2005 (the unbiased estimate of tr V²); B. Phipson, G. Smyth, "Permutation P-values Should Never
Be Zero", 2010; J. Besag, P. Clifford, "Sequential Monte Carlo p-values", 1991.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

PERMUTATIONS_PER_BATCH = 500
MAX_EXCEEDANCES = 50  # with so many permutations of at least the observed value p is not small: stop drawing
# Below, the scatter between the groups of a batch is known too badly to see anything but the grossest shift; such
# a batch waits for further images. benchmarks.drift measures the power.
MIN_GROUPS = 5
TINY = 1e-12
MAX_DIRECTIONS_PER_GROUP = 5  # a batch of few groups shows no more directions than these


@dataclass(frozen=True)
class ImageGroups:
    """The groups of the images of two samples, the reference first.

    Attributes:
        numbers: int (m + n,): the group of each image; those of the reference are numbered first, from 0.
        num_reference: groups of the reference.
        num_batch: groups of the batch.
    """

    numbers: np.ndarray
    num_reference: int
    num_batch: int

    @classmethod
    def join(cls, reference: np.ndarray, batch: np.ndarray) -> ImageGroups:
        """Return the groups of two samples, each given as integers (m,) and (n,) that are equal within a group."""
        (names, first), (others, second) = (
            np.unique(numbers, return_inverse=True) for numbers in (reference, batch)
        )
        return cls(np.concatenate([first, second + len(names)]), len(names), len(others))

    @property
    def sizes(self) -> np.ndarray:
        """The number of images of each group, int (G,)."""
        return np.bincount(self.numbers)

    def average(self, values: np.ndarray) -> np.ndarray:
        """Return the mean of each group, float64 (G, ...), of values (m + n, ...)."""
        order = np.argsort(self.numbers, kind="stable")
        sizes = self.sizes
        sums = np.add.reduceat(values[order].astype(np.float64), np.cumsum(sizes) - sizes, axis=0)
        return np.asarray(sums / sizes.reshape(-1, *[1] * (values.ndim - 1)))

    def weigh_images(self) -> np.ndarray:
        """Return the weight of each image, float64 (m + n,): a mean over the groups of its sample."""
        is_batch = self.numbers >= self.num_reference
        num_groups = np.where(is_batch, self.num_batch, -self.num_reference)
        return np.asarray(1 / (num_groups * self.sizes[self.numbers]))


@dataclass(frozen=True)
class PermutationResult:
    """The result of a permutation test.

    Attributes:
        p: the probability of at least the observed statistic; at least 1 / (permutations + 1).
        distance: between the means of the samples, squared.
        times: the distance as a multiple of that expected by chance.
    """

    p: float
    distance: float
    times: float


def find_min_groups(num_reference: int, alpha: float) -> int:
    """Return how many groups a batch needs: at least MIN_GROUPS, and so many that p can be as small as alpha.

    Args:
        num_reference: groups of the reference.
        alpha: of one test.
    """
    num = MIN_GROUPS
    while math.comb(num_reference + num, num) * alpha < 1 and num < 1 / alpha:
        num += 1
    return num


def run_vector_test(
    vectors: np.ndarray, groups: ImageGroups, num: int, rng: np.random.Generator
) -> PermutationResult:
    """Test whether the means of two samples of vectors differ.

    Args:
        vectors: float (m + n, k), of the images.
        groups: of the images.
        num: the largest number of permutations.
        rng: draws them.
    """
    means = groups.average(vectors)
    means -= means.mean(axis=0)

    def sum_products(members: np.ndarray) -> np.ndarray:
        return np.asarray(((members @ means) ** 2).sum(axis=1))

    of_batch = means[groups.num_reference :]
    return _run_test(sum_products, (means**2).sum(axis=1), of_batch @ of_batch.T, groups, num, rng)


def run_kernel_test(
    kernel: np.ndarray, groups: ImageGroups, num: int, rng: np.random.Generator
) -> PermutationResult:
    """Test whether two samples differ in the mean of their images' features in the space of a kernel (MMD).

    Args:
        kernel: float (m + n, m + n), of the images.
        groups: of the images.
        num: the largest number of permutations.
        rng: draws them.
    """
    between = groups.average(groups.average(kernel).T)
    between -= between.mean(axis=0)
    between -= between.mean(axis=1, keepdims=True)
    products = between.astype(np.float32)

    def sum_products(members: np.ndarray) -> np.ndarray:
        return np.asarray(((members @ products) * members).sum(axis=1, dtype=np.float64))

    of_batch = between[groups.num_reference :, groups.num_reference :]
    return _run_test(sum_products, np.diag(between), of_batch, groups, num, rng)


def _run_test(
    sum_products: Callable[[np.ndarray], np.ndarray],
    squares: np.ndarray,
    of_batch: np.ndarray,
    groups: ImageGroups,
    num: int,
    rng: np.random.Generator,
) -> PermutationResult:
    """Run the test.

    Args:
        sum_products: returns, for each row of a float32 (B, G), the sum of the products of all pairs of groups
            that are 1 in it; the groups are centred, so the sum over all other groups is the same.
        squares: float (G,), the product of each group with itself.
        of_batch: float (n, n), the products of the batch's groups.
        groups: of the images.
        num: the largest number of permutations.
        rng: draws them.
    """
    m, n = groups.num_reference, groups.num_batch
    is_batch = np.concatenate([np.zeros(m, np.float32), np.ones(n, np.float32)])

    def measure(members: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the squared distances, and what they are expected to be by chance."""
        products = sum_products(members)
        of_batch = members @ squares
        within_batch = (of_batch - products / n) / max(n - 1, 1) / n
        within_reference = (squares.sum() - of_batch - products / m) / max(m - 1, 1) / m
        return products * (1 / n + 1 / m) ** 2, np.maximum(within_batch + within_reference, TINY)

    def draw(size: int) -> np.ndarray:
        distances, expected = measure(rng.permuted(np.tile(is_batch, (size, 1)), axis=1))
        return np.asarray(distances / expected)

    distance, expected = (float(values[0]) for values in measure(is_batch[None]))
    times = distance / expected
    p = max(permutation_test(times, draw, num), _compute_f_probability(times, of_batch))
    return PermutationResult(p, distance, times)


def _compute_f_probability(times: float, products: np.ndarray) -> float:
    """Return the probability of at least `times` under the F distribution of a batch's groups.

    Args:
        times: the squared distance as a multiple of that expected by chance.
        products: float (n, n), of the batch's groups.
    """
    from scipy.stats import f

    n = len(products)
    centred = products - products.mean(axis=0)
    centred = (centred - centred.mean(axis=1, keepdims=True)) / max(n - 1, 1)
    trace = float(np.trace(centred))
    squared = (n - 1) ** 2 / max((n - 2) * (n + 1), 1) * (float((centred**2).sum()) - trace**2 / max(n - 1, 1))
    num_directions = trace**2 / max(squared, TINY)
    num_directions = min(max(num_directions, 1.0), MAX_DIRECTIONS_PER_GROUP * max(n - 1, 1))
    return float(f.sf(times, num_directions, num_directions * max(n - 1, 1)))


def permutation_test(
    observed: float, draw: Callable[[int], np.ndarray], num: int, batch_size: int = PERMUTATIONS_PER_BATCH
) -> float:
    """Return the p-value of an observed statistic.

    Drawing stops early once p cannot be small any more. p is at least 1 / (num + 1).

    Args:
        observed: the observed statistic.
        draw: returns the statistics of as many permutations as asked for.
        num: the largest number of permutations.
        batch_size: permutations that are drawn at a time.
    """
    as_large, done = 0, 0
    tolerance = 1e-6 * abs(observed) + 1e-7  # float32 sums in another order
    while done < num and as_large < MAX_EXCEEDANCES:
        drawn = draw(min(batch_size, num - done))
        as_large += int((drawn >= observed - tolerance).sum())
        done += len(drawn)
    return (as_large + 1) / (done + 1)
