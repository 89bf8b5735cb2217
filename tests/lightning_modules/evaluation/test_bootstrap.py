import numpy as np
import pytest

from lightning_modules.evaluation.bootstrap import (
    Bootstrap,
    assign_resampling_units,
    compute_wilson_interval,
    resample_weights,
    sum_by_key,
)


def share(right):
    return lambda weights: {"accuracy": weights @ right / weights.sum(axis=1)}


def test_the_interval_of_an_accuracy_is_as_wide_as_theory_says():
    right = np.arange(400) < 320  # 0.8, standard error 0.02
    low, high = Bootstrap(2000, 0.95, 0).compute_intervals(np.arange(400), share(right))["accuracy"]
    assert (low, high) == (
        pytest.approx(0.8 - 1.96 * 0.02, abs=0.005),
        pytest.approx(0.8 + 1.96 * 0.02, abs=0.005),
    )


def test_nine_of_ten_intervals_of_nine_tenths_hold_the_truth():
    draws = np.random.default_rng(0)
    held = 0
    for trial in range(200):
        right = draws.random(100) < 0.7
        low, high = Bootstrap(300, 0.9, trial).compute_intervals(np.arange(100), share(right))["accuracy"]
        held += low <= 0.7 <= high
    assert 0.83 <= held / 200 <= 0.96


def test_the_same_seed_gives_the_same_interval():
    right = np.arange(50) % 3 > 0
    first, second, other = (
        Bootstrap(100, 0.9, seed).compute_intervals(np.arange(50), share(right)) for seed in (1, 1, 2)
    )
    assert first == second != other


def test_pictures_of_one_patient_are_drawn_together_and_say_less():
    right = np.repeat(np.arange(20) < 14, 10)  # 20 patients with 10 pictures alike
    groups = [f"patient {i // 10}" for i in range(200)]
    alone, together = (
        Bootstrap(500, 0.95, 0).compute_intervals(units, share(right))["accuracy"]
        for units in (np.arange(200), assign_resampling_units(groups))
    )
    assert together[1] - together[0] > 2 * (alone[1] - alone[0])


def test_pictures_without_a_group_are_units_of_their_own():
    assert len(set(assign_resampling_units([None, "a", "a", None]).tolist())) == 3


def test_each_resample_holds_as_many_units_as_there_are():
    weights = np.concatenate(list(Bootstrap(7, 0.9, 0).iter_weights(np.arange(11))))
    assert weights.shape == (7, 11) and (weights.sum(axis=1) == 11).all()


def test_weights_are_summed_by_key_and_a_key_without_pictures_gets_nothing():
    weights = np.array([[1, 2, 3], [0, 1, 0]])
    assert sum_by_key(weights, np.array([2, 0, 2]), 4).tolist() == [[2, 0, 4, 0], [1, 0, 0, 0]]


def test_wilsons_interval_of_the_textbook():
    low, high = compute_wilson_interval(8, 10, 0.95)
    assert (low, high) == (pytest.approx(0.4902, abs=1e-4), pytest.approx(0.9433, abs=1e-4))
    assert compute_wilson_interval(5, 5, 0.95)[1] == pytest.approx(1.0)


def test_groups_are_told_apart_and_no_group_is_a_single_picture():
    units = assign_resampling_units(["a", None, "b", "a", None, "1"])
    assert units[0] == units[3] and sorted(set(units.tolist())) == [0, 1, 2, 3, 4]


def test_resamples_do_not_depend_on_how_many_are_held_at_a_time():
    units = np.array([0, 0, 1, 2, 3])
    few, many = (list(resample_weights(units, 7, 3, limit)) for limit in (10, 1000))
    assert [len(weights) for weights in few] == [2, 2, 2, 1] and [len(weights) for weights in many] == [7]
    np.testing.assert_array_equal(np.concatenate(few), many[0])
    assert [len(weights) for weights in resample_weights(units, 2, 3, 4)] == [1, 1]
    assert (many[0][:, 0] == many[0][:, 1]).all()  # of one unit
    assert (many[0].max(axis=0) > 0).all()


def test_weights_of_no_picture_are_sums_of_zero():
    assert sum_by_key(np.zeros((2, 0), int), np.zeros(0, int), 3).tolist() == [[0, 0, 0]] * 2


def test_an_interval_of_a_share_stays_within_zero_and_one():
    assert compute_wilson_interval(0, 5, 0.95)[0] == pytest.approx(0, abs=1e-9)
    assert 0.4 < compute_wilson_interval(0, 5, 0.95)[1] < 0.5
    assert all(compute_wilson_interval(0, num, 0.95)[0] >= 0 for num in range(1, 500))
    assert all(compute_wilson_interval(num, num, 0.95)[1] <= 1 for num in range(1, 500))
    assert 0.5 < compute_wilson_interval(5, 5, 0.95)[0] < 0.6


def test_an_interval_leaves_out_the_same_share_on_both_sides():
    (low, high) = Bootstrap(1000, 0.9, 0).compute_intervals(
        np.arange(3), lambda weights: {"number": np.arange(len(weights))}
    )["number"]
    assert (low, high) == (pytest.approx(49.95), pytest.approx(949.05))
