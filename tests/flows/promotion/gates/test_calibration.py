import numpy as np
import pytest

from flows.promotion.gates.calibration import evaluate_calibration
from flows.promotion.gates.gate import Gate
from lightning_modules.comparison.paired import PairedPredictions

PARAMS = {"max_ece_rise": 0.05, "confidence": 0.95, "resamples": 300}


def make_predictions(candidate_confidence: float, champion_confidence: float, num: int = 200, num_unread: int = 0):
    """Two models that are right about nine of ten pictures, each as sure as is said."""
    labels = np.zeros(num, int)
    right = np.arange(num) % 10 > 0

    def make(confidence: float) -> np.ndarray:
        best = np.where(right, 0, 1)
        probabilities = np.full((num, 2), 1 - confidence)
        probabilities[np.arange(num), best] = confidence
        return probabilities

    champion = make(champion_confidence)
    champion[:num_unread] = 0
    return PairedPredictions(labels, make(candidate_confidence), champion, ("a", "b"), np.arange(num))


def test_probabilities_that_mean_less_than_the_champions_are_refused():
    assert not evaluate_calibration(make_predictions(0.6, 0.9), PARAMS).passes
    assert evaluate_calibration(make_predictions(0.88, 0.9), PARAMS).passes
    assert evaluate_calibration(make_predictions(0.6, 0.9), {**PARAMS, "max_ece_rise": None}).passes


def test_a_model_that_is_too_sure_is_as_wrong_as_one_that_is_not_sure_enough():
    low, high = (evaluate_calibration(make_predictions(x, 0.9), PARAMS) for x in (0.8, 1.0))
    assert low.numbers["calibration_error"] > 0.09 and high.numbers["calibration_error"] > 0.09
    assert not low.passes and not high.passes


def test_pictures_that_the_champion_could_not_read_say_nothing_about_its_probabilities():
    """It gave no answer about them: counted with an error of 0, they would make it look honest."""
    gate = evaluate_calibration(make_predictions(0.6, 0.6, num_unread=180), PARAMS)
    assert gate.passes and gate.numbers["compared_calibration_error"] > 0.2
    none = evaluate_calibration(make_predictions(0.6, 0.6, num_unread=200), PARAMS)
    assert none == Gate("calibration", True, "not compared: no test picture could be read by both models")


def test_the_message_names_both_errors_and_what_is_refused():
    refused = evaluate_calibration(make_predictions(0.6, 0.8), PARAMS)
    numbers = {"calibration_error": pytest.approx(0.3), "compared_calibration_error": pytest.approx(0.1)}
    message = "calibration error 0.3000 against 0.1000"
    assert refused == Gate("calibration", False, f"{message}: more than 0.05 worse", numbers)
    allowed = evaluate_calibration(make_predictions(0.6, 0.8), {**PARAMS, "max_ece_rise": 0.25})
    assert allowed == Gate("calibration", True, message, numbers)


def test_a_rise_that_may_be_chance_is_no_reason():
    gate = evaluate_calibration(make_predictions(0.99, 0.9, num=10), PARAMS)
    message = "calibration error 0.0900 against 0.0000, which may be chance"
    numbers = {"calibration_error": pytest.approx(0.09), "compared_calibration_error": pytest.approx(0, abs=1e-9)}
    assert gate == Gate("calibration", True, message, numbers)


def test_without_any_rise_nothing_is_said_about_chance():
    gate = evaluate_calibration(make_predictions(0.8, 0.8), {**PARAMS, "max_ece_rise": 0.0})
    assert gate.passes and gate.message == "calibration error 0.1000 against 0.1000"
