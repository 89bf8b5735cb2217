import numpy as np
import pytest

from lightning_modules.comparison.paired import PairedPredictions, compare_paired
from lightning_modules.comparison.subsets import concatenate, select_classes, select_images, select_read_images

CLASSES = ("ant", "bee", "cow")


@pytest.fixture
def predictions() -> PairedPredictions:
    """Four pictures of three classes; the champion does not know cow."""
    candidate = np.array([[0.6, 0.3, 0.1], [0.1, 0.4, 0.5], [0.2, 0.2, 0.6], [0.0, 0.0, 0.0]])
    champion = np.array([[0.9, 0.1, 0.0], [0.2, 0.2, 0.0], [0.5, 0.5, 0.0], [0.3, 0.7, 0.0]])
    return PairedPredictions(np.array([0, 1, 2, 1]), candidate, champion, CLASSES, np.array([7, 7, 8, 9]))


def test_the_shared_classes_are_compared_on_their_pictures_as_if_there_were_no_others(predictions):
    shared = select_classes(predictions, ("bee", "ant"))
    assert shared.classes == ("bee", "ant")
    assert shared.labels.tolist() == [1, 0, 0] and shared.groups.tolist() == [7, 7, 9]
    assert shared.candidate.tolist() == [pytest.approx([1 / 3, 2 / 3]), [0.8, 0.2], [0, 0]]
    assert shared.champion[1].tolist() == [0.5, 0.5]
    assert compare_paired(shared, "accuracy", 0.95, 20).candidate == pytest.approx(2 / 3)
    assert select_classes(predictions.__class__(predictions.labels[2:3], predictions.candidate[2:3],
        predictions.champion[2:3], CLASSES, predictions.groups[2:3]), ("ant", "bee")) is None  # fmt: skip


def test_of_several_labels_all_pictures_are_left_and_nothing_is_rescaled():
    labels = np.array([[1, 0, 1], [0, 0, 1]])
    scores = np.array([[0.9, 0.2, 0.8], [0.1, 0.6, 0.7]])
    shared = select_classes(
        PairedPredictions(labels, scores, 1 - scores, CLASSES, np.arange(2), scores > 0.5, scores < 0.5),
        ("ant", "cow"),
    )
    assert shared.labels.tolist() == [[1, 1], [0, 1]]
    assert shared.candidate.tolist() == [[0.9, 0.8], [0.1, 0.7]]
    assert shared.candidate_predicted.tolist() == [[True, True], [False, True]]
    assert shared.champion_predicted.tolist() == [[False, False], [True, False]]


def test_only_pictures_that_both_models_could_read_are_left(predictions):
    assert select_read_images(predictions).labels.tolist() == [0, 1, 2]
    assert select_images(predictions, [False] * 4) is None
    unread = PairedPredictions(np.array([0]), np.eye(3)[:1], np.zeros((1, 3)), CLASSES, np.array([0]))
    assert select_read_images(unread) is None


def test_groups_of_two_splits_stay_apart(predictions):
    both = concatenate(predictions, predictions)
    assert len(both.labels) == 8 and len(np.unique(both.clusters)) == 6
    assert both.candidate_predicted is None
