from __future__ import annotations

import os
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from imageset.rejections import Rejected
from imageset.sources.files import find_images


def test_endings_count_in_any_case_and_other_files_are_passed_over(tmp_path: Path) -> None:
    for name in ("a.JPG", "b.Jpeg", "c.TIFF", "d.webp", "notes.txt", ".hidden.jpg"):
        (tmp_path / name).touch()
    passed_over: Counter[str] = Counter()
    assert [file.uri for file in find_images(tmp_path, passed_over)] == ["a.JPG", "b.Jpeg", "c.TIFF", "d.webp"]
    assert passed_over == {"files of other kinds": 1, "hidden": 1}


def test_links_loops_and_fifos_are_never_followed(tmp_path: Path) -> None:
    (tmp_path / "real.jpg").write_bytes(b"x")
    (tmp_path / "passwd.jpg").symlink_to("/etc/passwd")
    (tmp_path / "root").symlink_to("/")
    (tmp_path / "again").symlink_to(tmp_path)
    os.mkfifo(tmp_path / "fifo.jpg")
    passed_over: Counter[str] = Counter()
    assert [file.uri for file in find_images(tmp_path, passed_over)] == ["real.jpg"]
    assert passed_over == {"links": 3, "devices, sockets and FIFOs": 1}


def test_names_that_are_not_utf8_are_shown_and_stay_unique(tmp_path: Path) -> None:
    for name in (b"bad\xff.jpg", rb"bad\xff.jpg", b"new\nline.jpg", "ñ.jpg".encode()):
        Path(os.fsdecode(bytes(tmp_path) + b"/" + name)).write_bytes(b"x")
    found = {file.uri for file in find_images(tmp_path)}
    assert found == {"bad\\xff.jpg", "bad\\\\xff.jpg", "new\nline.jpg", "ñ.jpg"}
    assert all(file.read() == b"x" for file in find_images(tmp_path))


def test_a_file_too_large_to_be_a_picture_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "sparse.jpg").open("wb") as file:
        file.truncate(20_000_000_000)
    (picture,) = find_images(tmp_path)
    with pytest.raises(Rejected, match="20,000 MB"):
        picture.read()


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
    (picture,) = find_images(tmp_path)
    assert picture.uri == "d/" * depth + "a.png"
    subprocess.run(["rm", "-rf", str(tmp_path / "d")], check=True)  # too deep for Python's own removal
