from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from imageset.exceptions import UserError
from imageset.sources.factory import open_source
from tests.helpers.images import encode_noise, make_image_folder


def test_a_folder_gives_one_class_a_sub_folder(tmp_path: Path) -> None:
    source = open_source(make_image_folder(tmp_path / "My Insects", num_each=3))
    assert source.name == "my-insects" and source.kind == "folder"
    assert [(one.uri, one.label, one.split) for one in source][:2] == [
        ("ant/0000.png", "ant", None),
        ("ant/0001.png", "ant", None),
    ]
    assert "6 pictures in 2 classes" in source.describe()


def test_pictures_deeper_down_belong_to_the_top_folder(tmp_path: Path) -> None:
    make_image_folder(tmp_path / "set", num_each=1)
    make_image_folder(tmp_path / "set" / "ant", classes=("day", "night"), num_each=1)
    assert Counter(one.label for one in open_source(tmp_path / "set")) == {"ant": 3, "bee": 1}


def test_folders_named_like_splits_are_splits(tmp_path: Path) -> None:
    for split in ("train", "Valid", "test"):
        make_image_folder(tmp_path / "set" / split, num_each=1)
    found = [(one.split, one.label) for one in open_source(tmp_path / "set")]
    assert sorted(found) == [(split, label) for split in ("test", "train", "val") for label in ("ant", "bee")]


@pytest.mark.parametrize(
    "make", ["nothing", "empty", "text only", "one class", "empty class", "no class", "a file"]
)
def test_a_folder_that_cannot_be_learned_from_is_explained(tmp_path: Path, make: str) -> None:
    folder = tmp_path / "set"
    if make != "nothing":
        folder.mkdir()
    if make == "text only":
        (folder / "readme.txt").touch()
    if make in ("one class", "empty class"):
        make_image_folder(folder, classes=("ant",), num_each=2)
    if make == "empty class":
        (folder / "wasp").mkdir()
    if make == "no class":
        (folder / "a.png").write_bytes(encode_noise(1))
    if make == "a file":
        folder = tmp_path / "set.txt"
        folder.touch()
    message = {
        "nothing": "no such folder",
        "empty": "holds no pictures",
        "text only": "1 file of another kind",
        "one class": "a single class 'ant'",
        "empty class": "wasp: the class folder is empty",
        "no class": "in no class folder",
        "a file": "a text file is not read as a table",
    }[make]
    with pytest.raises(UserError, match=message):
        open_source(folder)


def test_a_folder_inside_a_folder_is_pointed_out(tmp_path: Path) -> None:
    make_image_folder(tmp_path / "outer" / "inner", num_each=1)
    with pytest.raises(UserError, match=r"did you mean .*outer/inner\?"):
        open_source(tmp_path / "outer")


def test_folders_without_pictures_beside_two_classes_are_only_a_warning(tmp_path: Path) -> None:
    folder = make_image_folder(tmp_path / "set", num_each=1)
    (folder / "docs").mkdir()
    (folder / "docs" / "notes.txt").touch()
    (folder / "wasp").mkdir()
    source = open_source(folder)
    assert source.warnings == ["2 folders hold no pictures: docs, wasp"] and "docs, wasp" in source.describe()
    for split in ("train", "test"):
        make_image_folder(tmp_path / "splits" / split, num_each=1)
        (tmp_path / "splits" / split / "wasp").mkdir()
    (tmp_path / "splits" / "docs").mkdir()
    assert open_source(tmp_path / "splits").warnings == ["2 folders hold no pictures: test/wasp, train/wasp"]


def test_folders_of_systems_and_drives_are_passed_over_and_counted(tmp_path: Path) -> None:
    folder = make_image_folder(tmp_path / "set", num_each=1)
    names = ("@eaDir", "#recycle", "$RECYCLE.BIN", "System Volume Information", "lost+found", "__MACOSX", "THMBNL")
    for name in (*names, ".Trash-1000", "ant/@eaDir/0000.png"):
        (folder / name).mkdir(parents=True)
        (folder / name / "thumbnail.jpg").write_bytes(encode_noise(1))
    (folder / "bee" / "SYNOPHOTO_THUMB_M.jpg").write_bytes(encode_noise(1))
    source = open_source(folder)
    assert source.classes == {"ant": 1, "bee": 1} and source.warnings == []
    expected = {f"system folders ({name})": 1 for name in names} | {"system folders (@eaDir)": 2, "hidden": 1}
    assert source.passed_over == expected | {"thumbnails of network drives": 1}
    assert "1 system folder (lost+found)" in source.describe()


@pytest.mark.parametrize(
    ("make", "message", "left_out"),
    [
        ("class", "set/wasp: the class folder is a link", "wasp"),
        ("broken", "set/wasp: the class folder is a link", "wasp"),
        ("split class", "set/train/wasp: the class folder is a link", "train/wasp"),
        ("split", "set/test: the class folder is a link", "test"),
        ("pictures", "set/wasp: all 2 pictures of the class folder are links", "wasp"),
        ("pictures below", "set/wasp: all 2 pictures of the class folder are links", "wasp"),
    ],
)
def test_a_class_folder_of_links_is_named_with_the_way_to_leave_it_out(
    tmp_path: Path, make: str, message: str, left_out: str
) -> None:
    store = make_image_folder(tmp_path / "store", classes=("wasp",), num_each=2) / "wasp"
    folder = tmp_path / "set"
    make_image_folder(folder / "train" if "split" in make else folder, num_each=1)
    if make.startswith("pictures"):
        inside = folder / "wasp" / "more" if "below" in make else folder / "wasp"
        inside.mkdir(parents=True)
        for file in store.iterdir():
            (inside / file.name).symlink_to(file)
    else:
        (folder / left_out).symlink_to(store if make != "broken" else tmp_path / "nowhere")
    with pytest.raises(UserError, match=message) as caught:
        open_source(folder)
    assert str(caught.value).endswith(f"set?ignore={left_out}'")
    assert set(open_source(f"{folder}?ignore={left_out}").classes) == {"ant", "bee"}


def test_links_among_the_pictures_of_a_class_are_only_counted(tmp_path: Path) -> None:
    folder = make_image_folder(tmp_path / "set", num_each=1)
    (folder / "ant" / "again.png").symlink_to(folder / "bee" / "0000.png")
    (folder / "ant" / "more").symlink_to(folder / "bee")
    (folder / "readme.txt").symlink_to(folder / "bee" / "0000.png")
    assert open_source(folder).passed_over == {"links": 3}


def test_a_level_that_no_picture_reaches_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no picture lies 3 levels of folders deep"):
        open_source(f"{make_image_folder(tmp_path / 'set', num_each=1)}?level=3")
