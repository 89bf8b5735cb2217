"""The gates of a promotion: each of them alone prevents it."""

from dataclasses import replace

import numpy as np
import pytest

from flows.promotion.gates.calibration import evaluate_calibration
from flows.promotion.gates.classes import evaluate_class_recall
from flows.promotion.gates.evaluation import combine_gates
from flows.promotion.gates.gain import evaluate_gain
from flows.promotion.gates.gate import Gate
from flows.promotion.model_registry import Version
from lightning_modules.comparison.paired import PairedPredictions
from tests.helpers.paired_models import BETTER, EQUAL, PARAMS, TOO_SURE, WORSE_CLASS, make_look, make_models

OTHERS = (Gate("speed", True, "1 ms"), Gate("unseen", True, "trained on no test picture"))
CHAMPION = Version("digits", 3, "run")


def decide(predictions: PairedPredictions, others=OTHERS, **params):
    params = {**PARAMS, **params}
    gates = [
        evaluate_gain(predictions, params, make_look()),
        evaluate_class_recall(predictions, params),
        evaluate_calibration(predictions, params),
    ]
    return combine_gates([*gates, *others], CHAMPION, params["metric"])


def failing(result) -> list[str]:
    return [gate.name for gate in result.gates if not gate.passes]


def test_a_model_that_passes_all_gates_is_promoted():
    result = decide(BETTER)
    assert result.passes and failing(result) == []
    assert [gate.name for gate in result.gates] == ["better", "classes", "calibration", "speed", "unseen"]


def test_a_model_that_is_not_better_is_not_promoted():
    result = decide(EQUAL)
    assert failing(result) == ["better"] and not result.passes
    assert "not above 0 (version 3, the same 600 pictures); 600 test pictures, 100 errors: " in result.reason


def test_a_gain_that_may_be_chance_is_not_promoted():
    result = decide(make_models(np.arange(5, 500, 5), np.arange(0, 500, 5)))
    assert result.numbers["gain"] > 0 and failing(result) == ["better"] and not result.passes


def test_a_class_that_falls_prevents_promotion():
    result = decide(WORSE_CLASS)
    assert failing(result) == ["classes"] and not result.passes
    assert "c 1.000 to 0.600 of 100 pictures" in result.reason


def test_probabilities_that_mean_less_prevent_promotion():
    result = decide(TOO_SURE)
    assert failing(result) == ["calibration"] and not result.passes
    assert "more than 0.05 worse" in result.reason


@pytest.mark.parametrize("name", ["speed", "unseen"])
def test_each_further_gate_prevents_promotion(name):
    others = [replace(gate, passes=gate.name != name, message="it fails") for gate in OTHERS]
    result = decide(BETTER, others)
    assert failing(result) == [name] and not result.passes
    assert result.reason.endswith("the same 600 pictures); it fails")
