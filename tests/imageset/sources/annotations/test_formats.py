"""Documents of annotations as sources: every format, from the document and from the folder that holds it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from imageset.exceptions import UserError
from imageset.rejections import Rejected
from imageset.sources.annotations.reader import read_annotations
from imageset.sources.factory import open_source
from tests.helpers.annotations import (
    FORMATS,
    build_coco,
    build_task,
    write,
    write_coco,
    write_cvat,
    write_pictures,
    write_voc,
    write_yolo,
)
from tests.helpers.images import make_image_folder

ONE = {"a 1.png": ["cat"], "b.png": ["dog"], "sub/c.png": ["cat"], "d.png": []}
SEVERAL = ONE | {"a 1.png": ["dog", "cat"]}
LABEL_STUDIO = [name for name in FORMATS if name.startswith("Label Studio")]


def read(source: Any) -> list[tuple[str, str | None, str | None]]:
    return [(image.uri, image.label, image.split) for image in source]


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("from_folder", [False, True])
def test_pictures_with_one_label_each_are_a_single_label_set(tmp_path: Path, name: str, from_folder: bool) -> None:
    basis, write_format = FORMATS[name]
    document = write_format(tmp_path / "set", ONE)
    source = open_source(tmp_path / "set" if from_folder else document)
    assert not source.multi_label and source.kind == "annotations"
    assert sorted((uri.partition("/")[2], label) for uri, label, _ in read(source)) == [
        ("a 1.png", "cat"), ("b.png", "dog"), ("sub/c.png", "cat")
    ]  # fmt: skip
    for image in source:
        assert image.read() == (tmp_path / "set" / image.uri).read_bytes()
    said = source.describe()
    assert "3 pictures in 2 classes (cat 2, dog 1)" in said
    assert name.split(" tags")[0].split(" boxes")[0].split(" min")[0] in said
    assert f"one label a picture, from its {basis}" in said and f"1 picture without {basis}" in said
    assert "repaired" not in said and ("labels from" in said) >= from_folder


@pytest.mark.parametrize("name", FORMATS)
def test_a_picture_with_several_labels_makes_a_multi_label_set(tmp_path: Path, name: str) -> None:
    basis, write_format = FORMATS[name]
    source = open_source(write_format(tmp_path / "set", SEVERAL))
    assert source.multi_label and {label for _, label, _ in read(source)} == {"cat|dog", "dog", "cat"}
    assert f"several labels a picture, from its {basis} (1 has more than one)" in source.describe()


@pytest.mark.parametrize("name", FORMATS)
def test_labels_are_read_without_the_pictures(tmp_path: Path, name: str) -> None:
    _, write_format = FORMATS[name]
    document = write_format(tmp_path / "set", SEVERAL)
    path = tmp_path / "set" if name in ("YOLO", "Pascal VOC") else document
    rows = list(read_annotations(path))
    assert sorted(labels for _, _, labels, _, _ in rows) == [(), ("cat",), ("cat", "dog"), ("dog",)]
    assert all(picture for picture, *_ in rows) and {image_id for _, image_id, *_ in rows} == {None}
    people = {(annotator, time and time.isoformat()) for *_, labels, annotator, time in rows if labels}
    assert people == ({("1", "2024-03-01T10:00:00")} if name in LABEL_STUDIO else {(None, None)})


def test_documents_of_splits_are_one_source(tmp_path: Path) -> None:
    write_coco(tmp_path / "coco", {"1.png": ["cat"], "2.png": ["dog"]}, "train")
    write_coco(tmp_path / "coco", {"1.png": ["dog"], "3.png": ["cat"]}, "val")
    write(tmp_path / "coco/annotations/person_keypoints_train2017.json", build_coco({"1.png": ["person"]}))
    write(tmp_path / "coco/annotations/captions_train2017.json", {"images": [], "annotations": []})
    expected = [("train2017/1.png", "cat", "train"), ("train2017/2.png", "dog", "train"),
                ("val2017/1.png", "dog", "val"), ("val2017/3.png", "cat", "val")]  # fmt: skip
    source = open_source(tmp_path / "coco")
    assert sorted(read(source)) == expected
    assert (
        "labels from annotations/instances_train2017.json and annotations/instances_val2017" in source.describe()
    )
    pattern = open_source(f"{tmp_path}/coco/annotations/instances_{{train,val}}2017.json")
    assert sorted(read(pattern)) == expected


def test_roboflow_writes_a_document_beside_the_pictures_of_each_split(tmp_path: Path) -> None:
    for split, labels in (("train", {"a.png": ["cat"], "b.png": ["dog"]}), ("valid", {"a.png": ["dog"]})):
        write_pictures(tmp_path / split, list(labels))
        write(tmp_path / split / "_annotations.coco.json", build_coco(labels))
    assert sorted(read(open_source(tmp_path))) == [
        ("train/a.png", "cat", "train"), ("train/b.png", "dog", "train"), ("valid/a.png", "dog", "val")
    ]  # fmt: skip


def test_lists_and_folders_give_the_splits_of_yolo_and_voc(tmp_path: Path) -> None:
    labels = {"train/a.png": ["cat"], "val/b.png": ["dog"], "val/c.png": ["cat"]}
    write_yolo(tmp_path / "folders", labels)
    assert [split for *_, split in sorted(read(open_source(tmp_path / "folders")))] == ["train", "val", "val"]
    flat = {"a.png": ["cat"], "b.png": ["dog"], "c.png": ["cat"]}
    write_yolo(tmp_path / "lists", flat)
    write(tmp_path / "lists/data.yaml", "train: train.txt\nval: val.txt\nnames: {0: cat, 1: dog}\n")
    write(tmp_path / "lists/train.txt", "./images/a.png\nimages/b.png\n")
    write(tmp_path / "lists/val.txt", "/home/me/images/c.png\n")
    assert [split for *_, split in sorted(read(open_source(tmp_path / "lists")))] == ["train", "train", "val"]
    write_voc(tmp_path / "voc", flat)
    write(tmp_path / "voc/ImageSets/Main/trainval.txt", "a\nb\n")
    write(tmp_path / "voc/ImageSets/Main/val.txt", "b 1\n")
    write(tmp_path / "voc/ImageSets/Main/test.txt", "c\n")
    assert [split for *_, split in sorted(read(open_source(tmp_path / "voc")))] == ["train", "val", "test"]


def test_the_years_of_a_voc_kit_are_no_classes(tmp_path: Path) -> None:
    for year, label in (("VOC2007", "cat"), ("VOC2012", "dog")):
        write_voc(tmp_path / "VOCdevkit" / year, {f"{year}.png": [label], "same.png": [label]})
    source = open_source(tmp_path / "VOCdevkit")
    assert source.classes == {"cat": 2, "dog": 2} and source.passed_over["pictures that no annotation names"] == 4


def test_damaged_annotations_do_not_make_folders_of_masks_classes(tmp_path: Path) -> None:
    write_voc(tmp_path, {"a.png": ["cat"], "b.png": ["dog"]})
    write(tmp_path / "Annotations/a.xml", "<annotation><object>")
    with pytest.raises(UserError, match=r"the annotations in it cannot be read; Annotations/a\.xml: not readable"):
        open_source(tmp_path)
    (tmp_path / "Annotations/a.xml").unlink()
    (tmp_path / "Annotations/b.xml").unlink()
    assert set(open_source(tmp_path).classes) == {"JPEGImages", "SegmentationClass"}


def test_darknets_label_files_lie_beside_the_pictures(tmp_path: Path) -> None:
    write_pictures(tmp_path / "obj", ["a.png", "b.png"])
    write(tmp_path / "obj/a.txt", "1 .5 .5 .1 .1\n")
    write(tmp_path / "obj/b.txt", "0 .5 .5 .1 .1\n")
    write(tmp_path / "obj.names", "cat\ndog\n")
    assert read(open_source(tmp_path)) == [("obj/a.png", "dog", None), ("obj/b.png", "cat", None)]


@pytest.mark.parametrize(
    ("address", "file"),
    [
        ("/data/local-files/?d=my%20pets/a%201.png", "my pets/a 1.png"),
        ("/data/local-files/?d=srv/share/pets/a.png", "pets/a.png"),
        ("/data/upload/3/1a2b3c4d-a.png", "a.png"),
        ("/data/upload/3/1a2b3c4d-a.png", "1a2b3c4d-a.png"),
        ("/data/upload/3/1a2b3c4d-a.png", "images/1a2b3c4d-a.png"),
        ("http://localhost:8080/data/upload/3/1a2b3c4d-a%20b.png?x=1", "images/a b.png"),
        ("s3://bucket/pets/a.png", "pets/a.png"),
        ("s3://bucket/somewhere/else/a.png", "a.png"),
        ("https://host.org/pets/a%20b.png", "pets/a b.png"),
        (r"C:\pets\a.png", "pets/a.png"),
        ("pets/a.png", "pets/a.png"),
    ],
)
def test_the_address_of_a_label_studio_task_finds_its_file(tmp_path: Path, address: str, file: str) -> None:
    write_pictures(tmp_path, [file, "other/b.png"])
    tasks = [build_task(1, address, ["cat"]), build_task(2, "other/b.png", ["dog"])]
    image, _ = open_source(write(tmp_path / "export.json", tasks))
    assert image.uri == file and image.read() == (tmp_path / file).read_bytes()


def test_a_missing_picture_is_named(tmp_path: Path) -> None:
    write_pictures(tmp_path, ["b.png"])
    tasks = [build_task(1, "s3://bucket/pets/a.png", ["cat"]), build_task(2, "b.png", ["dog"])]
    source = open_source(write(tmp_path / "export.json", tasks))
    assert "1 of 2 paths have no file: '/pets/a.png'" in source.describe()
    with pytest.raises(Rejected, match="outside the table's folder, as if from another machine"):
        next(iter(source)).read()
    (tmp_path / "b.png").unlink()
    with pytest.raises(UserError, match=r"none of its pictures is there, e\.g\. '/pets/a\.png'.*\?root=FOLDER"):
        open_source(tmp_path / "export.json")


def test_root_names_the_folder_of_the_pictures(tmp_path: Path) -> None:
    document = write_cvat(tmp_path / "set", ONE)
    moved = document.rename(tmp_path / "export.xml")
    with pytest.raises(UserError, match=r"\?root=gone: no such folder in "):
        open_source(f"{moved}?root=gone")
    with pytest.raises(UserError, match="unknown option 'rot' after the question mark; did you mean 'root'"):
        open_source(f"{moved}?rot=set")
    source = open_source(f"{moved}?root=set/images")
    assert [uri for uri, *_ in read(source)] == ["a 1.png", "b.png", "sub/c.png"]


def test_no_file_outside_the_folder_is_read(tmp_path: Path) -> None:
    write_pictures(tmp_path, ["secret.png", "set/b.png"])
    for path in ("../secret.png", str(tmp_path / "secret.png"), f"file://{tmp_path}/secret.png"):
        document = write(tmp_path / "set/coco.json", build_coco({path: ["cat"], "b.png": ["dog"]}))
        with pytest.raises(Rejected, match=r"outside the table's folder|a URL: only files below"):
            next(iter(open_source(document))).read()


def test_people_who_disagree_on_a_picture_are_counted_and_it_is_passed_over(tmp_path: Path) -> None:
    write_pictures(tmp_path, ["a.png", "b.png", "c.png"])
    tasks = [build_task(1, "a.png", ["cat"]), build_task(2, "b.png", ["dog"]), build_task(3, "c.png", ["cat"])]
    for task, labels in zip(tasks, (["dog"], ["dog"], ["dog"]), strict=True):
        second = build_task(9, "", labels)["annotations"][0] | {"completed_by": {"id": 2, "email": "b@c.org"}}
        task["annotations"].append(second)
    tasks[2]["annotations"][1]["was_cancelled"] = True
    document = write(tmp_path / "export.json", tasks)
    source = open_source(document)
    assert read(source) == [("b.png", "dog", None), ("c.png", "cat", None)]
    assert "1 picture on which annotators disagree" in source.describe()
    rows = [(picture, labels, annotator) for picture, _, labels, annotator, _ in read_annotations(document)]
    assert rows == [("a.png", ("cat",), "1"), ("a.png", ("dog",), "b@c.org"), ("b.png", ("dog",), "1"),
                    ("b.png", ("dog",), "b@c.org"), ("c.png", ("cat",), "1")]  # fmt: skip


def test_an_answer_without_labels_is_none_of_them_where_there_are_several(tmp_path: Path) -> None:
    write_pictures(tmp_path, ["a.png", "b.png", "c.png"])
    tasks = [build_task(1, "a.png", ["cat", "dog"]), build_task(2, "b.png", ["dog"]), build_task(3, "c.png", [])]
    tasks[2]["annotations"] = [{"completed_by": 1, "result": []}]
    assert [label for _, label, _ in read(open_source(write(tmp_path / "e.json", tasks)))] == [
        "cat|dog",
        "dog",
        "",
    ]
    tasks[0] = build_task(1, "a.png", ["cat"])
    source = open_source(write(tmp_path / "e.json", tasks))
    assert not source.multi_label and source.passed_over == {"pictures without choices": 1}


def test_several_questions_need_a_choice(tmp_path: Path) -> None:
    write_pictures(tmp_path, ["a.png", "b.png"])
    tasks = [build_task(1, "a.png", ["cat"]), build_task(2, "b.png", ["dog"])]
    for task in tasks:
        answer = {"from_name": "quality", "type": "choices", "value": {"choices": [f"q{task['id']}"]}}
        task["annotations"][0]["result"].append(answer)
    document = write(tmp_path / "export.json", tasks)
    with pytest.raises(UserError, match=r"\(label, quality\); say which .*: '.*export\.json\?label=label'"):
        open_source(document)
    assert [label for _, label, _ in read(open_source(f"{document}?label=quality"))] == ["q1", "q2"]
    with pytest.raises(UserError, match="no question is called 'breed'"):
        open_source(f"{document}?label=breed")


def test_tags_take_precedence_over_shapes_and_that_is_said(tmp_path: Path) -> None:
    document = write_cvat(tmp_path, {"a.png": ["cat"], "b.png": ["dog"]}, "tag")
    document.write_text(document.read_text().replace("</image>", '<box label="ear"/></image>'))
    source = open_source(document)
    assert source.classes == {"cat": 1, "dog": 1}
    assert "the shapes in 2 pictures are not read, as there are tags" in source.describe()


def test_class_folders_with_documents_beside_them_stay_class_folders(tmp_path: Path) -> None:
    folder = make_image_folder(tmp_path / "set", num_each=2)
    write(folder / "coco.json", build_coco({"ant/0000.png": ["x"], "bee/0000.png": ["y"]}))
    write(folder / "package.json", {"name": "x"})
    assert set(open_source(folder).classes) == {"ant", "bee"}


def test_two_documents_for_the_same_pictures_stop_with_a_way_that_works(tmp_path: Path) -> None:
    labels = {"a.png": ["cat"], "b.png": ["dog"]}
    write_cvat(tmp_path, labels)
    write(tmp_path / "coco.json", build_coco({f"images/{name}": names for name, names in labels.items()}))
    with pytest.raises(UserError, match=r"annotations\.xml and coco\.json each describe the pictures") as error:
        open_source(tmp_path)
    for spec in str(error.value).partition("them: ")[2].split(" or "):
        assert open_source(spec.strip("'")).classes == {"cat": 1, "dog": 1}


def test_a_document_alone_is_checked_for_two_classes(tmp_path: Path) -> None:
    document = write_cvat(tmp_path / "set", {"a.png": ["cat"], "b.png": ["cat"]})
    with pytest.raises(UserError, match="all 2 labelled pictures have the label 'cat'; at least two classes"):
        open_source(document)
    with pytest.raises(UserError, match="no picture has boxes; label some of them"):
        open_source(write_cvat(tmp_path / "none", {"a.png": []}))
    assert json.dumps(open_source(document, require_classes=False).problem)
