import numpy as np
import pytest

from lightning_modules.evaluation.abstention import (
    compute_risk_coverage,
    describe_abstention,
    summarize_abstention,
)


@pytest.fixture
def curve():
    """Confidences of eight pictures in no order; the two least confident ones are wrong, and one of the others."""
    confidence = np.array([0.5, 0.9, 0.9, 0.6, 0.95, 0.8, 0.7, 0.55], np.float32)
    correct = np.array([False, True, False, True, True, True, True, False])
    return compute_risk_coverage(confidence, correct)


def test_the_curve_labels_the_most_confident_pictures_first_and_equal_ones_together(curve):
    assert curve.threshold == pytest.approx([0.95, 0.9, 0.8, 0.7, 0.6, 0.55, 0.5])
    assert curve.coverage.tolist() == [1 / 8, 3 / 8, 4 / 8, 5 / 8, 6 / 8, 7 / 8, 1]
    assert curve.accuracy.tolist() == pytest.approx([1, 2 / 3, 3 / 4, 4 / 5, 5 / 6, 5 / 7, 5 / 8])


def test_a_threshold_gives_coverage_and_the_accuracy_of_what_was_answered(curve):
    numbers = summarize_abstention(curve, 0.6)
    assert (numbers["abstain_below"], numbers["coverage"]) == (0.6, 0.75)
    assert numbers["selective_accuracy"] == pytest.approx(5 / 6)
    assert numbers["accuracy_of_best_50_percent"] == 0.75
    assert numbers["accuracy_of_best_90_percent"] == 5 / 8
    text = "with abstain_below 0.6 it answers 75%, of those 0.8333 right"
    assert describe_abstention(numbers) == text


def test_the_threshold_is_compared_as_prediction_compares_it():
    """0.6 as float32 is more than 0.6, 0.7 is less: `predict` abstains from the second one."""
    curve = compute_risk_coverage(np.array([0.6, 0.7], np.float32), np.array([True, True]))
    assert curve.find_point(0.6) == (1.0, 1.0)
    assert curve.find_point(0.7) == (0.0, None)


def test_without_a_threshold_there_are_only_the_numbers_of_the_curve(curve):
    numbers = summarize_abstention(curve, None)
    assert "coverage" not in numbers and numbers["area_under_risk"] > 0
    assert describe_abstention(numbers) == ""


def test_a_threshold_that_no_picture_reaches_answers_none_and_has_no_accuracy(curve):
    numbers = summarize_abstention(curve, 0.99)
    assert numbers["coverage"] == 0 and "selective_accuracy" not in numbers
    assert describe_abstention(numbers) == "with abstain_below 0.99 it answers 0%"


def test_the_area_under_the_risk_is_lower_if_mistakes_come_last():
    confidence, correct = np.linspace(1, 0.5, 10), np.arange(10) < 7
    last, first = (compute_risk_coverage(confidence, hit) for hit in (correct, correct[::-1]))
    assert last.area_under_risk < first.area_under_risk
    assert last.area_under_risk == pytest.approx(sum(k / (7 + k) for k in (1, 2, 3)) / 10)
