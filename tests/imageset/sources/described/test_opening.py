"""Pictures in no class folder that tables or annotations beside them describe: folders, archives and buckets."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import fsspec
import pytest

from imageset.exceptions import UserError
from imageset.raw.ingestion import ingest_source
from imageset.raw.records import read_records
from imageset.rejections import Rejected
from imageset.sources.factory import open_source
from imageset.sources.remote import source as remote_source
from tests.helpers.annotations import FORMATS, build_coco, write, write_pictures
from tests.helpers.datasets import pack_folder
from tests.helpers.images import make_image_folder
from tests.helpers.servers import serve_http

CLASSES = ("cat", "dog")
SPLITS = {"train": 0, "valid": 10, "test": 20}  # the number of the first picture of each


def write_csv(path: Path, *rows: Sequence[object]) -> None:
    write(path, "".join(",".join(map(str, row)) + "\n" for row in rows))


def add_pictures(folder: Path, first: int = 0, num: int = 4) -> list[str]:
    names = [f"p{number}.png" for number in range(first, first + num)]
    write_pictures(folder, names)
    return names


def add_table(path: Path, names: Sequence[str], header: Sequence[str] = ("file_name", "label")) -> None:
    write_csv(path, header, *((name, CLASSES[number % 2]) for number, name in enumerate(names)))


def hugging_face(root: Path) -> None:
    for split in ("train", "test"):
        add_table(root / split / "metadata.csv", add_pictures(root / split, SPLITS[split]))


def same_names(root: Path) -> None:
    for split in ("train", "test"):
        add_table(root / split / "metadata.csv", add_pictures(root / split))


def hugging_face_once(root: Path) -> None:
    names = [
        f"{split}/{name}" for split in ("train", "test") for name in add_pictures(root / split, SPLITS[split])
    ]
    add_table(root / "metadata.csv", names)


def no_splits(root: Path) -> None:
    add_table(root / "metadata.csv", add_pictures(root))


def json_lines(root: Path) -> None:
    lines = [f'{{"file_name": "{name}", "label": {number % 2}}}' for number, name in enumerate(add_pictures(root))]
    write(root / "metadata.jsonl", "\n".join(lines))


def roboflow(root: Path) -> None:
    for split, first in SPLITS.items():
        rows = [(name, f" {number % 2}", f" {1 - number % 2}")
                for number, name in enumerate(add_pictures(root / split, first))]  # fmt: skip
        write_csv(root / split / "_classes.csv", ("filename", " cat", " dog"), *rows)


def roboflow_several(root: Path) -> None:
    for split, first in SPLITS.items():
        rows = [(name, number % 2, 1) for number, name in enumerate(add_pictures(root / split, first))]
        write_csv(root / split / "_classes.csv", ("filename", " cat", " dog"), *rows)


def names_in_images(root: Path) -> None:
    add_table(root / "labels.csv", add_pictures(root / "images"), ("image", "label"))


def windows_paths(root: Path) -> None:
    rows = [f"C:\\x\\img\\{name};{CLASSES[number % 2]}" for number, name in enumerate(add_pictures(root / "img"))]
    write(root / "Labels.CSV", "\n".join(["Image Path;Class Label", *rows]))


def tables_aside(root: Path) -> None:
    paths = [f"/home/me/set/img/{name}" for name in add_pictures(root / "img")]
    add_table(root / "meta/labels.csv", paths, ("path", "label"))


def kaggle(root: Path) -> None:
    add_table(root / "train.csv", [name[:-4] for name in add_pictures(root / "train")], ("id", "breed"))
    others = [name[:-4] for name in add_pictures(root / "test", 10, 6)]
    write_csv(root / "sample_submission.csv", ("id", *CLASSES), *((name, 0.5, 0.5) for name in others))


def kaggle_same_ids(root: Path) -> None:
    add_table(root / "train.csv", [name[:-4] for name in add_pictures(root / "train_images")], ("id", "breed"))
    write_csv(root / "test.csv", ["id"], *([name[:-4]] for name in add_pictures(root / "test_images", 0, 6)))


def tables_of_splits(root: Path) -> None:
    for split, first in SPLITS.items():
        add_table(root / f"{split}.csv", add_pictures(root / split, first), ("filename", "target"))


def tables_of_one_folder(root: Path) -> None:
    names = add_pictures(root / "images", 0, 6)
    add_table(root / "train.csv", names[:4])
    add_table(root / "test.csv", names[4:])


def unlabelled_test(root: Path) -> None:
    hugging_face(root)
    write_csv(root / "test/metadata.csv", ["file_name"], *([f"p{number}.png"] for number in range(20, 24)))


def coco(root: Path) -> None:
    FORMATS["COCO"][1](root, {"a.png": ["cat"], "b.png": ["dog"], "c.png": []})


def voc(root: Path) -> None:
    FORMATS["Pascal VOC"][1](root, {"a.png": ["cat"], "b.png": ["dog"], "c.png": []})


def yolo(root: Path) -> None:
    FORMATS["YOLO"][1](root, {"train/a.png": ["cat"], "val/b.png": ["dog"], "val/c.png": []})


TWO = {"train": 4, "test": 4}
THREE = {"train": 4, "val": 4, "test": 4}
READ: list[tuple[Callable[[Path], None], dict[str, int], dict[str, int], str]] = [
    (hugging_face, {"cat": 4, "dog": 4}, TWO, "labels from test/metadata.csv and train/metadata.csv"),
    (same_names, {"cat": 4, "dog": 4}, TWO, "labels from test/metadata.csv and train/metadata.csv"),
    (hugging_face_once, {"cat": 4, "dog": 4}, TWO, "labels from metadata.csv"),
    (no_splits, {"cat": 2, "dog": 2}, {}, "labels from metadata.csv"),
    (json_lines, {"0": 2, "1": 2}, {}, "labels from metadata.jsonl"),
    (roboflow, {"cat": 6, "dog": 6}, THREE, "test/_classes.csv, train/_classes.csv and valid/_classes.csv"),
    (roboflow_several, {"cat": 6, "dog": 12}, THREE, "multi-label, one column per label"),
    (names_in_images, {"cat": 2, "dog": 2}, {}, "labels from labels.csv; columns path: image, label: label"),
    (windows_paths, {"cat": 2, "dog": 2}, {}, r"'C:\x\img\p0.png' is img/p0.png"),
    (tables_aside, {"cat": 2, "dog": 2}, {}, "'/home/me/set/img/p0.png' is img/p0.png"),
    (kaggle, {"cat": 2, "dog": 2}, {}, "sample_submission.csv not used; columns path: id, label: breed"),
    (kaggle, {"cat": 2, "dog": 2}, {}, "passed over: 6 pictures that no row names"),
    (kaggle_same_ids, {"cat": 2, "dog": 2}, {}, "labels from train.csv; test.csv not used"),
    (tables_of_splits, {"cat": 6, "dog": 6}, THREE, "labels from test.csv, train.csv and valid.csv"),
    (tables_of_one_folder, {"cat": 3, "dog": 3}, {"train": 4, "test": 2}, "labels from test.csv and train.csv"),
    (unlabelled_test, {"cat": 2, "dog": 2}, {}, "labels from train/metadata.csv; test/metadata.csv not used"),
    (
        coco,
        {"cat": 1, "dog": 1},
        {},
        "COCO, labels from annotations/instances.json; one label a picture, from its",
    ),
    (voc, {"cat": 1, "dog": 1}, {}, "Pascal VOC, labels from Annotations/*.xml; one label a picture"),
    (
        yolo,
        {"cat": 1, "dog": 1},
        {"train": 1, "val": 1},
        "YOLO, labels from labels/train/*.txt and labels/val/*.txt",
    ),
]


def put_in_bucket(folder: Path) -> str:
    """Return the URL of a copy of a folder in the file system of fsspec that is in memory."""
    memory = fsspec.filesystem("memory")
    memory.store.clear()
    for file in folder.rglob("*"):
        if file.is_file():
            memory.pipe_file(f"/bucket/set/{file.relative_to(folder).as_posix()}", file.read_bytes())
    return "memory://bucket/set"


PLACES: dict[str, Callable[[Path], Any]] = {
    "folder": lambda folder: folder,
    "zip": lambda folder: pack_folder(folder, folder.parent / "set.zip"),
    "tar": lambda folder: pack_folder(folder, folder.parent / "set.tar", "some/where/"),
    "bucket": put_in_bucket,
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(("make", "classes", "splits", "said"), READ, ids=[make.__name__ for make, *_ in READ])
def test_pictures_are_read_through_what_describes_them(
    tmp_path: Path,
    make: Callable[[Path], None],
    classes: dict[str, int],
    splits: dict[str, int],
    said: str,
    place: str,
) -> None:
    make(tmp_path / "set")
    source = open_source(PLACES[place](tmp_path / "set"))
    assert (source.classes, source.splits, source.problem) == (classes, splits, None)
    if place != "tar":
        assert said in source.describe().replace("some/where/", "")
    uris = set()
    for image in source:
        name = image.uri.removeprefix("some/where/")
        uris.add(name)
        assert image.read() == (tmp_path / "set" / name).read_bytes()
    assert len(uris) == len(source)


@pytest.mark.parametrize("place", PLACES)
def test_an_ingest_packs_the_pictures_with_their_labels(tmp_path: Path, place: str) -> None:
    hugging_face(tmp_path / "set")
    summary = ingest_source(PLACES[place](tmp_path / "set"), tmp_path / "raw")
    assert summary.num_new == 8 and summary.classes == {"cat": 4, "dog": 4}
    rows = read_records(tmp_path / "raw").select(["uri", "label", "split"]).to_pylist()
    assert {"uri": "train/p1.png", "label": "dog", "split": "train"} in [
        row | {"uri": row["uri"].removeprefix("some/where/")} for row in rows
    ]


def two_tables(root: Path) -> None:
    names = add_pictures(root / "images")
    add_table(root / "labels.csv", [name[:-4] for name in names], ("id", "breed"))
    add_table(root / "metadata.csv", [f"images/{name}" for name in names])


def table_and_document(root: Path) -> None:
    names_in_images(root)
    write(root / "coco.json", build_coco({f"images/p{number}.png": [CLASSES[number % 2]] for number in range(4)}))


def two_sets_of_splits(root: Path) -> None:
    tables_of_splits(root)
    add_table(root / "all.csv", [f"{split}/p{first}.png" for split, first in SPLITS.items() for _ in "12"])


def unclear_label(root: Path) -> None:
    rows = [(name, CLASSES[number % 2], number) for number, name in enumerate(add_pictures(root / "images"))]
    write_csv(root / "labels.csv", ("image", "sex", "age"), *rows)


def captions(root: Path) -> None:
    rows = [(name, f"a cat on mat {number}") for number, name in enumerate(add_pictures(root, 0, 6))]
    write_csv(root / "metadata.csv", ("file_name", "text"), *rows)


def few_rows(root: Path) -> None:
    add_table(root / "labels.csv", add_pictures(root / "images", 0, 20)[:4], ("name", "breed"))


def doubtful_tree(root: Path) -> None:
    make_image_folder(root / "train", num_each=2)
    make_image_folder(root / "other", classes=("ant",), num_each=2, first=50)
    make_image_folder(root / "test", classes=("ant",), num_each=2)
    add_table(
        root / "labels.csv", [f"train/{name}/000{number}.png" for number in (0, 1) for name in ("ant", "bee")]
    )


@pytest.mark.parametrize(
    ("make", "message", "num_specs"),
    [
        (two_tables, r"labels\.csv and metadata\.csv each describe the pictures; give one of them: ", 2),
        (table_and_document, r"labels\.csv and coco\.json each describe the pictures; give one of them: ", 2),
        (unclear_label, r"which column is the label is not clear \(sex, age\); name it, for example ", 1),
        (captions, r"which column is the label is not clear \(text\); name it, for example ", 1),
        (
            few_rows,
            r"names only 4 of 20 pictures, and is not used; if the others are to be left out, give it itself: ",
            1,
        ),
        (doubtful_tree, r"folders like theirs; .*; to take the labels from labels\.csv: ", 1),
    ],
)
def test_what_is_unclear_stops_with_sources_that_work(
    tmp_path: Path, make: Callable[[Path], None], message: str, num_specs: int
) -> None:
    make(tmp_path / "set")
    with pytest.raises(UserError, match=message) as error:
        open_source(tmp_path / "set")
    specs = re.split(message, str(error.value))[-1].split(" or ")
    assert len(specs) == num_specs
    for spec in specs:
        (text,) = shlex.split(spec)
        source = open_source(text)
        assert len(source) >= 4 and next(iter(source)).read()
    archive = pack_folder(tmp_path / "set", tmp_path / "set.zip")
    with pytest.raises(UserError, match=r"\(unpack the archive first\)$"):
        open_source(archive)


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        ([("file", "label")], r"labels\.csv is not used: it holds no rows"),
        ([("file", "label"), ("x.png", "cat")], r"none of its columns \(file, label\) names the pictures"),
        ([("file", "label"), ("p0.png", ""), ("p1.png", "")], r"its column 'label' is empty"),
        ([("file",), ("p0.png",), ("p1.png",)], "it holds no column of labels"),
        (
            [("a", "b", "c"), ("p0.png", "p1.png", 1), ("p1.png", "p0.png", 2)],
            "several of its columns name pictures",
        ),
        ([("file", "label"), ("p0.png", "cat", "more")], r"labels\.csv: line 2 has 3 cells"),
    ],
)
def test_a_table_that_is_not_used_is_named_with_the_reason(
    tmp_path: Path, rows: list[tuple[str, ...]], why: str
) -> None:
    add_pictures(tmp_path / "set", 0, 2)
    write_csv(tmp_path / "set/labels.csv", *rows)
    with pytest.raises(UserError, match=rf"in no class folder.*{why}") as error:
        open_source(tmp_path / "set")
    assert "\n" not in str(error.value)


def test_class_folders_with_a_table_beside_them_stay_class_folders(tmp_path: Path) -> None:
    folder = make_image_folder(tmp_path / "set", num_each=2)
    add_table(folder / "labels.csv", ["ant/0000.png", "bee/0000.png"])
    add_table(folder / "ant/metadata.csv", ["0000.png", "0001.png"])
    source = open_source(folder)
    assert source.kind == "folder" and source.classes == {"ant": 2, "bee": 2}


def test_a_row_without_a_picture_is_counted_and_refused_by_name(tmp_path: Path) -> None:
    add_table(tmp_path / "set/labels.csv", [*add_pictures(tmp_path / "set/images"), "gone.png"])
    for place in ("folder", "zip"):
        source = open_source(PLACES[place](tmp_path / "set"))
        assert "1 of 5 paths have no file: 'gone.png': no such file" in source.describe()
        reasons = []
        for image in source:
            try:
                image.read()
            except Rejected as rejected:
                reasons.append((image.uri, rejected.reason))
        assert reasons == [("gone.png", "unreadable")]


def test_a_table_beside_the_folder_is_named_and_not_read(tmp_path: Path) -> None:
    names_in_images(tmp_path / "set")
    with pytest.raises(UserError, match=r"in no class folder.*; to take the labels from labels\.csv: ") as error:
        open_source(tmp_path / "set/images")
    (spec,) = shlex.split(str(error.value).rpartition(": ")[2])
    assert open_source(spec).classes == {"cat": 2, "dog": 2}


def test_a_document_for_each_picture_is_no_known_format(tmp_path: Path) -> None:
    for name in add_pictures(tmp_path, 0, 101):
        write(tmp_path / name.replace(".png", ".json"), {"shapes": [], "imagePath": name})
    with pytest.raises(UserError, match=r"in no class folder.*; 101 JSON documents, one a picture"):
        open_source(tmp_path)


def test_options_of_folders_decide_against_the_tables(tmp_path: Path) -> None:
    hugging_face(tmp_path)
    assert set(open_source(f"{tmp_path}?split_folders=none").classes) == {"test", "train"}


def test_a_prediction_takes_all_pictures_of_a_bucket_and_an_archive(tmp_path: Path) -> None:
    kaggle(tmp_path / "set")
    for place in ("folder", "zip", "bucket"):
        source = open_source(PLACES[place](tmp_path / "set"), require_classes=False, with_labels=False)
        assert len(source) == 10


def test_a_bucket_with_very_many_documents_says_how(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_source, "MAX_DOCUMENTS", 2)
    voc(tmp_path / "set")
    with pytest.raises(UserError, match="its 3 tables and annotations are too many to fetch one by one: copy the"):
        open_source(put_in_bucket(tmp_path / "set"))


@pytest.mark.parametrize("name", ["COCO", "CVAT", "Label Studio"])
def test_a_document_behind_a_url_names_pictures_beside_it(tmp_path: Path, name: str) -> None:
    document = FORMATS[name][1](tmp_path / "set", {"a.png": ["cat"], "b.png": ["dog"], "c.png": []})
    url = f"{put_in_bucket(tmp_path / 'set')}/{document.relative_to(tmp_path / 'set').as_posix()}"
    source = open_source(url)
    assert source.describe().startswith(f"{url}: 2 pictures in 2 classes (cat 1, dog 1); {name}")
    pictures = {image.label: image.read() for image in source}
    assert pictures == {"cat": (tmp_path / "set/images/a.png").read_bytes(),
                        "dog": (tmp_path / "set/images/b.png").read_bytes()}  # fmt: skip
    with serve_http() as site:
        site.add_folder(tmp_path / "set", "/set/")
        root = {"COCO": "?root=../images", "CVAT": "?root=images", "Label Studio": ""}[name]  # no listing finds it
        address = f"{site.url}/set/{document.relative_to(tmp_path / 'set').as_posix()}"
        assert {image.label: image.read() for image in open_source(address + root)} == pictures
