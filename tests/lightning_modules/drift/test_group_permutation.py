import numpy as np
import pytest

from lightning_modules.drift.group_permutation import (
    MIN_GROUPS,
    ImageGroups,
    find_min_groups,
    permutation_test,
    run_kernel_test,
    run_vector_test,
)

GROUPS = ImageGroups.join(np.array([7, 3, 7, 3, 9]), np.array([7, 7, 2]))


def test_groups_of_the_samples_are_never_the_same_group():
    assert GROUPS.numbers.tolist() == [1, 0, 1, 0, 2, 4, 4, 3]
    assert (GROUPS.num_reference, GROUPS.num_batch, GROUPS.sizes.tolist()) == (3, 2, [2, 2, 1, 1, 2])


def test_every_group_of_a_sample_weighs_the_same():
    values = np.array([1.0, 2, 3, 4, 5, 6, 8, 9])
    assert GROUPS.average(values).tolist() == [3, 2, 5, 9, 7]
    assert GROUPS.average(np.stack([values, -values], axis=1))[3].tolist() == [9, -9]
    assert GROUPS.weigh_images() @ values == pytest.approx((9 + 7) / 2 - (3 + 2 + 5) / 3)


def test_the_kernel_and_its_vectors_give_the_same_test():
    vectors = np.random.default_rng(0).normal(0, 1, (60, 3))
    groups = ImageGroups.join(np.arange(40) // 2, np.arange(20) // 3)
    first, second = (
        test(values, groups, 999, np.random.default_rng(1))
        for test, values in ((run_vector_test, vectors), (run_kernel_test, vectors @ vectors.T))
    )
    assert (first.p, first.times) == pytest.approx((second.p, second.times), rel=1e-4)
    means = groups.average(vectors)
    difference = means[20:].mean(axis=0) - means[:20].mean(axis=0)
    assert (first.distance, second.distance) == pytest.approx((difference @ difference,) * 2)
    chance = sum(part.var(axis=0, ddof=1).sum() / len(part) for part in (means[:20], means[20:]))
    assert first.times == pytest.approx(first.distance / chance)


def test_groups_are_dealt_out_whole():
    """Two groups of 30 pictures at one place are no evidence, 60 pictures that stand alone there are."""
    reference, batch = np.random.default_rng(0).normal(0, 1, (60, 1)), np.full((60, 1), 1.2)
    points = np.concatenate([reference, batch])
    in_groups = ImageGroups.join(np.arange(60), np.arange(60) // 30)
    alone = ImageGroups.join(np.arange(60), np.arange(60))
    found = [run_vector_test(points, groups, 999, np.random.default_rng(0)).p for groups in (in_groups, alone)]
    assert found[1] == 0.001


def test_a_batch_needs_groups_enough_for_a_small_p():
    assert find_min_groups(1000, 0.001 / 8) == find_min_groups(20, 0.05 / 8) == MIN_GROUPS
    assert find_min_groups(3, 0.05 / 8) == 8  # 165 ways to deal out 8 of 11; 7 of 10: 120
    assert find_min_groups(1, 0.05 / 8) == 160 - 1


def test_a_permutation_p_is_never_zero_and_few_are_drawn_where_it_is_plain():
    drawn = []

    def draw(num: int) -> np.ndarray:
        drawn.append(num)
        return np.zeros(num)

    assert permutation_test(1.0, draw, 9999) == 1 / 10_000
    assert sum(drawn) == 9999
    drawn.clear()
    assert permutation_test(-1.0, draw, 9999) == 1.0
    assert sum(drawn) == 500
