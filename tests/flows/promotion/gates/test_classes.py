from dataclasses import replace

import numpy as np
import pytest

from flows.promotion.class_overlap import compare_classes
from flows.promotion.gates.classes import evaluate_class_recall, evaluate_shared_classes
from flows.promotion.gates.gate import Gate
from flows.promotion.model_registry import Version
from lightning_modules.comparison.paired import PairedPredictions

PARAMS = {"max_class_drop": 0.05, "confidence": 0.95, "resamples": 400}


def make_predictions(*classes: tuple[int, int, int], group_size: int = 1) -> PairedPredictions:
    """One tuple a class: its pictures, those that the champion gets right, those that the candidate gets right."""
    labels = np.repeat(np.arange(len(classes)), [num for num, _, _ in classes])
    right = [np.concatenate([np.arange(row[0]) < row[column] for row in classes]) for column in (1, 2)]
    champion, candidate = (np.eye(len(classes))[np.where(hit, labels, (labels + 1) % len(classes))]
                           for hit in right)  # fmt: skip
    names = ("ant", "bee", "cow")[: len(classes)]
    return PairedPredictions(labels, candidate, champion, names, np.arange(len(labels)) // group_size)


def test_a_class_that_goes_from_four_of_four_to_none_is_refused():
    gate = evaluate_class_recall(make_predictions((200, 190, 198), (4, 4, 0)), PARAMS)
    assert not gate.passes and gate.numbers == {"classes_fallen": ["bee"]}
    assert gate.message == "classes fall by more than 0.05: bee 1.000 to 0.000 of 4 pictures"


def test_a_class_with_too_few_pictures_is_named_with_the_number_that_it_would_take():
    gate = evaluate_class_recall(make_predictions((200, 190, 198), (60, 60, 60), (1, 1, 0)), PARAMS)
    assert gate.passes and gate.numbers == {"classes_not_judged": ["bee", "cow"]}
    assert gate.note == (
        "falls by more than 0.05 may be chance: cow 1.000 to 0.000 of 1 picture; "
        "not judged for a fall of 0.05, which shows in 100 pictures: 2 classes (cow 1, bee 60)"
    )
    assert gate.message == gate.note


def test_classes_with_enough_pictures_need_no_note():
    gate = evaluate_class_recall(make_predictions((100, 90, 98), (120, 110, 118)), PARAMS)
    assert (gate.passes, gate.note, gate.numbers) == (True, "", {})
    assert gate.message == "no class falls by more than 0.05"


def test_a_class_without_any_picture_is_not_judged():
    gate = evaluate_class_recall(make_predictions((100, 90, 98), (0, 0, 0), (100, 100, 100)), PARAMS)
    assert gate.note == "not judged for a fall of 0.05, which shows in 100 pictures: 1 class (bee 0)"


def test_validation_pictures_count_for_a_veto_and_for_the_number_of_pictures():
    test, validation = make_predictions((60, 60, 58), (6, 6, 4)), make_predictions((60, 60, 60), (6, 6, 3))
    assert evaluate_class_recall(test, PARAMS).passes
    gate = evaluate_class_recall(test, PARAMS, validation)
    assert not gate.passes and "bee 1.000 to 0.583 of 12 pictures" in gate.message
    kept = evaluate_class_recall(test, PARAMS, make_predictions((60, 60, 60), (6, 6, 6)))
    assert kept.passes and kept.numbers == {"classes_not_judged": ["bee"]} and "(bee 12)" in kept.note


def test_a_fall_on_the_test_pictures_is_not_outweighed_by_validation_pictures():
    test, validation = make_predictions((60, 60, 60), (4, 4, 0)), make_predictions((60, 60, 60), (90, 90, 90))
    assert not evaluate_class_recall(test, PARAMS, validation).passes


def test_pictures_of_groups_are_counted_as_groups():
    gate = evaluate_class_recall(make_predictions((100, 100, 100), (100, 100, 90), group_size=10), PARAMS)
    assert "which shows in 100 groups of pictures: 2 classes (ant 10, bee 10)" in gate.note
    assert "bee 1.000 to 0.900 of 100 pictures in 10 groups" in gate.note


def test_with_max_class_drop_null_any_class_may_fall():
    gate = evaluate_class_recall(make_predictions((9, 9, 0), (9, 9, 9)), {**PARAMS, "max_class_drop": None})
    assert gate == Gate("classes", True, "may fall (max_class_drop: null)")


def make_many_classes(num: int) -> PairedPredictions:
    """Each class has one picture, which both models know."""
    return PairedPredictions(np.arange(num), np.eye(num), np.eye(num), tuple("abcdefghijkl"[:num]), np.arange(num))


def test_ten_classes_without_enough_pictures_are_named_and_the_others_counted():
    named = "a 1, b 1, c 1, d 1, e 1, f 1, g 1, h 1, i 1, j 1"
    gate = evaluate_class_recall(make_many_classes(12), PARAMS)
    assert gate.note.endswith(f"in 100 pictures: 12 classes ({named} and 2 more)")
    assert gate.message == f"no class falls by more than 0.05; {gate.note}"
    assert evaluate_class_recall(make_many_classes(10), PARAMS).note.endswith(f"10 classes ({named})")


def test_a_fall_on_the_test_pictures_that_validation_pictures_do_not_show_is_named_all_the_same():
    test, validation = make_predictions((60, 60, 60), (6, 6, 5)), make_predictions((60, 60, 60), (94, 94, 94))
    gate = evaluate_class_recall(test, PARAMS, validation)
    assert gate.passes
    assert gate.note == "falls by more than 0.05 may be chance: bee 1.000 to 0.833 of 6 pictures"


def test_two_pictures_of_one_group_make_the_pictures_groups():
    predictions = make_predictions((10, 10, 10), (10, 10, 10))
    groups = np.maximum(np.arange(20), 1)  # the first two pictures belong together
    gate = evaluate_class_recall(replace(predictions, groups=groups), PARAMS)
    assert gate.note.endswith("in 100 groups of pictures: 2 classes (ant 9, bee 10)")


def make_labels(num: int) -> PairedPredictions:
    """Pictures that bear both of two labels, of which both models know the first."""
    right, known = np.ones((num, 2), bool), np.array([[True, False]] * num)
    scores = known.astype(float)
    return PairedPredictions(right.astype(int), scores, scores, ("ant", "bee"), np.arange(num), known, known)


def test_of_several_labels_a_picture_the_messages_speak_of_labels():
    assert "100 pictures: 2 labels (ant 9, bee 9)" in evaluate_class_recall(make_labels(9), PARAMS).note
    gate = evaluate_shared_classes(make_labels(9), PARAMS, CHAMPION, OVERLAP)
    assert gate.message.startswith("compared on the 2 labels of version 3 ")


CHAMPION, OVERLAP = Version("pets", 3, "a"), compare_classes(["ant", "bee", "dog"], ["ant", "bee", "cat"])


@pytest.mark.parametrize(
    ("num_right", "num", "passes"),
    [
        (90, 100, False),  # 10 of 200 pictures lost: the interval reaches below -0.05
        (100, 100, True),
        (392, 400, True),  # 8 of 800 lost
        (19, 20, False),  # 1 of 40 may be 3 of 40
    ],
)
def test_where_classes_were_added_the_candidate_must_not_be_worse_on_the_others(num_right, num, passes):
    shared = make_predictions((num, num, num_right), (num, num, num))
    gate = evaluate_shared_classes(shared, PARAMS, CHAMPION, OVERLAP)
    assert gate.passes is passes
    assert gate.message.startswith(
        "compared on the 2 classes of version 3 that there are still (it does not know dog; "
        "cat is no class any more): accuracy "
    )
    assert (gate.numbers["classes_added"], gate.numbers["classes_removed"]) == (["dog"], ["cat"])
    numbers = gate.numbers
    accuracy = (num_right + num) / (2 * num)
    assert (numbers["shared_accuracy"], numbers["compared_shared_accuracy"]) == (pytest.approx(accuracy), 1.0)
    assert numbers["gain"] == pytest.approx(accuracy - 1) and numbers["num_shared"] == 2 * num
    assert numbers["gain_low"] <= numbers["gain"] <= numbers["gain_high"]
    assert (numbers["gain_low"] < numbers["gain_high"]) is (num_right < num)
    assert gate.message.endswith(
        f": accuracy {accuracy:.4f} against 1.0000 on {2 * num} pictures, gain {accuracy - 1:+.4f}, 95% interval "
        f"{numbers['gain_low']:+.4f} to {numbers['gain_high']:+.4f}, {'above' if passes else 'not above'} -0.05"
    )


def test_where_nothing_may_be_lost_an_equal_model_is_not_shown_to_lose_nothing():
    shared = make_predictions((40, 40, 40), (40, 40, 40))
    gate = evaluate_shared_classes(shared, {**PARAMS, "max_class_drop": 0}, CHAMPION, OVERLAP)
    assert not gate.passes and gate.message.endswith(", not above 0")


def test_without_max_class_drop_the_shared_classes_may_fall():
    shared = make_predictions((40, 40, 4), (40, 40, 40))
    assert not evaluate_shared_classes(shared, PARAMS, CHAMPION, OVERLAP).passes
    gate = evaluate_shared_classes(shared, {**PARAMS, "max_class_drop": None}, CHAMPION, OVERLAP)
    assert gate.passes and gate.message.endswith("any fall is allowed")
