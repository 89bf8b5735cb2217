import numpy as np
import pytest
from sklearn import metrics as peer

from lightning_modules.comparison.multiclass_metrics import (
    MULTICLASS_METRICS,
    calibration_error,
    log_loss,
    macro_f1,
)

ONES = np.ones((1, 200))


def draw(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels of 200 pictures, and probabilities of three classes that follow them in part."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, 200)
    logits = np.exp(rng.standard_normal((200, 3)) + 1.5 * np.eye(3)[labels])
    return labels, logits / logits.sum(1, keepdims=True)


@pytest.mark.parametrize("name", MULTICLASS_METRICS)
def test_weights_count_like_copies_of_the_pictures(name):
    labels, probabilities = draw(0)
    make, _ = MULTICLASS_METRICS[name]
    weights = np.random.default_rng(1).integers(0, 4, (4, 200))
    weights[3, labels == 1] = 0  # a class that was not drawn
    values = make(labels, probabilities)(weights.astype(float))
    for row, value in zip(weights, values, strict=True):
        copies = np.repeat(np.arange(200), row)
        assert value == pytest.approx(make(labels[copies], probabilities[copies])(np.ones((1, len(copies))))[0])


def test_the_metrics_are_those_of_scikit_learn():
    labels, probabilities = draw(1)
    best = probabilities.argmax(1)
    value = {name: make(labels, probabilities)(ONES)[0] for name, (make, _) in MULTICLASS_METRICS.items()}
    assert value["accuracy"] == pytest.approx(peer.accuracy_score(labels, best))
    assert value["macro_f1"] == pytest.approx(peer.f1_score(labels, best, average="macro"))
    assert value["macro_recall"] == pytest.approx(peer.balanced_accuracy_score(labels, best))
    assert value["log_loss"] == pytest.approx(peer.log_loss(labels, probabilities))


@pytest.mark.parametrize("name", MULTICLASS_METRICS)
def test_a_loss_counts_as_a_gain_when_it_falls(name):
    assert MULTICLASS_METRICS[name][1] == (-1.0 if name in ("log_loss", "calibration_error") else 1.0)


def test_a_class_without_test_pictures_changes_no_mean_over_the_classes():
    labels, probabilities = draw(2)
    here = labels != 2
    labels, probabilities = labels[here], probabilities[here]
    ones, best = np.ones((1, len(labels))), probabilities.argmax(1)
    recall = peer.recall_score(labels, best, labels=[0, 1], average="macro")
    f1 = peer.f1_score(labels, best, labels=[0, 1], average="macro")
    assert MULTICLASS_METRICS["macro_recall"][0](labels, probabilities)(ones)[0] == pytest.approx(recall)
    assert macro_f1(labels, probabilities)(ones)[0] == pytest.approx(f1)


@pytest.mark.parametrize("labels", [[0, 2], [2, 0]])
def test_a_picture_that_was_not_read_is_a_prediction_of_no_class(labels):
    """It would take precision from class 0, the best of equal ones, or from a class of another number."""
    probabilities = np.eye(3)[labels]
    probabilities[1] = 0
    ones = np.ones((1, 2))
    values = [MULTICLASS_METRICS[name][0](np.array(labels), probabilities)(ones)[0] for name in MULTICLASS_METRICS]
    assert values == pytest.approx([0.5, 0.5, 0.5, -np.log(1e-12) / 2, 0.0])


def test_of_a_sure_mistake_the_loss_is_large_and_not_endless():
    assert log_loss(np.array([1]), np.array([[1.0, 0.0]]))(np.ones((1, 1)))[0] == pytest.approx(-np.log(1e-12))


def test_a_model_that_is_as_sure_as_it_is_right_has_no_calibration_error():
    rng = np.random.default_rng(0)
    confidence = np.full(20_000, 0.7)
    probabilities = np.stack([confidence, 1 - confidence], 1)
    labels = (rng.random(20_000) > 0.7).astype(int)
    error = calibration_error(labels, probabilities)(np.ones((1, 20_000)))[0]
    assert error == pytest.approx(abs((labels == 0).mean() - 0.7), abs=1e-12) and error < 0.02


def test_the_calibration_error_is_the_gap_of_each_of_fifteen_bins_weighted_by_its_size():
    """The bins at both ends are full and have gaps against those of their neighbours."""
    rows = [
        (0.055, 1),
        (0.06, 0),
        (0.08, 0),
        (0.12, 0),
        (0.5, 1),
        (0.52, 0),
        (0.9, 1),
        (0.92, 1),
        (0.95, 0),
        (1.0, 1),
    ]
    confidence, hit = (np.array(column) for column in zip(*rows, strict=True))
    probabilities = np.repeat((1 - confidence)[:, None] / 29, 30, axis=1)
    probabilities[:, 7] = confidence
    labels = np.where(hit == 1, 7, 3)
    bins = [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]]
    gaps = [abs(sum(rows[at][0] - rows[at][1] for at in each)) for each in bins]
    assert calibration_error(labels, probabilities)(np.ones((1, 10)))[0] == pytest.approx(sum(gaps) / 10)
