from dataclasses import replace

import numpy as np
import pytest
from torch import nn

from flows.promotion.gates.scoring import may_count_validation, predict_labels
from lightning_modules.bundle import Bundle, BundleInfo

INFO = BundleInfo({}, ("ant", "bee"), {}, (0.5,), (0.5,), {}, {})
TRAIN, BOTH = ("train",), ("train", "val")


def make_bundle(fitted_splits: tuple[str, ...] | None, **changes) -> Bundle:
    return Bundle(replace(INFO, fitted_splits=fitted_splits, **changes), nn.Identity(), "")


@pytest.mark.parametrize(
    ("candidate", "champion", "count"),
    [
        (TRAIN, TRAIN, True),
        (BOTH, TRAIN, True),  # hides a fall at most
        (BOTH, BOTH, True),
        (TRAIN, BOTH, False),  # the champion would recognize what it has learned
        (None, BOTH, False),
        (TRAIN, None, False),  # an earlier Convoy did not record it
        (None, TRAIN, True),
    ],
)
def test_validation_pictures_count_unless_only_the_champion_has_learned_from_them(candidate, champion, count):
    assert may_count_validation(make_bundle(candidate), make_bundle(champion)) is count


class StoreOfThreeLabels:
    classes = ("ant", "bee", "cow")


def test_the_thresholds_of_renamed_labels_are_found_by_their_new_names():
    bundle = make_bundle(TRAIN, classes=("ant", "bug"), thresholds=(0.5, 0.2))
    probabilities, labels = np.array([[0.4, 0.3, 0.0]]), np.array([[0, 1, 1]])
    predicted = predict_labels(bundle, probabilities, labels, StoreOfThreeLabels(), {"bug": "bee"})
    assert predicted.tolist() == [[False, True, False]]
    assert predict_labels(bundle, probabilities, labels, StoreOfThreeLabels()).tolist() == [[False] * 3]
