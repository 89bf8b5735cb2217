import numpy as np
import pytest

from lightning_modules.calibration.temperature import to_probabilities
from lightning_modules.evaluation.reliability import compute_reliability
from tests.helpers.training import draw_logits


def test_the_calibration_error_of_a_worked_example():
    confidence = np.array([0.95, 0.85, 0.55, 0.45])
    right = np.array([True, False, True, False])
    bins = compute_reliability(
        confidence, right, 2
    )  # below 0.5: one, wrong at 0.45; above: two of three, at 0.7833
    assert bins.count.tolist() == [1, 3]
    assert bins.ece == pytest.approx((1 * 0.45 + 3 * (2.35 / 3 - 2 / 3)) / 4)


def test_who_is_sure_and_right_has_no_calibration_error():
    assert compute_reliability(np.ones(5), np.ones(5, bool), 15).ece == 0


def test_honest_logits_have_a_small_calibration_error_and_stretched_ones_a_large():
    logits, labels = draw_logits(n=20_000)

    def ece(logits):
        p = to_probabilities(logits, 1.0, False)
        return compute_reliability(p.max(1), p.argmax(1) == labels, 15).ece

    assert ece(logits) < 0.015 < 0.1 < ece(logits * 3)
