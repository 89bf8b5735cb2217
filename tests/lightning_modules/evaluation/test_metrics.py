import numpy as np
import pytest
from sklearn.dummy import DummyClassifier
from sklearn.metrics import average_precision_score, log_loss, precision_recall_fscore_support, roc_auc_score

from lightning_modules.evaluation.metrics import (
    auroc,
    average_precision,
    compute_baselines,
    compute_class_rates,
    compute_per_class,
    confusion_matrix,
    is_top_k_correct,
    macro_average,
    weighted_average_precision,
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


def test_a_label_that_no_picture_lacks_has_no_average_precision_and_is_left_out_of_the_mean():
    labels = np.array([[1, 1], [1, 0], [1, 1], [1, 0]])
    scores = np.array([[0.1, 0.9], [0.2, 0.8], [0.3, 0.3], [0.4, 0.2]])
    assert average_precision(labels[:, 0], scores[:, 0]) is None
    alone = weighted_mean_ap(labels[:, 1:], scores[:, 1:])(np.ones((1, 4)))[0]
    assert weighted_mean_ap(labels, scores)(np.ones((1, 4)))[0] == alone == pytest.approx((1 + 2 / 3) / 2)
    only_positives = np.array([[1, 0, 1, 0]])
    assert np.isnan(weighted_average_precision(labels[:, 1], scores[:, 1])(only_positives)[0])


def test_the_baselines_are_those_of_scikit_learns_dummy_classifier():
    labels = np.repeat([0, 1, 2], [5, 3, 2])
    constant, prior = (DummyClassifier(strategy=name).fit(labels[:, None], labels)
                       for name in ("most_frequent", "prior"))  # fmt: skip
    found = compute_baselines(labels, 4)
    assert found["baseline_accuracy"] == constant.score(labels[:, None], labels) == 0.5
    assert found["baseline_loss"] == pytest.approx(log_loss(labels, prior.predict_proba(labels[:, None])))


def test_the_baselines_of_several_labels_leave_out_what_is_the_same_on_all_pictures():
    labels = np.array([[1, 1, 0], [1, 0, 0], [1, 0, 0], [1, 1, 0], [1, 0, 0]])
    found = compute_baselines(labels, 3)
    assert found["baseline_accuracy"] == 0.6  # the set of the first label alone
    assert found["baseline_map"] == 0.4
    assert found["baseline_loss"] == pytest.approx(-(0.4 * np.log(0.4) + 0.6 * np.log(0.6)) / 3)
    assert "baseline_map" not in compute_baselines(labels[:, ::2], 2)
