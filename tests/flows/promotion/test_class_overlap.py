import json
from pathlib import Path

import pytest

from flows.project.project import Project
from flows.promotion.class_overlap import (
    compare_classes,
    describe_changed_classes,
    find_renamed_classes,
    find_version_classes,
)
from imageset.raw.label_log import LabelEntry, LabelLog


def make_log(*entries: tuple[str, str, str | None, str]) -> LabelLog:
    """Entries of image, label, label before, person."""
    log = LabelLog()
    for image_id, label, previous, annotator in entries:
        log.add(LabelEntry("2026-01-01", image_id, label, previous, annotator, "table.csv"))
    return log


def test_classes_are_matched_by_name_in_the_order_of_the_dataset():
    overlap = compare_classes(["ant", "bee", "cow"], ["dog", "cow", "ant"])
    assert (overlap.shared, overlap.added, overlap.removed) == (("ant", "cow"), ("bee",), ("dog",))
    assert overlap.describe() == "it does not know bee; dog is no class any more"
    assert not overlap.is_same


def test_another_order_is_no_difference():
    overlap = compare_classes(["ant", "bee"], ["bee", "ant"])
    assert overlap.is_same and overlap.describe() == ""


@pytest.mark.parametrize(
    ("dataset", "model"),
    [(["ant", "bee"], ["ant"]), (["ant"], ["ant", "bee"]), (["ant", "bee"], ["ant", "cow"])],
)
def test_a_class_more_or_less_is_a_difference(dataset, model):
    assert not compare_classes(dataset, model).is_same


def test_classes_that_are_gone_are_named_in_the_order_of_the_alphabet():
    overlap = compare_classes(["ant"], ["fox", "cow", "ant"])
    assert overlap.describe() == "cow, fox are no classes any more"


@pytest.mark.parametrize(
    ("num", "named"),
    [(5, "c0, c1, c2, c3, c4"), (6, "c0, c1, c2, c3, c4 and 1 more"), (1500, "c0, c1, c2, c3, c4 and 1,495 more")],
)
def test_of_many_classes_five_are_named_and_the_others_counted(num, named):
    overlap = compare_classes([f"c{number}" for number in range(num)], [])
    assert overlap.describe() == f"it does not know {named}"


@pytest.mark.parametrize(
    ("model", "one_label", "several_labels"),
    [(["ant", "bee"], True, True), (["ant", "x"], False, True), (["x", "y"], False, False)],
)
def test_two_shared_classes_can_be_compared_or_one_of_several_labels(model, one_label, several_labels):
    overlap = compare_classes(["ant", "bee", "cow"], model)
    assert (overlap.is_comparable(False), overlap.is_comparable(True)) == (one_label, several_labels)


def test_a_class_whose_pictures_all_got_one_new_label_was_renamed():
    log = make_log(("1", "kitty", "cat", "Anna"), ("2", "kitty", "cat", "Ben"), ("3", "dog", "dog", "Ben"))
    renamed = find_renamed_classes(log, ["dog", "kitty"], ["cat", "dog"])
    assert renamed == {"cat": "kitty"}
    overlap = compare_classes(["dog", "kitty"], ["cat", "dog"], renamed)
    assert overlap.is_same and overlap.describe() == "cat is called kitty now"


@pytest.mark.parametrize(
    "entries",
    [
        [("1", "kitty", "cat", "Anna"), ("2", "tiger", "cat", "Anna")],  # divided into two
        [("1", "kitty", "cat", "Anna"), ("1", "tiger", "cat", "Ben")],  # disputed
        [("1", "dog", "cat", "Anna")],  # became a class that the model knows
        [("1", "kitty", "cat", "Anna"), ("2", "kitty", "lion", "Anna")],  # two became one
        [("1", "kitty", None, "Anna")],  # a new picture
    ],
)
def test_anything_else_is_no_renaming(entries):
    dataset, model = ["dog", "kitty", "tiger"], ["cat", "dog", "lion"]
    assert find_renamed_classes(make_log(*entries), dataset, model) == {}


def test_renamed_classes_are_in_the_order_of_the_alphabet_whatever_that_of_the_log():
    log = make_log(("1", "puppy", "dog", "Anna"), ("2", "kitty", "cat", "Anna"))
    renamed = find_renamed_classes(log, ["kitty", "puppy"], ["cat", "dog"])
    overlap = compare_classes(["kitty", "puppy"], ["cat", "dog"], renamed)
    assert overlap.describe() == "cat is called kitty, dog is called puppy now"


def test_a_class_that_there_still_is_was_not_renamed():
    log = make_log(("1", "kitty", "cat", "Anna"))
    assert find_renamed_classes(log, ["cat", "kitty"], ["cat", "dog"]) == {}


@pytest.fixture
def dataset(tmp_path) -> Project:
    path = tmp_path / "data/normalized/dataset.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"name": "pets", "classes": ["ant", "bee", "cow"]}))
    return Project(tmp_path)


def test_a_model_of_other_classes_than_the_dataset_is_described_with_what_to_do(dataset):
    assert describe_changed_classes(dataset, "pets", 4, ["ant", "dog"]) == (
        "pets version 4 has other classes than data/normalized: it does not know bee, cow; dog is no class any "
        "more; `convoy run` trains on the classes of today and promotes"
    )
    assert describe_changed_classes(dataset, "pets", 4, ["cow", "bee", "ant"]) == ""
    assert describe_changed_classes(dataset, "others", 4, ["x"]) == ""


UNREADABLE = ["{", "{}", "[]", '"text"', None]  # None: no file


@pytest.mark.parametrize("text", UNREADABLE)
def test_with_a_dataset_that_cannot_be_read_no_classes_are_compared(dataset, text):
    write_or_remove(dataset / "data/normalized/dataset.json", text)
    assert describe_changed_classes(dataset, "pets", 4, ["ant"]) == ""


def write_or_remove(path: Path, text: str | None) -> None:
    if text is None:
        path.unlink()
    else:
        path.write_text(text)


@pytest.mark.parametrize(
    ("task", "difference"),
    [
        ("multi-class", "dog is called cow now"),
        ("multi-label", "it does not know cow; dog is no class any more"),
    ],
)
def test_of_one_label_a_picture_the_label_log_tells_which_class_was_renamed(dataset, task, difference):
    manifest = {"name": "pets", "classes": ["ant", "bee", "cow"], "task": task}
    (dataset / "data/normalized/dataset.json").write_text(json.dumps(manifest))
    (dataset / "data/raw").mkdir()
    line = LabelEntry("2026-01-01", "a" * 64, "cow", "dog", "Anna", "table.csv").to_line()
    (dataset / "data/raw/label_log.jsonl").write_text(line)
    assert f": {difference}; " in describe_changed_classes(dataset, "pets", 1, ["ant", "bee", "dog"])


def test_a_damaged_label_log_does_not_stop_the_description(dataset):
    (dataset / "data/raw").mkdir()
    (dataset / "data/raw/label_log.jsonl").write_text("nonsense\n")
    assert "it does not know" in describe_changed_classes(dataset, "pets", 1, ["ant", "bee"])


def test_the_classes_of_a_version_are_in_the_ledger(dataset):
    decision = {"event": "decision", "model": "pets", "version": 2, "classes": ["ant", "dog"]}
    assert find_version_classes([decision], "pets", 2, None) == ["ant", "dog"]
    assert find_version_classes([decision], "pets", 1, None) is None


@pytest.fixture
def bundle(project) -> Path:
    """The bundle.json of version 1 of "pets", to which MLflow's database in the folder `project` leads."""
    from lightning_modules.tracking.client import connect_to_mlflow

    client = connect_to_mlflow(project)
    client.create_registered_model("pets")
    client.create_model_version("pets", (project / "model").as_uri(), None)
    path = project / "model/artifacts/bundle/bundle.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"info": {"classes": ["ant", "dog"]}}))
    return path


def test_the_classes_of_a_version_that_the_ledger_does_not_name_are_in_its_files(project, bundle):
    decision = {"event": "decision", "model": "pets", "version": 1}  # of an earlier Convoy
    for entries in ([], [decision]):
        assert find_version_classes(entries, "pets", 1, project / "mlflow.db") == ["ant", "dog"]
    assert find_version_classes([], "pets", 2, project / "mlflow.db") is None
    assert find_version_classes([], "cats", 1, project / "mlflow.db") is None


@pytest.mark.parametrize("text", UNREADABLE)
def test_the_classes_of_a_version_whose_files_cannot_be_read_are_not_known(project, bundle, text):
    write_or_remove(bundle, text)
    assert find_version_classes([], "pets", 1, project / "mlflow.db") is None
