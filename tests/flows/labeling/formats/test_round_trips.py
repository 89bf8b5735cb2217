"""Exports to labelling tools, read back by the readers of imageset."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from flows.labeling.formats.cvat import write_cvat
from flows.labeling.formats.fiftyone import write_fiftyone
from flows.labeling.formats.label_studio import write_label_studio
from flows.labeling.formats.rows import ExportRow
from imageset.exceptions import UserError
from imageset.sources.annotations.reader import read_annotations

LABELS = [
    ("cat",),
    (),
    ("Käfer", "ant", "猫"),
    ('<&">', "'quoted'", "a|b", "tab\there"),
    ("C#", "C+", "C_"),
    ("1", "007"),
    ("x" * 300,),
]
WRITERS: dict[str, Callable[..., None]] = {
    "tasks.json": write_label_studio,
    "annotations.xml": write_cvat,
    "labels.json": write_fiftyone,
}


def build_rows(folder: str = "data") -> list[ExportRow]:
    ids = [hashlib.sha256(bytes([number])).hexdigest() for number in range(len(LABELS))]
    names = [f"{folder}/{'ünï <&> %20 #1' if number == 2 else f'{number:04d}'}-{ids[number]}.v1.png"
             for number in range(len(LABELS))]  # fmt: skip
    return [ExportRow(image_id, name, labels, "cat", 0.5)
            for image_id, name, labels in zip(ids, names, LABELS, strict=True)]  # fmt: skip


@pytest.mark.parametrize("name", WRITERS)
def test_an_export_is_read_back_with_the_same_pictures_and_labels(tmp_path: Path, name: str) -> None:
    rows = build_rows()
    WRITERS[name](tmp_path / name, rows)
    found = list(read_annotations(tmp_path / name))
    expected = [(row.image_id, tuple(sorted(row.labels))) for row in rows]
    assert [(image_id, labels) for _, image_id, labels, _, _ in found] == expected
    ending = ".png" if name == "labels.json" else ""
    assert [f"{picture}{ending}" for picture, *_ in found] == [row.path for row in rows]
    assert [(annotator, time) for *_, annotator, time in found] == [(None, None)] * len(rows)


@pytest.mark.parametrize("name", WRITERS)
def test_a_guess_is_never_read_as_a_label(tmp_path: Path, name: str) -> None:
    row = build_rows()[0]._replace(labels=(), guess="wasp", probability=None)
    WRITERS[name](tmp_path / name, [row])
    assert [labels for _, _, labels, _, _ in read_annotations(tmp_path / name)] == [()]
    if name != "annotations.xml":
        written = "".join(path.read_text() for path in tmp_path.iterdir())
        assert "wasp" in written


def test_label_studio_gets_guesses_as_predictions_of_the_model(tmp_path: Path) -> None:
    write_label_studio(tmp_path / "tasks.json", [build_rows()[0]], model="pets version 3")
    (task,) = json.loads((tmp_path / "tasks.json").read_text())
    (prediction,) = task["predictions"]
    assert (prediction["model_version"], prediction["score"]) == ("pets version 3", 0.5)
    assert prediction["result"][0]["value"] == {"choices": ["cat"]}
    assert task["data"]["image_id"] == task["meta"]["image_id"] == build_rows()[0].image_id


@pytest.mark.parametrize("name", ["annotations.xml", "labels.json"])
def test_a_picture_whose_name_lacks_its_image_id_is_not_written(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="must hold its whole image_id"):
        WRITERS[name](tmp_path / name, [build_rows()[0]._replace(path="data/1.png")])
    assert list(tmp_path.iterdir()) == []


def test_a_picture_outside_data_is_not_written_for_fiftyone(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"beside labels\.json; move it"):
        write_fiftyone(tmp_path / "labels.json", build_rows("pictures"))
