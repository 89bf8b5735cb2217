from dataclasses import replace

import numpy as np
import pytest

from flows.promotion.gates.gain import describe_looks, evaluate_gain
from lightning_modules.comparison.gain.gain_test import run_gain_test
from lightning_modules.comparison.paired import PairedPredictions
from tests.helpers.paired_models import BETTER, EQUAL, NUM, PARAMS, make_look, make_models


def test_the_printed_interval_agrees_with_the_decision():
    better, equal = (evaluate_gain(predictions, PARAMS, make_look()) for predictions in (BETTER, EQUAL))
    assert better.passes and better.numbers["log_loss_gain_low"] > 0
    assert better.message.startswith("accuracy 0.8800 against 0.8333: gain +0.0467, 99% interval ")
    assert "; log loss at equal confidence " in better.message and better.message.endswith(", above 0")
    assert not equal.passes and equal.numbers["log_loss_gain_low"] <= 0 and equal.numbers["gain_low"] <= 0


def test_fewer_groups_than_can_decide_are_named_with_the_number_it_takes():
    few = replace(BETTER, groups=np.arange(NUM) % 3)
    gate = evaluate_gain(few, PARAMS, make_look())
    assert not gate.passes and gate.numbers["gain_low"] is None
    assert (
        "it cannot be decided which model is better: the test pictures form 3 groups, and 6 or more"
        in gate.message
    )
    late = evaluate_gain(replace(BETTER, groups=np.arange(NUM) % 9), PARAMS, replace(make_look(), tail=0.0001))
    assert not late.passes and "9 groups, and 14 or more are needed" in late.message
    assert evaluate_gain(replace(BETTER, groups=np.arange(NUM) % 9), PARAMS, make_look()).passes


def test_a_later_decision_needs_a_larger_gain():
    assert evaluate_gain(BETTER, PARAMS, make_look()).passes
    late = evaluate_gain(BETTER, PARAMS, replace(make_look(num_earlier=300), tail=1e-9))
    assert not late.passes and "99.9999% interval" not in late.message.split(";")[0]


def test_both_models_are_measured_again_on_pictures_that_no_decision_has_used():
    gate = evaluate_gain(BETTER, PARAMS, make_look(num_earlier=14, num_unseen=200))
    numbers = gate.numbers
    right = BETTER.champion[-200:].argmax(1) == BETTER.labels[-200:]
    assert (numbers["num_unseen"], numbers["num_looks"]) == (200, 14)
    assert numbers["compared_unseen_accuracy"] == pytest.approx(right.mean())
    assert describe_looks(numbers, "accuracy").startswith(
        ", which 14 decisions have used; on the 200 that none has used: 0."
    )
    seen = evaluate_gain(BETTER, PARAMS, make_look(num_earlier=1)).numbers
    assert describe_looks(seen, "accuracy") == ", which 1 decision has used" and "num_unseen" not in seen
    assert describe_looks(evaluate_gain(BETTER, PARAMS, make_look(num_unseen=NUM)).numbers, "accuracy") == ""


def test_the_numbers_are_those_of_the_test():
    predictions = replace(BETTER, groups=np.arange(NUM) // 2)
    look = replace(make_look(num_earlier=7), num_spending=5, tail=0.02)
    numbers = evaluate_gain(predictions, {**PARAMS, "max_accuracy_drop": 0.03}, look).numbers
    test = run_gain_test(predictions, "accuracy", 0.0, 0.02, 0.03, 0.05)
    assert test.log_loss_gain is not None
    expected = {"num_test": NUM, "num_groups": NUM // 2, "num_looks": 7, "num_spending": 5,
                "error_probability": 0.02, "confidence": 0.95, "max_accuracy_drop": 0.03}  # fmt: skip
    for metric, name, gain in (
        ("accuracy", "gain", test.metric_gain), ("recalibrated_log_loss", "log_loss_gain", test.log_loss_gain)
    ):  # fmt: skip
        expected |= {metric: gain.candidate, f"compared_{metric}": gain.champion, name: gain.gain}
        expected |= {f"{name}_low": gain.low, f"{name}_high": gain.high, f"{name}_deviation": gain.deviation}
    assert numbers == expected


def test_the_message_names_the_metric_and_both_ends_of_its_interval():
    gate = evaluate_gain(BETTER, {**PARAMS, "metric": "macro_recall"}, make_look())
    low, high = gate.numbers["gain_low"], gate.numbers["gain_high"]
    assert gate.message.startswith("macro recall 0.")
    assert gate.message.endswith(f", 95% interval {low:+.4f} to {high:+.4f}, above 0")


def test_a_gain_below_the_one_that_is_asked_for_is_named_with_it():
    gate = evaluate_gain(BETTER, {**PARAMS, "min_gain": 0.2}, make_look())
    assert not gate.passes and gate.message.endswith(", not above 0.2")


def make_surer(right_candidate: np.ndarray, right_champion: np.ndarray) -> PairedPredictions:
    """Two models of which the candidate knows much better when it is right."""
    labels = np.arange(NUM) % 2

    def predict(right: np.ndarray, sure: np.ndarray) -> np.ndarray:
        probabilities = np.empty((NUM, 2))
        probabilities[np.arange(NUM), labels] = np.where(right, sure, 1 - sure)
        probabilities[np.arange(NUM), 1 - labels] = np.where(right, 1 - sure, sure)
        return probabilities

    candidate = predict(right_candidate, np.where(right_candidate, 0.97, 0.55))
    champion = predict(right_champion, np.full(NUM, 0.8))
    return PairedPredictions(labels, candidate, champion, ("a", "b"), np.arange(NUM))


@pytest.mark.parametrize("num_lost", [0, 20])
def test_better_probabilities_alone_do_not_make_a_model_better_that_is_right_no_more_often(num_lost):
    right_champion = np.arange(NUM) % 5 > 0
    right_candidate = np.roll(right_champion, 1)
    right_candidate[np.flatnonzero(right_candidate)[:num_lost]] = False
    gate = evaluate_gain(make_surer(right_candidate, right_champion), PARAMS, make_look())
    assert not gate.passes and gate.numbers["log_loss_gain_low"] > 0 and gate.numbers["gain"] <= 0
    assert gate.message.endswith(", but it is right no more often: not above 0")


def test_a_model_that_may_be_right_less_often_is_not_better_by_its_probabilities():
    right_champion = np.arange(NUM) % 5 > 0
    right_candidate = np.roll(right_champion, 1)
    right_candidate[:3] = True
    predictions = make_surer(right_candidate, right_champion)
    gate = evaluate_gain(predictions, {**PARAMS, "max_accuracy_drop": 0.01}, make_look())
    assert not gate.passes and gate.numbers["log_loss_gain_low"] > 0 and gate.numbers["gain"] > 0
    assert gate.message.endswith(", but it may be right less often by more than 0.01: not above 0")
    assert evaluate_gain(predictions, {**PARAMS, "max_accuracy_drop": None}, make_look()).passes


def test_a_model_with_worse_probabilities_is_only_not_above():
    gate = evaluate_gain(make_models(np.arange(5, 500, 5), np.arange(0, 500, 5)), PARAMS, make_look())
    assert gate.message.split(", ")[-1] == "not above 0"
    worse = evaluate_gain(make_models(np.arange(0, 500, 4), np.arange(0, 500, 5)), PARAMS, make_look())
    assert worse.message.split(", ")[-1] == "not above 0"


def test_of_several_labels_the_unseen_pictures_are_measured_by_the_predicted_labels():
    labels = np.tile([[1, 0], [0, 1]], (20, 1))
    predicted = labels > 0
    half = predicted.copy()
    half[30:] = ~half[30:]
    predictions = PairedPredictions(
        labels, labels.astype(float), labels.astype(float), ("a", "b"), np.arange(40), predicted, half
    )
    gate = evaluate_gain(predictions, PARAMS, make_look(40, num_earlier=2, num_unseen=20))
    assert gate.numbers["unseen_accuracy"] == 1 and gate.numbers["compared_unseen_accuracy"] == 0.5
    assert describe_looks(gate.numbers, "accuracy") == (
        ", which 2 decisions have used; on the 20 that none has used: 1.0000 against 0.5000"
    )
