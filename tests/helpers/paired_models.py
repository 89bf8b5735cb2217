"""Predictions of two models that differ in one respect, for the gates of a promotion."""

from __future__ import annotations

import numpy as np

from flows.promotion.holdout_reuse import HoldoutLook
from lightning_modules.comparison.paired import PairedPredictions

PARAMS = {
    "metric": "accuracy", "min_gain": 0.0, "confidence": 0.95, "max_accuracy_drop": 0.02, "resamples": 300,
    "max_class_drop": 0.05, "max_ece_rise": 0.05, "max_slowdown": 3.0,
}  # fmt: skip
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
