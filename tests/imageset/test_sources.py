from __future__ import annotations

import gzip
import os
import struct
import subprocess
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from imageset.decode import DecodeSpec, decode
from imageset.errors import UserError
from imageset.quality import Rejected
from imageset.sources import find_pictures, open_source, slug
from tests.imageset.pictures import make_folder, noise


def write_idx(path: Path, values: np.ndarray, zipped: bool = False) -> None:
    header = struct.pack(">HBB", 0, 8, values.ndim) + struct.pack(f">{values.ndim}I", *values.shape)
    data = header + values.tobytes()
    path.write_bytes(gzip.compress(data) if zipped else data)


def test_a_folder_gives_one_class_a_sub_folder(tmp_path: Path) -> None:
    source = open_source(make_folder(tmp_path / "My Insects", num_each=3))
    assert source.name == "my-insects" and source.kind == "folder"
    assert [(one.uri, one.label, one.split) for one in source][:2] == [
        ("ant/0000.png", "ant", None),
        ("ant/0001.png", "ant", None),
    ]
    assert "6 pictures in 2 classes" in source.describe()


def test_pictures_deeper_down_belong_to_the_top_folder(tmp_path: Path) -> None:
    make_folder(tmp_path / "set", num_each=1)
    make_folder(tmp_path / "set" / "ant", classes=("day", "night"), num_each=1)
    assert Counter(one.label for one in open_source(tmp_path / "set")) == {"ant": 3, "bee": 1}


def test_folders_named_like_splits_are_splits(tmp_path: Path) -> None:
    for split in ("train", "Valid", "test"):
        make_folder(tmp_path / "set" / split, num_each=1)
    found = [(one.split, one.label) for one in open_source(tmp_path / "set")]
    assert sorted(found) == [(split, label) for split in ("test", "train", "val") for label in ("ant", "bee")]


def test_endings_count_in_any_case_and_other_files_are_passed_over(tmp_path: Path) -> None:
    for name in ("a.JPG", "b.Jpeg", "c.TIFF", "d.webp", "notes.txt", ".hidden.jpg"):
        (tmp_path / name).touch()
    passed_over: Counter[str] = Counter()
    assert [file.uri for file in find_pictures(tmp_path, passed_over)] == ["a.JPG", "b.Jpeg", "c.TIFF", "d.webp"]
    assert passed_over == {"files of other kinds": 1, "hidden": 1}


def test_links_loops_and_fifos_are_never_followed(tmp_path: Path) -> None:
    (tmp_path / "real.jpg").write_bytes(b"x")
    (tmp_path / "passwd.jpg").symlink_to("/etc/passwd")
    (tmp_path / "root").symlink_to("/")
    (tmp_path / "again").symlink_to(tmp_path)
    os.mkfifo(tmp_path / "fifo.jpg")
    passed_over: Counter[str] = Counter()
    assert [file.uri for file in find_pictures(tmp_path, passed_over)] == ["real.jpg"]
    assert passed_over == {"links": 3, "devices, sockets and FIFOs": 1}


def test_names_that_are_not_utf8_are_shown_and_stay_unique(tmp_path: Path) -> None:
    for name in (b"bad\xff.jpg", rb"bad\xff.jpg", b"new\nline.jpg", "ñ.jpg".encode()):
        Path(os.fsdecode(bytes(tmp_path) + b"/" + name)).write_bytes(b"x")
    found = {file.uri for file in find_pictures(tmp_path)}
    assert found == {"bad\\xff.jpg", "bad\\\\xff.jpg", "new\nline.jpg", "ñ.jpg"}
    assert all(file.read() == b"x" for file in find_pictures(tmp_path))


def test_a_file_too_large_to_be_a_picture_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "sparse.jpg").open("wb") as file:
        file.truncate(20_000_000_000)
    (picture,) = find_pictures(tmp_path)
    with pytest.raises(Rejected, match="20,000 MB"):
        picture.read()


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
        make_folder(folder, classes=("ant",), num_each=2)
    if make == "empty class":
        (folder / "wasp").mkdir()
    if make == "no class":
        (folder / "a.png").write_bytes(noise(1))
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
    make_folder(tmp_path / "outer" / "inner", num_each=1)
    with pytest.raises(UserError, match=r"did you mean .*outer/inner\?"):
        open_source(tmp_path / "outer")


@pytest.mark.parametrize("zipped", [False, True])
def test_idx_files_give_their_pictures_labels_and_splits(tmp_path: Path, zipped: bool) -> None:
    ending = ".gz" if zipped else ""
    pixels = np.random.default_rng(0).integers(0, 256, (6, 9, 7), np.uint8)
    for name in ("train", "t10k"):
        write_idx(tmp_path / f"{name}-images-idx3-ubyte{ending}", pixels, zipped)
        write_idx(tmp_path / f"{name}-labels-idx1-ubyte{ending}", np.array([3, 4, 3, 4, 3, 4], np.uint8), zipped)
    source = open_source(tmp_path)
    pictures = list(source)
    assert source.kind == "idx" and Counter((one.split, one.label) for one in pictures) == {
        ("train", "3"): 3,
        ("train", "4"): 3,
        ("test", "3"): 3,
        ("test", "4"): 3,
    }
    spec = DecodeSpec(7, 1, "crop", "nearest", 10**6)
    np.testing.assert_array_equal(decode(pictures[5].read(), spec)[..., 0], pixels[5, 1:8])


def test_damaged_idx_files_are_named(tmp_path: Path) -> None:
    write_idx(tmp_path / "train-images-idx3-ubyte", np.zeros((4, 5, 5), np.uint8))
    with pytest.raises(UserError, match="labels are missing; put train-labels-idx1-ubyte beside it"):
        open_source(tmp_path)
    write_idx(tmp_path / "train-labels-idx1-ubyte", np.zeros(3, np.uint8))
    with pytest.raises(UserError, match="4 pictures, but train-labels-idx1-ubyte has 3 labels"):
        open_source(tmp_path)
    write_idx(tmp_path / "train-labels-idx1-ubyte", np.array([0, 1, 0, 1], np.uint8))
    (tmp_path / "train-images-idx3-ubyte").write_bytes((tmp_path / "train-images-idx3-ubyte").read_bytes()[:-1])
    with pytest.raises(UserError, match="99 bytes where 100 are announced"):
        list(open_source(tmp_path))


def test_the_digits_need_no_files() -> None:
    source = open_source("sklearn://digits")
    assert len(source) == 1797 and source.name == "digits"
    first = next(iter(source))
    assert first.label == "0" and decode(first.read(), DecodeSpec(8, 1, "crop", "nearest", 100)).max() == 239


def test_the_digits_are_written_once(tmp_path: Path) -> None:
    from imageset.digits import write_digits

    assert write_digits(tmp_path / "digits", tmp_path / "inbox") == (1797, 0)
    assert write_digits(tmp_path / "digits", tmp_path / "inbox") == (0, 1797)
    assert len(list((tmp_path / "inbox").iterdir())) == 179
    assert len(open_source(tmp_path / "digits")) == 1618


def test_a_slug_is_fit_for_a_name() -> None:
    assert [slug(name) for name in ("My Flowers (2)", "___", "Ä")] == ["my-flowers-2", "dataset", "dataset"]


def test_a_chain_of_a_thousand_folders_is_walked(tmp_path: Path) -> None:
    depth = 1500
    here = os.open(tmp_path, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(os.open("a.png", os.O_WRONLY | os.O_CREAT, dir_fd=here))
    os.close(here)
    (picture,) = find_pictures(tmp_path)
    assert picture.uri == "d/" * depth + "a.png"
    subprocess.run(["rm", "-rf", str(tmp_path / "d")], check=True)  # too deep for Python's own removal
