from dataclasses import replace

import numpy as np
import pytest

from benchmarks.promotion import Models, Pictures
from lightning_modules.comparison.gain.gain_test import run_gain_test
from lightning_modules.comparison.gain.power import PowerAnalysis

DEMO = PowerAnalysis("accuracy", 250 / 252, 252, 252, deviation=0.1)


def test_two_errors_of_252_cannot_show_a_better_model_and_the_number_that_could_is_named():
    assert DEMO.find_smallest_gain() is None
    assert DEMO.target_gain == pytest.approx(1 / 252)
    needed = DEMO.count_needed_images()
    assert 5_000 < needed < 10_000
    assert DEMO.find_smallest_gain(needed) <= DEMO.target_gain < DEMO.find_smallest_gain(needed // 2)


def test_a_model_without_errors_leaves_no_room():
    perfect = replace(DEMO, value=1.0)
    assert perfect.find_smallest_gain() is None and perfect.count_needed_images() is None


def test_earlier_decisions_cost_power_and_new_pictures_bring_it_back():
    fresh = PowerAnalysis("accuracy", 0.9, 1000, 1000, deviation=0.25)
    used = replace(fresh, num_looks=100)
    assert used.find_smallest_gain() > 1.3 * fresh.find_smallest_gain()
    assert used.find_smallest_gain(2000) < 1.15 * fresh.find_smallest_gain(2000)


def test_few_groups_show_nothing_and_more_pictures_have_more_groups():
    few = PowerAnalysis("accuracy", 0.8, 300, 3, deviation=1.0)
    assert few.find_smallest_gain() is None
    assert few.find_smallest_gain(3000) is not None


def test_the_smallest_gain_is_seen_as_often_as_it_says():
    """The deviations are those of one comparison of a model that is two points better."""
    rng, groups = np.random.default_rng(0), np.arange(500)
    pairs = [Pictures(Models((0.92, 0.9)), groups, rng).draw_pair() for _ in range(60)]
    tests = [run_gain_test(pair, "accuracy", 0.0, 0.025) for pair in pairs]
    first = tests[0]
    analysis = PowerAnalysis(
        "accuracy", 0.9, 500, 500, deviation=first.metric_gain.deviation,
        log_loss=first.log_loss_gain.champion, log_loss_deviation=first.log_loss_gain.deviation,
        max_accuracy_drop=0.02,
    )  # fmt: skip
    smallest = analysis.find_smallest_gain()
    assert 0.01 < smallest < 0.025
    assert np.mean([one.passes for one in tests]) > 0.7
    without = replace(analysis, log_loss=None, log_loss_deviation=None)
    assert without.find_smallest_gain() > smallest


def test_a_loss_may_fall_to_nothing_at_most():
    loss = PowerAnalysis("log_loss", 0.3, 400, 400, deviation=0.8)
    assert (loss.room, loss.target_gain) == (0.3, 0.01)
    assert loss.find_smallest_gain() == pytest.approx((1.96 + 0.8416) * 0.8 / 20, rel=1e-3)
