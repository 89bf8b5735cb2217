import numpy as np
import pytest
from sklearn.metrics import average_precision_score, precision_recall_fscore_support, roc_auc_score

from lightning_modules.evaluation.metrics import (
    auroc,
    average_precision,
    compute_class_rates,
    compute_per_class,
    confusion_matrix,
    is_top_k_correct,
    macro_average,
    weighted_mean_ap,
)


@pytest.fixture
def scored():
    """Labels, scores with many ties, and whether each picture is positive."""
    draws = np.random.default_rng(0)
    return draws.random(300) < 0.3, draws.integers(0, 20, 300) / 20


def test_auroc_and_average_precision_are_those_of_scikit_learn_ties_included(scored):
    positive, scores = scored
    assert auroc(positive, scores) == pytest.approx(roc_auc_score(positive, scores))
    assert average_precision(positive, scores) == pytest.approx(average_precision_score(positive, scores))


def test_a_picture_that_counts_twice_is_as_good_as_two_for_the_mean_average_precision():
    draws = np.random.default_rng(2)
    labels, scores = draws.random((60, 3)) < (0.5, 0.1, 0.0), draws.integers(0, 9, (60, 3))
    weights = draws.integers(0, 3, (4, 60))
    found = weighted_mean_ap(labels, scores)(weights)
    for value, row in zip(found, weights, strict=True):
        copies = np.repeat(np.arange(60), row)
        expected = [average_precision_score(labels[copies, i], scores[copies, i]) for i in range(2)]
        assert value == pytest.approx(np.mean(expected))


@pytest.mark.parametrize("measure", [auroc, average_precision])
def test_what_is_undefined_is_left_out(measure):
    positive = np.array([[True, False], [False, False], [True, False]])
    scores = np.array([[0.9, 0.1], [0.2, 0.8], [0.8, 0.5]])
    assert compute_per_class(measure, positive, scores, ("a", "b")) == {"a": 1.0}


def test_precision_recall_and_f1_are_those_of_scikit_learn():
    draws = np.random.default_rng(1)
    labels, predicted = draws.integers(0, 4, 200), draws.integers(0, 4, 200)
    confusion = confusion_matrix(labels, predicted, 4)
    own = compute_class_rates(confusion, "abcd")
    expected = precision_recall_fscore_support(labels, predicted)
    for name, values in zip(("precision", "recall", "f1"), expected, strict=False):
        assert list(own[name].values()) == pytest.approx(values)
    means = macro_average(confusion.diagonal(), confusion.sum(1), confusion.sum(0))
    assert means["macro_f1"] == pytest.approx(expected[2].mean())


def test_rows_of_the_confusion_matrix_are_the_true_classes():
    confusion = confusion_matrix(np.array([0, 0, 1, 2]), np.array([0, 1, 1, 1]), 3)
    assert confusion.tolist() == [[1, 1, 0], [0, 1, 0], [0, 1, 0]]


def test_a_class_without_test_pictures_has_no_recall_and_counts_in_no_mean():
    confusion = np.array([[1, 1, 0], [0, 0, 0], [0, 0, 2]])
    own = compute_class_rates(confusion, ("a", "b", "c"))
    assert own["recall"] == {"a": 0.5, "c": 1.0}
    assert own["f1"] == {"a": pytest.approx(2 / 3), "c": 1.0}
    assert own["precision"] == {"a": 1.0, "b": 0.0, "c": 1.0}
    assert macro_average(confusion.diagonal(), confusion.sum(1), confusion.sum(0))["macro_recall"] == 0.75


def test_a_class_that_is_never_named_is_not_precise_for_that():
    confusion = np.array([[2, 0], [2, 0]])
    assert "b" not in compute_class_rates(confusion, ("a", "b"))["precision"]
    assert macro_average(confusion.diagonal(), confusion.sum(1), confusion.sum(0))["macro_precision"] == 0.25


def test_the_true_class_may_be_among_the_first_k():
    scores = np.array([[0.5, 0.3, 0.2], [0.5, 0.3, 0.2]])
    assert is_top_k_correct(np.array([1, 2]), scores, 1).tolist() == [False, False]
    assert is_top_k_correct(np.array([1, 2]), scores, 2).tolist() == [True, False]
