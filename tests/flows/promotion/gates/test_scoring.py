from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import nn

from flows.project.project import Project
from flows.promotion.class_overlap import ClassOverlap
from flows.promotion.gates import scoring
from flows.promotion.gates.scoring import (
    check_model_predicts,
    may_count_validation,
    number_groups,
    predict_labels,
    predict_probabilities,
    score_both_models,
    score_validation_split,
)
from flows.promotion.model_registry import Version
from imageset.exceptions import UserError
from imageset.raw import shards
from lightning_modules.bundle import Bundle, BundleInfo
from lightning_modules.inference import stream
from lightning_modules.scoring import ScoreResult
from tests.helpers.project import ROOT

INFO = BundleInfo({}, ("ant", "bee"), {}, (0.5,), (0.5,), {}, {})
TRAIN, BOTH = ("train",), ("train", "val")


def make_bundle(fitted_splits: tuple[str, ...] | None, digest: str = "", **changes) -> Bundle:
    return Bundle(replace(INFO, fitted_splits=fitted_splits, **changes), nn.Identity(), digest)


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


def test_a_threshold_itself_is_enough_and_an_image_that_was_not_read_is_wrong_in_each_label():
    bundle = make_bundle(TRAIN, classes=("ant", "bee", "cow"), thresholds=(0.5, 0.25, 0.9))
    probabilities = np.array([[0.5, 0.125, 0.9375], [0, 0, 0]])
    labels = np.array([[1, 1, 1], [1, 0, 1]])
    predicted = predict_labels(bundle, probabilities, labels, StoreOfThreeLabels())
    assert predicted.tolist() == [[True, False, True], [False, True, False]]


def test_a_model_of_single_labels_predicts_its_best_class():
    probabilities, labels = np.array([[0.2, 0.7, 0.1], [0.6, 0.3, 0.1], [0, 0, 0]]), np.ones((3, 3), int)
    predicted = predict_labels(make_bundle(TRAIN), probabilities, labels, StoreOfThreeLabels())
    assert predicted.tolist() == [[False, True, False], [True, False, False], [False] * 3]


def make_split(labels: list, groups: list[str | None]) -> SimpleNamespace:
    ids = [f"{number:02d}" for number in range(len(labels))]
    split = SimpleNamespace(labels=np.array(labels), image_ids=ids)
    split.rows = pa.table({"image_id": ids, "group": pa.array(groups, pa.string())})
    return split


class Store:
    """A dataset whose splits have these labels and groups."""

    classes = ("ant", "bee", "cow")

    def __init__(self, multi_label: bool = False, **splits: tuple[list, list[str | None]]) -> None:
        self.multi_label = multi_label
        self.splits = {name: make_split(*each) for name, each in splits.items()}

    def split(self, name: str):
        found = self.splits[name]
        return type("Split", (), {**vars(found), "__len__": lambda self: len(found.image_ids)})()


def test_pictures_of_a_group_have_its_number_and_others_one_of_their_own():
    numbers = number_groups(make_split([0] * 5, ["x", None, "x", None, "y"]))
    assert numbers[0] == numbers[2] and len(set(numbers.tolist())) == 4


PROJECT = Project(ROOT)


def answer(monkeypatch, answers: dict[str, list[float] | None]) -> list[tuple[str, int]]:
    """Let a model give these probabilities for pictures; returns (description, number) of each progress."""
    asked: list[tuple[str, int]] = []
    monkeypatch.setattr(shards, "read_image_bytes", lambda folder, ids: [(folder, image_id) for image_id in ids])

    def score_stream(bundle, items, *, batch_size, num_workers):
        assert isinstance(bundle, Bundle) and batch_size > 0
        for folder, image_id in items:
            assert folder == PROJECT / "data/raw"
            row = answers[image_id]
            yield ScoreResult(image_id, None if row is None else np.array(row, np.float32))

    class Progress:
        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

        def begin(self, total, step):
            asked.append((step, total))

        def advance(self):
            asked.append(("one", 1))

    monkeypatch.setattr(stream, "score_stream", score_stream)
    monkeypatch.setattr(scoring.console, "make_progress", lambda name, logger: {"promote": Progress()}[name])
    return asked


def test_probabilities_stand_at_the_datasets_classes_and_are_zero_where_there_are_none(monkeypatch):
    store = Store(test=([0, 1, 2], [None] * 3))
    asked = answer(monkeypatch, {"00": [0.25, 0.5, 0.25], "01": None, "02": [0.125, 0.125, 0.75]})
    bundle = make_bundle(TRAIN, classes=("bug", "dog", "ant"))
    found = predict_probabilities(bundle, store, PROJECT, {"bug": "bee"})
    assert found.dtype == np.float32
    assert found.tolist() == [[0.25, 0.25, 0], [0, 0, 0], [0.75, 0.125, 0]]
    assert asked == [("scoring", 3), ("one", 1), ("one", 1), ("one", 1)]
    assert predict_probabilities(bundle, store, PROJECT).tolist() == [[0.25, 0, 0], [0, 0, 0], [0.75, 0, 0]]


def test_probabilities_that_are_not_finite_are_refused(monkeypatch):
    store = Store(test=([0], [None]))
    answer(monkeypatch, {"00": [0.5, np.nan]})
    with pytest.raises(UserError, match="not finite"):
        predict_probabilities(make_bundle(TRAIN), store, PROJECT)


def predict_by_bundle(
    monkeypatch, candidate: Bundle, champion: Bundle, store: Store, **rows: tuple[list, list]
) -> None:
    """Let two models give these probabilities for the pictures of each split."""

    def predict(bundle, given, project, renamed=None, split_name="test"):
        assert (given, project) == (store, PROJECT)
        assert renamed == ({"bug": "bee"} if bundle is champion else None)
        return np.array(rows[split_name][[candidate, champion].index(bundle)], float)

    monkeypatch.setattr(scoring, "predict_probabilities", predict)


CANDIDATE, CHAMPION = make_bundle(TRAIN, digest="new"), make_bundle(TRAIN, digest="old")
RENAMED = {"bug": "bee"}


def test_both_models_are_scored_on_the_same_pictures(monkeypatch):
    store = Store(test=([0, 2], ["x", "x"]), val=([1], [None]))
    rows = [[0.75, 0.25, 0], [0, 0.25, 0.75]], [[0.5, 0.5, 0], [0, 0.5, 0.5]]
    predict_by_bundle(monkeypatch, CANDIDATE, CHAMPION, store, test=rows, val=([[0, 1, 0]], [[1, 0, 0]]))
    predictions = score_both_models(CANDIDATE, CHAMPION, store, PROJECT, RENAMED)
    assert (predictions.candidate.tolist(), predictions.champion.tolist()) == rows
    assert predictions.labels.tolist() == [0, 2] and predictions.groups.tolist() == [0, 0]
    assert predictions.classes == store.classes
    assert predictions.candidate_predicted is predictions.champion_predicted is None
    others = score_both_models(CANDIDATE, CHAMPION, store, PROJECT, RENAMED, "val")
    assert others.labels.tolist() == [1] and others.candidate.tolist() == [[0, 1, 0]]


def test_of_several_labels_each_model_predicts_by_its_own_thresholds(monkeypatch):
    candidate = make_bundle(TRAIN, classes=("ant", "bee"), thresholds=(0.5, 0.5), digest="new")
    champion = make_bundle(TRAIN, classes=("ant", "bug"), thresholds=(0.125, 0.125), digest="old")
    store = Store(True, test=([[1, 0, 1]], [None]))
    predict_by_bundle(monkeypatch, candidate, champion, store, test=([[0.75, 0.25, 0]], [[0.25, 0.5, 0]]))
    predictions = score_both_models(candidate, champion, store, PROJECT, RENAMED)
    assert predictions.candidate_predicted.tolist() == [[True, False, False]]
    assert predictions.champion_predicted.tolist() == [[True, True, False]]
    assert predictions.candidate.tolist() == [[0.75, 0.25, 0]]


def test_a_split_without_pictures_cannot_compare_models():
    with pytest.raises(UserError, match="has no val pictures"):
        score_both_models(CANDIDATE, CHAMPION, Store(val=([], [])), PROJECT, split_name="val")


VERSION = Version("pets", 3, "run-7")
SAME = ClassOverlap(("ant", "bee", "cow"), renamed=RENAMED)


def score_validation(
    monkeypatch, overlap=SAME, learnt: list[str] | None = (), labels=(0, 1, 2), champion=CHAMPION
):
    """Score the validation split; `learnt` are pictures of it that the champion was trained on."""
    store = Store(val=(list(labels), [None] * len(labels)))
    rows = np.eye(3)[list(labels)].tolist()
    predict_by_bundle(monkeypatch, CANDIDATE, champion, store, val=(rows, [[0, 0, 1]] * len(labels)))

    def load(*given):
        assert given == (VERSION, champion, store, PROJECT)
        return learnt

    def find_leaked(*given):
        assert given == (store, learnt, "val")
        return learnt

    monkeypatch.setattr(scoring, "load_training_images", load)
    monkeypatch.setattr(scoring, "find_leaked_images", find_leaked)
    return score_validation_split(CANDIDATE, VERSION, champion, store, PROJECT, overlap)


def test_validation_pictures_that_the_champion_has_learnt_from_do_not_count(monkeypatch):
    assert score_validation(monkeypatch).labels.tolist() == [0, 1, 2]
    found = score_validation(monkeypatch, learnt=["01"])
    assert found.labels.tolist() == [0, 2]
    assert found.candidate.tolist() == [[1, 0, 0], [0, 0, 1]] and found.champion.tolist() == [[0, 0, 1]] * 2
    assert score_validation(monkeypatch, learnt=["00", "01", "02"]) is None


def test_of_classes_that_changed_the_shared_ones_count(monkeypatch):
    overlap = ClassOverlap(("ant", "cow"), added=("bee",), renamed=RENAMED)
    found = score_validation(monkeypatch, overlap)
    assert found.classes == ("ant", "cow") and found.labels.tolist() == [0, 1]
    assert score_validation(monkeypatch, overlap, learnt=["00", "01", "02"]) is None


def test_validation_pictures_do_not_count_where_what_the_champion_has_learnt_is_not_known(monkeypatch):
    assert score_validation(monkeypatch, learnt=None) is None
    assert score_validation(monkeypatch, labels=()) is None
    assert score_validation(monkeypatch, champion=make_bundle(BOTH, digest="old")) is None


class Digits(nn.Module):
    """A network that answers with these numbers whatever it sees."""

    def __init__(self, *answer: float) -> None:
        super().__init__()
        self.answer = torch.tensor(answer)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.answer.expand(len(images), -1)


DECODE = {"size": 8, "channels": 1, "fit": "crop", "interpolation": "bilinear", "max_pixels": 10**6}


def test_a_model_that_predicts_a_picture_can_be_promoted(monkeypatch):
    bundle = Bundle(replace(INFO, decode=DECODE), Digits(1.0, 2.0), "digest")
    monkeypatch.setattr("lightning_modules.tracking.model_download.load_bundle", {"models:/pets/1": bundle}.get)
    assert check_model_predicts("models:/pets/1") == "digest"


@pytest.mark.parametrize("logits", [(1.0, np.nan), (np.nan, np.nan), (1.0, 2.0, 3.0)])
def test_a_model_whose_probabilities_are_not_those_of_its_classes_cannot_be_promoted(monkeypatch, logits):
    bundle = Bundle(replace(INFO, decode=DECODE), Digits(*logits), "digest")
    monkeypatch.setattr("lightning_modules.tracking.model_download.load_bundle", lambda uri: bundle)
    with pytest.raises(UserError, match="it cannot be promoted"):
        check_model_predicts("models:/pets/1")
