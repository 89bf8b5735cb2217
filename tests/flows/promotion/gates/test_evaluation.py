"""The gates of a promotion: each of them alone prevents it."""

from dataclasses import replace

import numpy as np
import pytest

from flows.promotion.gates.calibration import evaluate_calibration
from flows.promotion.gates.classes import evaluate_class_recall
from flows.promotion.gates.evaluation import combine_gates
from flows.promotion.gates.gain import evaluate_gain
from flows.promotion.gates.gate import Gate
from flows.promotion.holdout_reuse import HoldoutLook
from flows.promotion.model_registry import Version
from lightning_modules.comparison.paired import PairedPredictions

PARAMS = {
    "metric": "accuracy", "min_gain": 0.0, "confidence": 0.95, "max_accuracy_drop": 0.02, "resamples": 300,
    "max_class_drop": 0.05, "max_ece_rise": 0.05, "max_slowdown": 3.0,
}  # fmt: skip
OTHERS = (Gate("speed", True, "1 ms"), Gate("unseen", True, "trained on no test picture"))
CHAMPION = Version("digits", 3, "run")
NUM = 600


def make_look(num: int = NUM, num_earlier: int = 0, num_unseen: int = 0) -> HoldoutLook:
    return HoldoutLook(num_earlier, num_earlier, 0.025, np.arange(num) >= num - num_unseen)


def make_models(wrong_candidate: np.ndarray, wrong_champion: np.ndarray, sure: float = 0.85) -> PairedPredictions:
    """Two models that are wrong about the given pictures; 250 are of class a, 250 of b, and 100 of c."""
    labels = np.repeat([0, 1, 2], [250, 250, 100])
    rng = np.random.default_rng(0)

    def predict(wrong: np.ndarray, sure: float) -> np.ndarray:
        best = np.where(np.isin(np.arange(NUM), wrong), (labels + 1) % 3, labels)
        confidence = np.clip(sure + 0.05 * rng.standard_normal(NUM), 0.4, 0.999)
        others = (1 - confidence)[:, None] / 2 * np.ones((1, 3))
        others[np.arange(NUM), best] = confidence
        return others

    return PairedPredictions(
        labels, predict(wrong_candidate, sure), predict(wrong_champion, 0.85), ("a", "b", "c"), np.arange(NUM)
    )


BETTER = make_models(np.arange(0, 500, 7), np.arange(0, 500, 5))
EQUAL = make_models(np.arange(0, 500, 5), np.arange(1, 500, 5))
WORSE_CLASS = make_models(np.arange(500, 540), np.arange(0, 500, 5), sure=0.93)
TOO_SURE = make_models(np.arange(0, 500, 6), np.arange(0, 500, 4), sure=0.999)


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


def test_a_slow_model_fails_the_gate_speed(monkeypatch):
    from imageset.raw import shards
    from lightning_modules.inference import latency

    monkeypatch.setattr(shards, "read_image_bytes", lambda folder, ids: iter([("id", b"bytes")]))
    store = type("Store", (), {"split": lambda self, name: type("Split", (), {"image_ids": ["id"]})()})()
    from flows.project.project import Project
    from flows.promotion.gates.speed import evaluate_speed

    for candidate_ms, passes in ((2.9, True), (3.1, False)):
        monkeypatch.setattr(latency, "measure_latency_ms", lambda bundles, images, ms=candidate_ms: (ms, 1.0))
        assert evaluate_speed(None, None, store, PARAMS, Project(".")).passes is passes
    assert evaluate_speed(None, None, store, {**PARAMS, "max_slowdown": None}, Project(".")).passes
