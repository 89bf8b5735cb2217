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
        "a file": "not a folder",
    }[make]
    with pytest.raises(UserError, match=message):
        open_source(folder)


def test_a_folder_inside_a_folder_is_pointed_out(tmp_path: Path) -> None:
    make_image_folder(tmp_path / "outer" / "inner", num_each=1)
    with pytest.raises(UserError, match=r"did you mean .*outer/inner\?"):
        open_source(tmp_path / "outer")
