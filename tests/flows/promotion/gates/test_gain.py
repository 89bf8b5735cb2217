from dataclasses import replace

import numpy as np
import pytest

from flows.promotion.gates.gain import describe_looks, evaluate_gain
from tests.helpers.paired_models import BETTER, EQUAL, NUM, PARAMS, make_look


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
