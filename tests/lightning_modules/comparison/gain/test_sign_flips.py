import itertools
import math

import numpy as np
import pytest

from lightning_modules.comparison.gain import sign_flips
from lightning_modules.comparison.gain.sign_flips import SignFlips, count_needed_groups


def draw_groups(seed: int, num_groups: int) -> SignFlips:
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 40, num_groups).astype(float)
    return SignFlips(rng.standard_normal(num_groups) * np.sqrt(sizes) + 0.3 * sizes, sizes)


def test_the_p_value_is_the_share_of_signs_with_at_least_the_observed_sum():
    found = draw_groups(0, 8)
    for gain in (-0.2, 0.0, 0.4):
        gains = found.sums - gain * found.sizes
        sums = [np.dot(signs, gains) for signs in itertools.product((1, -1), repeat=8)]
        expected = np.mean([one >= gains.sum() - 1e-9 for one in sums])
        assert found.compute_p_value(gain) == pytest.approx(expected)


@pytest.mark.parametrize(("wins", "losses"), [(14, 2), (16, 4), (70, 30), (190, 110)])
def test_right_and_wrong_answers_have_the_p_value_of_the_sign_test(wins, losses):
    from scipy.stats import binomtest

    sums = np.repeat([1.0, -1.0, 0.0], [wins, losses, 50])
    expected = binomtest(wins, wins + losses, 0.5, "greater").pvalue
    assert SignFlips(sums, np.ones(len(sums))).compute_p_value(0.0) == pytest.approx(expected, rel=0.15)


def test_the_approximation_for_many_groups_agrees_with_counting(monkeypatch):
    for seed in range(20):
        found = draw_groups(seed, 14)
        exact = found.compute_p_value(0.2)
        monkeypatch.setattr(sign_flips, "MAX_ENUMERATED_GROUPS", 0)
        assert found.compute_p_value(0.2) == pytest.approx(exact, rel=0.15, abs=0.0005)
        monkeypatch.undo()


@pytest.mark.parametrize("num_groups", [7, 14, 15, 60])
def test_the_interval_lies_above_a_value_exactly_if_its_p_value_is_small_enough(num_groups):
    for seed in range(20):
        found = draw_groups(seed, num_groups)
        low = found.find_lower_bound(0.02)
        assert found.compute_p_value(low - 1e-6) <= 0.02 < found.compute_p_value(low + 1e-6)
        turned = SignFlips(-found.sums, found.sizes)
        assert turned.find_upper_bound(0.02) == pytest.approx(-low)


def test_too_few_groups_leave_the_interval_open_however_large_the_gain():
    assert [count_needed_groups(tail) for tail in (0.05, 0.025, 1 / 64, 0.005)] == [5, 6, 6, 8]
    for num_groups in range(1, 9):
        found = SignFlips(np.full(num_groups, 99.0), np.full(num_groups, 100.0))
        for tail in (0.05, 0.025, 1 / 64, 0.005):
            is_open = math.isinf(found.find_lower_bound(tail))
            assert is_open == (found.compute_p_value(0.0) > tail) == (num_groups < count_needed_groups(tail))


def test_models_without_any_difference_are_never_told_apart():
    for num_groups in (10, 100):
        assert SignFlips(np.zeros(num_groups), np.ones(num_groups)).compute_p_value(0.0) == 1
