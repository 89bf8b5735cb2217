"""A review that a labelling tool labelled comes back: its export extends the project's data."""

import argparse
import csv
import json
import shutil
from xml.etree import ElementTree

import pytest

from flows.cli.options import add_predict_options
from flows.labeling.formats.rows import ExportRow
from flows.labeling.formats.tools import DOCUMENTS, write_document
from flows.labeling.review import write_review
from flows.prediction.image_stream import open_images
from imageset.exceptions import UserError
from imageset.raw import ingestion
from imageset.raw.label_import import import_labels
from imageset.raw.label_log import read_label_log
from imageset.sources.factory import open_label_table
from tests.helpers.images import write_digit_images
from tests.helpers.models import make_untrained_bundle


def label_in_label_studio(path):
    """Label the tasks as an export of Label Studio has them: the first three `2`, the others none yet."""
    tasks = json.loads(path.read_text())
    for task in tasks[:3]:
        result = [{"from_name": "label", "to_name": "image", "type": "choices", "value": {"choices": ["2"]}}]
        task["annotations"] = [{"completed_by": {"email": "anna@example.org"}, "result": result}]
    path.write_text(json.dumps(tasks))


def label_in_cvat(path):
    """CVAT names pictures that were uploaded by their file names."""
    document = ElementTree.parse(path)
    for number, image in enumerate(document.getroot().iter("image")):
        image.set("name", image.get("name", "").rpartition("/")[2])
        if number < 3:
            ElementTree.SubElement(image, "tag", {"label": "2", "source": "manual"})
    document.write(path)


def label_in_fiftyone(path):
    content = json.loads(path.read_text())
    content["classes"] = ["2"]
    content["labels"] = {key: 0 if number < 3 else None for number, key in enumerate(content["labels"])}
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("tool", "label"),
    [("label-studio", label_in_label_studio), ("cvat", label_in_cvat), ("fiftyone", label_in_fiftyone)],
)
def test_a_review_goes_to_a_tool_and_its_export_comes_back(tool, label, tmp_path):
    bundle = make_untrained_bundle(tmp_path)
    pictures = write_digit_images(tmp_path / "pictures", classes="01", num_each=6)
    top = [{"label": "0", "probability": 0.6}, {"label": "1", "probability": 0.4}]
    rows = [
        {"uri": image.uri, "image_id": image.image_id, "top_k": top, "status": "ok", "error": None, **top[0],
         "model_name": "digits", "model_version": 1}
        for image, _ in open_images(str(pictures))
    ]  # fmt: skip
    folder = tmp_path / "out.review"
    write_review(folder, open_images(str(pictures)), lambda: iter(rows), bundle, 5, tool=tool)
    document = folder / DOCUMENTS[tool]
    label(document)
    with (folder / "review.csv").open(newline="") as file:
        expected = [row["image_id"] for row in csv.DictReader(file)][:3]
    shutil.rmtree(pictures)
    raw = tmp_path / "raw"
    ingestion.ingest_source(write_digit_images(tmp_path / "source", classes="23"), raw)

    table = open_label_table(str(document))
    assert table is not None
    plan = import_labels(table.iter_rows(False), raw, document.name, "Anna")
    assert plan.describe() == f"{document.name}: 3 labels: 3 new pictures; 2 rows without a label"
    assert sorted(read_label_log(raw).collect_labels().items()) == sorted((one, "2") for one in expected)
    again = import_labels(table.iter_rows(False), raw, document.name, "Anna")
    assert again.entries == []


def test_annotations_without_image_ids_are_a_source_of_their_own_and_no_label_table(tmp_path):
    (tmp_path / "data").mkdir()
    write_digit_images(tmp_path / "data", classes="0", num_each=2)
    (tmp_path / "labels.json").write_text(json.dumps({"classes": ["a"], "labels": {"0/0": 0}}))
    assert open_label_table(str(tmp_path / "labels.json")) is None


def test_the_question_of_an_export_is_chosen_and_a_damaged_one_says_so(tmp_path):
    image_id = "a" * 64
    answers = [
        {"from_name": name, "to_name": "image", "type": "choices", "value": {"choices": [choice]}}
        for name, choice in (("animal", "cat"), ("weather", "sun"))
    ]
    task = {"data": {"image": "x.png", "image_id": image_id}, "annotations": [{"result": answers}]}
    path = tmp_path / "export.json"
    path.write_text(json.dumps([task]))
    with pytest.raises(UserError, match="label="):
        open_label_table(str(path))
    table = open_label_table(f"{path}?label=weather")
    assert table is not None
    assert [(row.image_id, row.labels) for row in table.iter_rows(False)] == [(image_id, ("sun",))]
    with pytest.raises(UserError, match=r"\?ending= is no option"):
        open_label_table(f"{path}?label=weather&ending=png")
    path.write_text(path.read_text()[:-5])
    with pytest.raises(UserError, match=r"export\.json"):
        open_label_table(str(path))


def test_a_guess_of_several_labels_is_several_choices(tmp_path):
    rows = [ExportRow("a" * 64, f"data/{'a' * 64}.png", guess=["two", "one"], probability=0.7)]
    for tool in DOCUMENTS:
        write_document(tool, tmp_path, rows, "digits version 1")
    ((prediction,),) = (task["predictions"] for task in json.loads((tmp_path / "tasks.json").read_text()))
    assert prediction["result"][0]["value"]["choices"] == ["one", "two"] and prediction["score"] == 0.7
    assert not (tmp_path / "predictions.json").exists()


def test_the_command_line_offers_the_tools_that_there_are():
    parser = argparse.ArgumentParser()
    add_predict_options(parser)
    (action,) = (action for action in parser._actions if action.dest == "review_for")
    assert set(action.choices or ()) == set(DOCUMENTS)
