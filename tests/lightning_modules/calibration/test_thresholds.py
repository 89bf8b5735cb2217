import numpy as np
import pytest
from sklearn.metrics import f1_score

from lightning_modules.calibration.thresholds import (
    apply_thresholds,
    compute_confidence,
    fit_threshold,
    fit_thresholds,
    join_labels,
)


def test_no_threshold_has_a_higher_f1_than_the_one_that_is_fitted():
    draws = np.random.default_rng(0)
    for _ in range(20):
        borne = draws.random(60) < 0.2
        probabilities = np.round(draws.random(60) * 0.5 + borne * draws.random(60) * 0.4, 2).astype(np.float32)
        places = np.unique([*probabilities, 0.5])
        best = max(f1_score(borne, probabilities >= one, zero_division=0) for one in places)
        fitted = fit_threshold(probabilities, borne)
        assert f1_score(borne, apply_thresholds(probabilities[:, None], [fitted])[:, 0]) == pytest.approx(best)


def test_of_equally_good_thresholds_the_one_nearest_to_one_half_is_taken():
    assert fit_threshold(np.array([0.1, 0.2, 0.8]), np.array([0, 0, 1])) == 0.5
    assert fit_threshold(np.array([0.1, 0.2, 0.4]), np.array([0, 0, 1])) == pytest.approx(0.3)
    assert fit_threshold(np.array([0.6, 0.7, 0.9]), np.array([1, 1, 1])) == 0.5


def test_a_label_that_no_picture_bears_keeps_one_half():
    assert fit_thresholds(np.array([[0.9, 0.2]]), np.array([[0, 1]])) == (0.5, pytest.approx(0.1))
    assert fit_thresholds(np.empty((0, 2)), np.empty((0, 2))) == (0.5, 0.5)


def test_a_set_is_as_sure_as_the_least_sure_of_its_decisions():
    probabilities = np.array([[0.9, 0.3, 0.45], [0.2, 0.05, 0.0]], np.float32)
    which = apply_thresholds(probabilities, (0.5, 0.25, 0.5))
    assert which.tolist() == [[True, True, False], [False, False, False]]
    assert compute_confidence(probabilities, which) == pytest.approx([0.3, 0.8])
    assert [join_labels(("c", "a", "b"), row) for row in which] == ["a|c", ""]


def test_a_label_whose_probabilities_are_all_zero_is_predicted_for_no_picture():
    threshold = fit_threshold(np.zeros(3), np.array([0, 1, 0]))
    assert 0 < threshold < 1e-3
    assert not apply_thresholds(np.zeros((3, 1)), [threshold]).any()


def test_a_threshold_lies_between_two_probabilities_never_on_one():
    assert fit_threshold(np.array([0.4, 0.4, 0.0]), np.array([0, 0, 1])) == pytest.approx(0.2)


def test_one_half_counts_as_predicted_and_far_from_it_the_nearest_of_equally_good_thresholds_is_taken():
    assert fit_threshold(np.array([0.5, 0.1]), np.array([1, 0])) == 0.5
    assert fit_threshold(np.array([0.4, 0.3, 0.2, 0.1]), np.array([1, 0, 0, 1])) == pytest.approx(0.35)


def test_the_confidence_of_a_single_image_is_a_number():
    assert compute_confidence(np.array([0.9, 0.3]), np.array([True, False])) == pytest.approx(0.7)
