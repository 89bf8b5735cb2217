import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from lightning_modules.comparison.baseline import BaselineComparison, compare_with_baseline, shuffle_labels
from lightning_modules.evaluation.metrics import weighted_mean_ap


def compare_accuracy(labels: list[int], right: list[bool], groups: list[int] | None = None):
    """A model of three classes that gets some pictures right and otherwise names another class."""
    true = np.array(labels)
    predicted = np.where(right, true, (true + 1) % 3)
    numbers = np.arange(len(true)) if groups is None else np.array(groups)
    return compare_with_baseline(true, np.eye(3)[predicted], ("ant", "bee", "cow"), numbers, 0.95, 500)


def test_a_model_that_is_right_where_the_most_frequent_class_is_wrong_is_better():
    found = compare_accuracy([0] * 6 + [1] * 4 + [2] * 4, [True] * 14)
    assert (found.metric, found.value, found.most_frequent) == ("accuracy", 1.0, "ant")
    assert found.baseline == pytest.approx(6 / 14)
    assert found.is_better and found.p_value == pytest.approx(1 / 256)


def test_a_model_that_names_one_class_only_is_not_better():
    labels = [0] * 40 + [1] * 40 + [2] * 40
    found = compare_accuracy(labels, [label == 0 for label in labels])
    assert found.value == found.baseline == pytest.approx(1 / 3)
    assert not found.is_better and found.can_be_shown and found.p_value == 1


def test_five_pictures_of_other_classes_are_too_few_and_six_are_enough():
    five = compare_accuracy([0] * 5 + [1] * 3 + [2] * 2, [True] * 10)
    six = compare_accuracy([0] * 6 + [1] * 3 + [2] * 3, [True] * 12)
    assert (six.is_better, six.can_be_shown) == (True, True)
    assert (five.is_better, five.can_be_shown) == (False, False)


def test_one_test_picture_decides_nothing():
    found = compare_accuracy([1], [True])
    assert (found.value, found.baseline, found.is_better, found.can_be_shown) == (1.0, 1.0, False, False)


def test_many_small_gains_do_not_outweigh_one_large_loss():
    """The sign test alone would find 12 groups better and one worse; the accuracy is lower."""
    labels = [0] * 60 + [1] * 12 + [2] * 12
    found = compare_accuracy(labels, [False] * 60 + [True] * 24, groups=[0] * 60 + list(range(1, 25)))
    assert found.p_value < 0.025 and found.value < found.baseline and not found.is_better


def test_the_pictures_of_a_group_are_one_piece_of_evidence():
    labels = [0] * 30 + [1] * 30 + [2] * 30
    assert compare_accuracy(labels, [True] * 90).is_better
    apart = compare_accuracy(labels, [True] * 90, groups=[number // 15 for number in range(90)])
    assert not apart.is_better and not apart.can_be_shown


def test_a_model_that_guesses_is_found_better_in_at_most_one_of_forty_cases():
    draws = np.random.default_rng(0)
    for num in (10, 40):
        wins = 0
        for _ in range(300):
            labels, scores = draws.integers(0, 2, num), draws.random((num, 2))
            wins += compare_with_baseline(labels, scores, ("a", "b"), np.arange(num), 0.95, 100).is_better
        assert wins / 300 <= 0.025


def test_random_scores_of_several_labels_are_rarely_found_better():
    """The bootstrap interval of the mAP would lie above the baseline in more than half of these cases."""
    draws = np.random.default_rng(0)
    better = 0
    for _ in range(200):
        labels = (draws.random((30, 3)) < (0.3, 0.2, 0.1)).astype(int)
        found = compare_with_baseline(labels, draws.random((30, 3)), ("a", "b", "c"), np.arange(30), 0.95, 199)
        better += found.is_better
    assert better / 200 <= 0.04


def test_scores_that_follow_the_labels_are_better_and_the_baseline_is_the_share_of_each_label():
    draws = np.random.default_rng(1)
    labels = (draws.random((40, 3)) < (0.5, 0.2, 1.0)).astype(int)
    scores = labels + draws.normal(0, 0.8, labels.shape)
    found = compare_with_baseline(labels, scores, ("a", "b", "everywhere"), np.arange(40), 0.95, 499)
    assert found.is_better and found.most_frequent is None
    assert found.value == pytest.approx(average_precision_score(labels[:, :2], scores[:, :2], average="macro"))
    assert found.baseline == pytest.approx(labels[:, :2].mean())


def test_labels_that_all_pictures_have_or_lack_leave_nothing_to_measure():
    labels = np.array([[1, 0]] * 8)
    found = compare_with_baseline(labels, np.full((8, 2), 0.5), ("a", "b"), np.arange(8), 0.95, 99)
    assert found == BaselineComparison("map", None, 0.0, None, 1.0, is_better=False, can_be_shown=False)


def test_the_labels_of_a_group_are_shuffled_together():
    """Eight pictures of each of four groups: there are too few ways to shuffle four blocks."""
    labels = np.repeat([[1], [1], [0], [0]], 8, axis=0)
    scores = labels + np.linspace(0, 0.1, 32)[:, None]
    value, p_value = shuffle_labels(labels > 0, scores, np.repeat(np.arange(4), 8), 999)
    assert value == 1 and p_value > 0.1
    assert shuffle_labels(labels > 0, scores, np.arange(32), 999)[1] == 0.001


def test_equal_scores_are_taken_together():
    draws = np.random.default_rng(2)
    labels, scores = draws.random((50, 2)) < 0.4, draws.integers(0, 5, (50, 2)).astype(float)
    value, _ = shuffle_labels(labels, scores, np.arange(50), 9)
    assert value == pytest.approx(weighted_mean_ap(labels, scores)(np.ones((1, 50)))[0])


# ---- the edges --------------------------------------------------------------------------------------


def test_a_probability_of_exactly_the_upper_tail_is_enough():
    """Five wins of five have a probability of 1/32, the tail of an interval of 15/16."""
    labels = np.array([0] * 5 + [1] * 3 + [2] * 2)
    found = compare_with_baseline(labels, np.eye(3)[labels], ("ant", "bee", "cow"), np.arange(10), 0.9375, 200)
    assert found.p_value == 1 / 32 and found.is_better and found.can_be_shown


def test_a_group_that_is_lost_by_one_picture_counts_as_lost():
    found = compare_accuracy([0] * 8 + [1] * 3 + [2] * 3, [False] + [True] * 13)
    assert found.p_value == pytest.approx(8 / 128) and not found.is_better


def test_a_picture_that_was_not_read_wins_nothing():
    labels = np.array([1] * 5 + [0] * 4)
    probabilities = np.eye(2)[labels]
    probabilities[5] = 0  # its best class would be the first, which is right
    found = compare_with_baseline(labels, probabilities, ("ant", "bee"), np.arange(9), 0.95, 50)
    assert found.p_value == 1 / 8


def test_an_interval_that_begins_at_nothing_is_no_proof():
    """Eight groups are won by a picture and one is lost by two: in many resamples nothing is gained."""
    labels = np.array([0, 0, *range(1, 9)])
    predicted = np.array([1, 1, *range(1, 9)])
    found = compare_with_baseline(
        labels, np.eye(9)[predicted], tuple("abcdefghi"), np.maximum(labels, 0), 0.95, 999
    )
    assert found.p_value == pytest.approx(10 / 512) and found.p_value < 0.025 and not found.is_better


def test_of_several_labels_too_a_probability_of_exactly_the_upper_tail_is_enough():
    """With 31 shuffles of which none is as good the probability is 1/32."""
    labels = np.repeat([[1], [0]], 20, axis=0)
    names, groups = ("a",), np.arange(40)
    for confidence, expected in ((0.9375, True), (0.95, False)):
        found = compare_with_baseline(labels, labels.astype(float), names, groups, confidence, 31)
        assert found.p_value == 1 / 32 and (found.is_better, found.can_be_shown) == (expected, expected)


def test_the_labels_are_shuffled_as_often_as_asked_however_they_are_cut(monkeypatch):
    draws = np.random.default_rng(3)
    labels, scores = draws.random((12, 1)) < 0.5, draws.random((12, 1))
    whole = shuffle_labels(labels, scores, np.arange(12), 25)
    assert shuffle_labels(labels, scores, np.arange(12), 25, seed=0) == whole
    for num in (5, 12, 40):  # one, one and three shuffles at a time
        monkeypatch.setattr("lightning_modules.comparison.baseline._MAX_LABELS_IN_MEMORY", num)
        assert shuffle_labels(labels, scores, np.arange(12), 25) == whole


def test_equal_labels_everywhere_are_as_good_in_every_shuffle():
    """All pictures belong to one group: each shuffle gives the labels that there are."""
    labels, scores = np.array([[1], [0], [1]]) > 0, np.array([[0.9], [0.5], [0.1]])
    assert shuffle_labels(labels, scores, np.zeros(3, int), 9)[1] == 1
