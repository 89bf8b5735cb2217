import numpy as np
import pytest

from lightning_modules.comparison.class_changes import (
    ClassChange,
    compute_class_changes,
    count_needed_groups,
    find_fallen_classes,
)
from lightning_modules.comparison.paired import PairedPredictions


def make_predictions(
    *classes: tuple[int, int, int], groups: list[int] | None = None, multi_label: bool = False
) -> PairedPredictions:
    """One tuple a class: its pictures, those that the champion gets right, those that the candidate gets right."""
    labels = np.repeat(np.arange(len(classes)), [num for num, _, _ in classes])
    right = [np.concatenate([np.arange(row[0]) < row[column] for row in classes]) for column in (1, 2)]
    names = tuple("abcdefgh"[: len(classes)])
    one_hot = np.eye(len(classes))
    champion, candidate = (one_hot[np.where(hit, labels, (labels + 1) % len(classes))] for hit in right)
    numbers = np.arange(len(labels)) if groups is None else np.array(groups)
    if not multi_label:
        return PairedPredictions(labels, candidate, champion, names, numbers)
    has_label = one_hot[labels].astype(int)
    predicted = [has_label.astype(bool) & hit[:, None] for hit in reversed(right)]
    return PairedPredictions(has_label, candidate, champion, names, numbers, *predicted)


def find_names(*evidence: PairedPredictions, max_drop: float = 0.05) -> list[str]:
    changes = [compute_class_changes(each) for each in evidence]
    return [change.name for change in find_fallen_classes(changes, max_drop, 0.95)]


def test_a_change_gives_both_recalls_and_the_probability_of_the_losses():
    tiny, larger = compute_class_changes(make_predictions((3, 3, 1), (30, 30, 24)))
    assert (tiny.champion, tiny.candidate, tiny.p_value) == (1, pytest.approx(1 / 3), 0.25)
    assert (larger.candidate, larger.p_value) == (0.8, 1 / 64)
    assert (larger.num_images, larger.num_groups, larger.num_lost_groups) == (30, 30, 6)


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize(
    ("pictures", "fallen"),
    [
        ((4, 4, 0), True),
        ((4, 4, 1), True),
        ((3, 3, 1), True),
        ((2, 2, 0), True),
        ((7, 7, 3), True),
        ((5, 5, 0), True),  # by the sign test, too
        ((1, 1, 0), False),  # one picture is no evidence
        ((2, 2, 1), False),
        ((4, 4, 2), False),  # half of it
        ((4, 0, 4), False),  # a gain
        ((20, 20, 16), False),  # four of twenty may be chance
        ((20, 20, 15), True),
    ],
)
def test_a_class_falls_by_the_sign_test_or_if_more_than_half_of_it_is_lost(pictures, fallen, multi_label):
    assert find_names(make_predictions(pictures, (50, 50, 50), multi_label=multi_label)) == ["a"] * fallen


def test_ten_pictures_of_one_group_are_one_loss_and_of_two_groups_two():
    for num_groups, expected in ((1, []), (2, ["a"])):
        groups = [number % num_groups for number in range(10)] + list(range(10, 20))
        assert find_names(make_predictions((10, 10, 0), (10, 10, 10), groups=groups)) == expected


def test_a_class_may_lose_as_much_as_is_allowed_and_no_more():
    predictions = make_predictions((100, 100, 95), (9, 9, 9))
    assert find_names(predictions, max_drop=0.05) == []
    assert find_names(predictions, max_drop=0.04) == ["a"]
    assert find_names(make_predictions((4, 4, 0), (9, 9, 9)), max_drop=1.0) == []


def test_further_pictures_can_add_a_fall_and_never_clear_one():
    lost, kept = make_predictions((4, 4, 0), (9, 9, 9)), make_predictions((40, 40, 40), (9, 9, 9))
    half, more = make_predictions((4, 4, 2), (9, 9, 9)), make_predictions((12, 12, 6), (9, 9, 9))
    assert find_names(lost, kept) == ["a"]
    assert find_names(half) == [] and find_names(half, more) == ["a"]


def test_a_fall_of_a_twentieth_shows_in_a_hundred_pictures():
    assert count_needed_groups(0.05, 0.95) == 100
    assert count_needed_groups(0.5, 0.95) == 10
    assert count_needed_groups(0.05, 0.75) == 40
    assert count_needed_groups(0, 0.95) == 5
    exact = make_predictions((100, 100, 95), (9, 9, 9))
    assert compute_class_changes(exact)[0].p_value <= 0.05 < compute_class_changes(
        make_predictions((80, 80, 76), (9, 9, 9)))[0].p_value  # fmt: skip


def test_a_group_that_was_gained_is_set_against_a_group_that_was_lost():
    """Eleven of twelve pictures are lost, ten of them in one group; one group is lost and one gained besides."""
    before = np.array([True] * 11 + [False])
    labels, right, wrong = np.zeros(12, int), np.array([1.0, 0.0]), np.array([0.0, 1.0])
    champion, candidate = (np.where(hit[:, None], right, wrong) for hit in (before, ~before))
    predictions = PairedPredictions(labels, candidate, champion, ("a", "b"), np.array([0] * 10 + [1, 2]))
    (change,) = compute_class_changes(predictions)
    assert change.drop > 0.8 and change.num_lost_groups == 1
    assert find_names(predictions) == []


def test_ten_pictures_of_one_group_are_ten_pictures_and_one_group():
    (change, _) = compute_class_changes(make_predictions((10, 10, 0), (1, 1, 1), groups=[4] * 10 + [5]))
    assert (change.num_images, change.num_groups) == (10, 1)


@pytest.mark.parametrize("p_value", [0.25, 0.25 + 1e-10])
def test_a_probability_of_exactly_what_is_allowed_is_enough_whatever_its_rounding(p_value):
    assert ClassChange("a", 10, 10, 0.8, 1.0, 2, p_value).has_fallen(0.05, 0.75)
    assert not ClassChange("a", 10, 10, 0.8, 1.0, 2, 0.2501).has_fallen(0.05, 0.75)
