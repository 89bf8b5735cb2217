from __future__ import annotations

import os
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from imageset.rejections import Rejected
from imageset.sources.factory import open_source
from imageset.sources.files import find_images
from tests.helpers.images import encode_noise


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


def test_pictures_without_an_ending_are_known_by_their_content(tmp_path: Path) -> None:
    kinds = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "JPEG2000")
    for name, first in (("ant", 0), ("bee", 100)):
        (tmp_path / name).mkdir()
        for number, kind in enumerate(kinds):
            (tmp_path / name / f"IMG_{number}").write_bytes(encode_noise(first + number, kind=kind))
    (tmp_path / "ant" / "1.2.840.113").write_bytes(bytes(128) + b"DICM")
    for name in ("README", "list.bin", "page"):
        (tmp_path / "bee" / name).write_bytes(b"text" if name != "list.bin" else encode_noise(1))
    source = open_source(str(tmp_path))
    assert source.describe() == (
        f"{tmp_path}: 15 pictures in 2 classes (ant 8, bee 7); 15 pictures have no ending and are known by the "
        "content; passed over: 3 files of other kinds"
    )


def test_beside_pictures_with_an_ending_no_other_file_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ant.png").write_bytes(encode_noise(0))
    (tmp_path / "notes").write_bytes(encode_noise(1))
    monkeypatch.setattr(os, "open", None)
    passed_over: Counter[str] = Counter()
    assert [file.uri for file in find_images(tmp_path, passed_over)] == ["ant.png"]
    assert passed_over == {"files of other kinds": 1}
