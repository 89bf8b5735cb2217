"""The simulation of `make simulate`, small: the earlier rule would fail most of these."""

import numpy as np
import pytest

from benchmarks.promotion import Models, Pictures, divide_into_groups, draw_labels_pair, make_rule
from lightning_modules.comparison.gain.gain_test import measure_gain, run_gain_test
from lightning_modules.comparison.paired import PairedPredictions

FIRST = 0.025  # the error probability of the first decision on a test split


def rate(pairs, metric: str = "accuracy") -> float:
    return float(np.mean([run_gain_test(pair, metric, 0.0, FIRST).passes for pair in pairs]))


def draw_pairs(models: Models, groups: np.ndarray, num: int, seed: int = 0):
    rng = np.random.default_rng(seed)
    return (Pictures(models, groups, rng).draw_pair() for _ in range(num))


@pytest.mark.parametrize("sizes", ["equal", "one half", "geometric"])
@pytest.mark.parametrize(("num_groups", "num"), [(1, 20), (2, 20), (3, 20), (5, 20), (8, 80), (20, 80)])
def test_equal_models_are_not_promoted_on_few_groups(num_groups, num, sizes):
    groups = divide_into_groups(200, num_groups, sizes)
    for metric in ("accuracy", "log_loss"):
        assert rate(draw_pairs(Models(), groups, num), metric) <= (0.0 if num_groups <= 5 else 0.05)


@pytest.mark.parametrize("metric", ["map", "micro_f1", "macro_f1"])
def test_equal_models_of_several_labels_are_not_promoted_on_few_groups(metric):
    rng, groups = np.random.default_rng(0), divide_into_groups(120, 10, "geometric")
    assert rate((draw_labels_pair(groups, rng) for _ in range(60)), metric) <= 0.05


def test_of_fourteen_equal_candidates_on_one_test_split_hardly_ever_one_is_promoted():
    rules, promoted = [make_rule(look) for look in range(14)], 0
    for series in range(25):
        pictures = Pictures(Models(), np.arange(250), np.random.default_rng(series))
        champion = pictures.draw_model(0.9, 1.0)
        promoted += any(rule(pictures.draw_pair(champion), "accuracy") for rule in rules)
    assert promoted <= 1  # of the earlier rule about 5


def test_two_points_are_seen_on_250_pictures_in_more_than_half_of_cases():
    assert rate(draw_pairs(Models((0.92, 0.9)), np.arange(250), 60)) > 0.45  # of the earlier rule in a quarter


@pytest.mark.parametrize("scales", [(1.0, 3.0), (3.0, 1.0), (1.0, 0.4)])
def test_a_model_that_is_only_better_calibrated_is_not_more_accurate(scales):
    pairs = list(draw_pairs(Models(scales=scales), np.arange(250), 60))
    assert rate(pairs) <= 0.05
    if scales == (1.0, 3.0):  # it is better where the metric is the log loss itself
        assert rate(pairs, "log_loss") > 0.6


# ---- each condition alone decides -------------------------------------------------------------------


def make_pair(candidate: np.ndarray, champion: np.ndarray) -> PairedPredictions:
    """Two models of two classes, from the probability of the true class, which is always the first."""
    labels = np.zeros(len(candidate), int)
    models = (np.stack([true, 1 - true], axis=1) for true in (candidate, champion))
    return PairedPredictions(labels, *models, ("a", "b"), np.arange(len(candidate)))


def make_probabilities(num_correct: int, num_wrong: int, sure: float) -> np.ndarray:
    """Probabilities of the true class: `sure` where the model is right, 0.45 where it is wrong."""
    return np.repeat([sure, 0.45], [num_correct, num_wrong])


def test_a_gain_that_may_be_chance_is_not_enough():
    champion = np.tile([0.9, 0.9, 0.9, 0.4], 25)
    candidate = champion.copy()
    candidate[[3, 7]] = 0.9
    found = run_gain_test(make_pair(candidate, champion), "accuracy", 0.0, FIRST)
    assert found.metric_gain.gain == pytest.approx(0.02) and not found.passes


def test_a_model_with_less_loss_and_no_more_correct_answers_is_not_more_accurate():
    rng = np.random.default_rng(0)
    champion = np.clip(rng.normal(0.75, 0.15, 400), 0.02, 0.98)
    candidate = np.where(champion > 0.5, np.where(champion < 0.7, 0.93, champion), 0.49)
    found = run_gain_test(make_pair(candidate, champion), "accuracy", 0.0, FIRST)
    assert found.log_loss_gain.is_above(0.0) and found.metric_gain.gain == 0 and not found.passes


def test_a_loss_of_accuracy_that_cannot_be_ruled_out_prevents_promotion():
    """40 gains and 38 losses among 100 pictures: more correct answers, and the next hundred may be worse."""
    champion = np.full(100, 0.9)
    candidate = np.full(100, 0.95)
    champion[:40], candidate[:40] = 0.02, 0.55
    champion[40:78], candidate[40:78] = 0.55, 0.47
    pair = make_pair(candidate, champion)
    found = run_gain_test(pair, "accuracy", 0.0, FIRST)
    assert found.log_loss_gain.is_above(0.0) and found.metric_gain.gain > 0 and not found.passes
    assert run_gain_test(pair, "accuracy", 0.0, FIRST, max_accuracy_drop=None).passes


def test_a_proven_gain_of_accuracy_is_enough_whatever_the_probabilities():
    champion = np.tile([0.98, 0.98, 0.98, 0.49], 50)
    candidate = np.tile([0.55, 0.55, 0.55, 0.51], 50)
    candidate[0:40:4] = 0.001
    found = run_gain_test(make_pair(candidate, champion), "accuracy", 0.0, FIRST)
    assert not found.log_loss_gain.is_above(0.0) and found.passes


def test_a_gain_above_a_given_one_is_shown_by_the_metric_alone():
    pair = next(iter(draw_pairs(Models((0.95, 0.85)), np.arange(800), 1)))
    assert run_gain_test(pair, "accuracy", 0.0, FIRST).passes
    found = run_gain_test(pair, "accuracy", 0.03, FIRST)
    assert found.passes and found.log_loss_gain is None and found.metric_gain.low > 0.03
    assert not run_gain_test(pair, "accuracy", 0.095, FIRST).passes


def test_the_gains_of_groups_are_the_sums_over_their_pictures():
    groups = divide_into_groups(200, 12, "geometric")
    pair = next(iter(draw_pairs(Models(), groups, 1)))
    gain = measure_gain(pair, "accuracy", FIRST)
    hits = (pair.candidate.argmax(1) == pair.labels).astype(float) - (pair.champion.argmax(1) == pair.labels)
    assert np.allclose(gain.flips.sums, np.bincount(groups, hits)) and gain.gain == pytest.approx(hits.mean())


def test_thousands_of_groups_are_merged_and_show_the_same(monkeypatch):
    pair = next(iter(draw_pairs(Models((0.92, 0.9)), np.arange(1500), 1)))
    apart = measure_gain(pair, "accuracy", FIRST)
    monkeypatch.setattr("lightning_modules.comparison.gain.gain_test.MAX_JACKKNIFE_GROUPS", 300)
    merged = measure_gain(pair, "accuracy", FIRST)
    assert len(merged.flips.sums) == 300 and merged.gain == apart.gain
    assert merged.high - merged.low == pytest.approx(apart.high - apart.low, rel=0.2)
