from types import SimpleNamespace

import numpy as np
import pyarrow as pa

from flows.project.project import Project
from flows.promotion.gates import first_model
from flows.promotion.gates.first_model import evaluate_baseline, evaluate_first_model

PARAMS = {"confidence": 0.95, "resamples": 300}
CLASSES = ("ant", "bee", "cat")


def evaluate(labels: list[int], predicted: list[int]):
    probabilities = np.eye(3)[predicted]
    return evaluate_baseline(np.array(labels), probabilities, CLASSES, np.arange(len(labels)), PARAMS)


def test_a_model_that_always_gives_one_answer_is_no_better_than_that_answer():
    gate = evaluate([0] * 10 + [1] * 10 + [2] * 10, [1] * 30)
    assert not gate.passes
    assert gate.message == (
        "it is not shown to be better than always answering 'ant' (0.3333): accuracy 0.3333 on 30 test pictures, "
        "p = 0.59"
    )
    assert gate.numbers["baseline_accuracy"] == gate.numbers["accuracy"]


def test_a_model_that_tells_the_classes_apart_is_better():
    labels = [0] * 10 + [1] * 10 + [2] * 10
    gate = evaluate(labels, labels)
    assert gate.passes
    assert gate.message == (
        "accuracy 1.0000 on 30 test pictures, better than always answering 'ant' (0.3333), p = 9.5e-07"
    )
    assert gate.numbers["num_test"] == 30


def test_one_test_picture_cannot_decide_and_the_message_says_so():
    gate = evaluate([2], [2])
    assert not gate.passes
    assert gate.message == (
        "accuracy 1.0000 on 1 test picture cannot be told from always answering 'cat' (1.0000): too few test "
        "pictures, even for a model without mistakes"
    )


def evaluate_labels(labels: np.ndarray, scores: np.ndarray):
    names = CLASSES[: labels.shape[1]]
    return evaluate_baseline(labels, scores, names, np.arange(len(labels)), PARAMS)


def test_the_scores_of_several_labels_must_say_more_than_how_frequent_each_label_is():
    draws = np.random.default_rng(0)
    labels = (draws.random((60, 2)) < (0.9, 0.8)).astype(int)
    better = evaluate_labels(labels, labels + draws.normal(0, 0.7, labels.shape))
    assert better.passes and "better than scores that ignore the pictures (0.8" in better.message
    assert better.message.startswith(f"mAP {better.numbers['map']:.4f} on 60 test pictures, ")
    useless = evaluate_labels(labels, draws.random(labels.shape))
    assert not useless.passes and useless.numbers["map"] > 0.8  # a high figure that means nothing
    assert useless.message.startswith("it is not shown to be better than scores that ignore the pictures (0.8")


def test_labels_that_every_test_picture_has_leave_nothing_to_measure():
    gate = evaluate_labels(np.ones((9, 2), int), np.full((9, 2), 0.9))
    assert not gate.passes and "map" not in gate.numbers
    assert gate.message == "on 9 test pictures every label is there always or never, so nothing can be measured"


def decide(monkeypatch, predicted: list[int], note: str = "", group: str | None = None):
    """Decide about a model that gives these answers about ten pictures of each class."""
    labels = np.repeat([0, 1, 2], 10)
    rows = pa.table({"group": pa.array([group] * 30, pa.string())})
    split = SimpleNamespace(labels=labels, rows=rows, image_ids=[f"{number:02d}" for number in range(30)])
    store = SimpleNamespace(split={"test": split}.get, classes=CLASSES, name="pets")
    answers = {("bundle", "pets", Project(".")): np.eye(3)[predicted]}
    monkeypatch.setattr(
        first_model, "predict_probabilities", lambda bundle, store, project: answers[bundle, store.name, project]
    )
    result = evaluate_first_model("bundle", store, "0123456789", PARAMS, Project("."), note)
    assert [gate.name for gate in result.gates] == ["baseline"] and result.gates[0].passes is result.passes
    return result


RIGHT = [0] * 10 + [1] * 10 + [2] * 10


def test_the_first_model_is_named_as_such(monkeypatch):
    result = decide(monkeypatch, RIGHT)
    assert result.passes is True
    assert result.reason == f"the first model of pets: {result.gates[0].message}"


def test_a_model_without_a_champion_that_could_be_compared_says_why(monkeypatch):
    result = decide(monkeypatch, RIGHT, "no class is left")
    start = "no class is left, so this one is judged like a first model; "
    assert result.passes is True and result.reason == f"{start}{result.gates[0].message}"
    refused = decide(monkeypatch, [0] * 30, "no class is left")
    assert refused.passes is False and refused.reason.startswith(f"{start}{refused.gates[0].message}; train on ")


def test_a_first_model_that_is_refused_gets_the_command_that_lets_it_serve(monkeypatch):
    result = decide(monkeypatch, [0] * 30)
    assert result.passes is False
    assert result.reason == (
        f"{result.gates[0].message}; train on more pictures, or let it serve all the same: "
        "`convoy promote 01234567 --override REASON`"
    )


def test_pictures_of_one_group_are_one_picture_for_a_first_model(monkeypatch):
    assert not decide(monkeypatch, RIGHT, group="all").passes
