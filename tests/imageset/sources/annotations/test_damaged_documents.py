"""Documents of annotations that are damaged or hostile: one line that names the file and the place."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from imageset.exceptions import UserError
from imageset.sources.annotations import json_documents
from imageset.sources.annotations.reader import read_annotations
from imageset.sources.factory import open_source
from tests.helpers.annotations import FORMATS, build_coco, build_task, write, write_pictures

COCO = build_coco({"a.png": ["cat"], "b.png": ["dog"]})
BOMB = "<!DOCTYPE x [<!ENTITY a 'aaaa'><!ENTITY b '&a;&a;&a;'>]><annotations>&b;</annotations>"
EXTERNAL = "<?xml version='1.0'?>\n<!DOCTYPE x SYSTEM 'file:///etc/passwd'>\n<annotations/>"
WRONG_VALUES = [
    None,
    [],
    {},
    5,
    -1,
    1.5,
    "x",
    "",
    True,
    float("nan"),
    float("inf"),
    [None],
    [[]],
    [{}],
    {"x": None},
]


def change(path: str, value: Any) -> dict[str, Any]:
    """COCO's document with another value at a path such as images.0.file_name; ... leaves it out."""
    document = copy.deepcopy(COCO)
    *parents, last = [int(key) if key.isdigit() else key for key in path.split(".")]
    place: Any = document
    for key in parents:
        place = place[key]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return document


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.json", "", r"x\.json: not readable as JSON: Expecting value: line 1 column 1"),
        ("x.json", '{"images": [1,', r"x\.json: not readable as JSON: .*line 1 column"),
        ("x.json", "[" * 100_000, r"x\.json: not readable as JSON: nested too deeply"),
        ("x.json", b"\xff\xfe\x00", r"x\.json: not readable as JSON: "),
        ("x.json", '{"a": ' + "9" * 5000 + "}", r"x\.json: not readable as JSON: Exceeds the limit"),
        ("x.json", "[]", r"x\.json: not a document of COCO, CVAT"),
        ("x.json", [{"path": "a.png", "label": "cat"}], r"not a document of .*; convert it to one, or to a table"),
        ("x.json", {"images": [], "annotations": []}, "COCO without categories"),
        ("x.json", change("images.0.file_name", ...), r"x\.json: images\[0\]: 'file_name' is missing"),
        ("x.json", change("images.0.file_name", 7), r"images\[0\]\.file_name: must be a text, not a number"),
        ("x.json", change("images.1.id", 0), r"images\[1\]\.id: two pictures have the id 0"),
        ("x.json", change("images.0.id", float("nan")), r"images\[0\]\.id: must be a number or a text, not nan"),
        ("x.json", change("images.0", "a.png"), r"images\[0\]: must be an object, not a text"),
        ("x.json", change("annotations", {}), r"annotations: must be a list, not an object"),
        ("x.json", change("annotations.2.category_id", 99), r"\[2\]\.category_id: no category has the id 99"),
        ("x.json", change("annotations.3.image_id", "9"), r"\[3\]\.image_id: no picture has the id '9'"),
        ("x.json", change("categories.0.name", ["cat"]), r"categories\[0\]\.name: must be a text, not a list"),
        ("x.json", {"classes": ["cat"], "labels": {"a": 3}}, r"\.a: no class has the number 3 \(there are 1\)"),
        ("x.json", {"classes": ["cat"], "labels": {"a": -1}}, r"labels\.a: no class has the number -1"),
        ("x.json", {"classes": "cat", "labels": {"a": 0}}, r"classes: must be a list, not a text"),
        ("x.json", {"labels": {"a\n\x1b[2J": 1.5}}, r"labels\.a\\n\\x1b\[2J: must be a text"),
        ("x.json", [build_task(1, "", ["cat"])], r"\[0\]\.data\.image: is empty"),
        ("x.json", [build_task(1, "data:image/png;base64,AA", ["cat"])], "the picture is in the document itself"),
        ("x.json", [{"data": {"text": "hello"}}], r"\[0\]\.data: holds no name of a picture"),
        ("x.json", [{"data": {"a": "1.png", "b": "2.png"}}], r"holds several names of pictures \(a, b\)"),
        ("x.xml", "", r"x\.xml: not readable as XML: no element found"),
        ("x.xml", "<annotations><image", r"x\.xml: not readable as XML: .*line 1"),
        ("x.xml", "<html/>", r"x\.xml: not a document of COCO, CVAT"),
        ("x.xml", BOMB, r"x\.xml: line 1: a DOCTYPE, which may define entities, is not read"),
        ("x.xml", BOMB.encode("utf-16"), r"x\.xml: line 1: a DOCTYPE"),
        ("x.xml", EXTERNAL, r"x\.xml: line 2: a DOCTYPE"),
        ("x.xml", "<annotations>&who;</annotations>", "not readable as XML: undefined entity"),
        ("x.xml", "<?xml version='1.0' encoding='none'?><annotations/>", "not readable as XML: unknown encoding"),
        ("x.xml", "<annotations>" + "<a>" * 1000, "elements are nested too deeply"),
        ("x.xml", "<annotations><track label='a'/></annotations>", r"for video; export it as 'CVAT for images"),
        ("x.xml", "<annotations><image id='1'/></annotations>", "image number 0 has no name"),
        ("x.xml", "<annotations><image name='a'><box/></image></annotations>", "image 'a': a box has no label"),
        ("x.xml", "<annotation><object/></annotation>", r"one picture, as of Pascal VOC; give the folder /"),
    ],
)  # fmt: skip
def test_a_damaged_document_is_named_with_the_place(tmp_path: Path, name: str, content: Any, message: str) -> None:
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        write(path, content)
    for look in (open_source, lambda path: list(read_annotations(path))):
        with pytest.raises(UserError, match=message) as error:
            look(path)
        assert str(path) in str(error.value) and str(error.value).isprintable()


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"labels/a.txt": "0 1 1 1 1"}, "no data.yaml and no classes.txt that names the classes"),
        ({"labels/a.txt": "0 1 1 1 1\nx 1 1 1 1", "data.yaml": "names: [cat]"}, r"a\.txt: line 2 is no box"),
        ({"labels/a.txt": "0 1 1", "data.yaml": "names: [cat]"}, r"a\.txt: line 1 is no box"),
        (
            {"labels/a.txt": "7 1 1 1 1", "classes.txt": "cat"},
            r"line 1: no class has the number 7 \(there are 1\)",
        ),
        ({"labels/a.txt": "9" * 6000 + " 1 1 1 1", "classes.txt": "cat"}, "no class has the number 9999"),
        ({"labels/a.txt": "0 1 1 1 1", "data.yaml": "names: 5"}, r"data\.yaml: names must be a list of classes"),
        ({"labels/a.txt": "0 1 1 1 1", "data.yaml": "names: [[cat]]"}, "names must be a list of classes"),
        ({"labels/a.txt": "0 1 1 1 1", "data.yaml": "names: ["}, r"data\.yaml: not readable as YAML"),
        ({"labels/a.txt": "0 1 1 1 1", "data.yaml": "[" * 400}, r"data\.yaml: not readable as YAML"),
        ({"Annotations/a.xml": "<annotation><object/></annotation>"}, r"a\.xml: an object has no name"),
        ({"Annotations/a.xml": "<annotation>", "Annotations/b.xml": "<x/>"}, r"a\.xml: not readable as XML"),
        ({"Annotations/a.xml": "<annotation/>", "Annotations/b.xml": "<x/>"}, r"b\.xml: begins with <x>, not"),
    ],
)
def test_a_damaged_folder_of_documents_is_named(tmp_path: Path, files: dict[str, str], message: str) -> None:
    write_pictures(tmp_path / "images", ["a.png", "b.png"])
    for name, content in files.items():
        write(tmp_path / name, content)
    for look in (open_source, lambda path: list(read_annotations(path))):
        with pytest.raises(UserError, match=message) as error:
            look(tmp_path)
        assert str(error.value).isprintable()


def iter_changed(data: Any) -> Iterator[Any]:
    """Yield the document once for each place and each wrong value in it."""
    places = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, inner in places:
        for value in WRONG_VALUES:
            changed = copy.copy(data)
            changed[key] = value
            yield changed
        for changed_inner in iter_changed(inner):
            changed = copy.copy(data)
            changed[key] = changed_inner
            yield changed


@pytest.mark.parametrize("name", ["COCO", "Label Studio", "Label Studio boxes", "Label Studio min", "FiftyOne"])
def test_no_wrong_value_at_any_place_is_an_error_of_the_program(tmp_path: Path, name: str) -> None:
    path = FORMATS[name][1](tmp_path, {"a.png": ["cat"], "b.png": ["dog", "cat"]})
    num = num_refused = 0
    for num, document in enumerate(iter_changed(json.loads(path.read_text())), start=1):  # noqa: B007
        path.write_text(json.dumps(document))
        try:
            source = open_source(path, require_classes=False)
            assert len([image.label for image in source]) == len(source) and source.describe()
        except UserError as error:
            num_refused += 1
            assert str(path) in str(error)
    assert num > 100 and num_refused > 20


def test_no_cut_of_an_xml_document_is_an_error_of_the_program(tmp_path: Path) -> None:
    path = FORMATS["CVAT"][1](tmp_path, {"a.png": ["cat"], "b.png": ["dog"]})
    content = path.read_bytes()
    for end in range(0, len(content), 7):
        path.write_bytes(content[:end])
        with pytest.raises(UserError, match="not readable as XML"):
            open_source(path)


def test_a_document_that_is_too_large_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_documents, "MAX_DOCUMENT_BYTES", 100)
    with pytest.raises(UserError, match=r"x\.json: a file of 0 MB; at most 0 MB are read: split it"):
        open_source(write(tmp_path / "x.json", COCO))


def test_a_separator_in_the_name_of_a_label_is_named_with_the_document(tmp_path: Path) -> None:
    path = FORMATS["COCO"][1](tmp_path, {"a.png": ["cat|dog", "x"], "b.png": ["y"]})
    with pytest.raises(UserError, match=rf"^{path}: images/a\.png: the label 'cat|dog' .* holds '|'"):
        open_source(path)
