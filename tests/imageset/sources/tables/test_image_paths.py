from __future__ import annotations

from pathlib import Path

import pytest

from imageset.exceptions import UserError
from imageset.rejections import Rejected
from imageset.sources.factory import open_source
from imageset.sources.table import TableSource
from tests.helpers.images import encode_noise

FILES = ("img/a.png", "img/b c.png", "img/Käfer.jpg", "img/up/same.png", "img/down/same.png", "d.png")


def write_files(folder: Path, names: tuple[str, ...] = FILES) -> dict[str, bytes]:
    contents = {name: encode_noise(number) for number, name in enumerate(names)}
    for name, data in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return contents


def open_paths(table: Path, paths: list[str], query: str = "") -> TableSource:
    table.write_text("path;label\n" + "".join(f'"{path}";{number % 2}\n' for number, path in enumerate(paths)))
    source = open_source(f"{table}{query}", require_classes=False)
    assert isinstance(source, TableSource)
    return source


@pytest.mark.parametrize(
    ("path", "file", "repairs"),
    [
        ("img/a.png", "img/a.png", None),
        (" img/a.png ", "img/a.png", "blanks around them removed"),
        (r"img\a.png", "img/a.png", "backslashes read as slashes"),
        (r".\img\b c.png", "img/b c.png", "backslashes read as slashes"),
        ("img/b%20c.png", "img/b c.png", "percent signs decoded"),
        (r"IMG\b%20c.PNG", "img/b c.png", "percent signs decoded 1, found in another case"),
        ("img/a.PNG", "img/a.png", "found in another case or Unicode form"),
        ("img/Ka\u0308fer.jpg", "img/Käfer.jpg", "found in another case or Unicode form"),
        ("img/a", "img/a.png", "an ending added"),
        ("a.png", "img/a.png", "found by name in a folder below"),
        ("a", "img/a.png", "an ending added 1, found by name in a folder below"),
        (r"C:\Users\me\project\img\a.png", "img/a.png", "their beginning left out"),
        (r"\\server\share\img\a.png", "img/a.png", "their beginning left out"),
        ("/home/me/img/up/same.png", "img/up/same.png", "their beginning left out"),
        ("/somewhere/else/d.png", "d.png", "their beginning left out"),
        ("project/img/a.png", "img/a.png", "their beginning left out"),
        ("./img/x/../a.png", "img/a.png", None),
    ],
)
def test_a_path_as_another_system_writes_it_finds_its_file(
    tmp_path: Path, path: str, file: str, repairs: str | None
) -> None:
    contents = write_files(tmp_path)
    (tmp_path / "img/x").mkdir()
    source = open_paths(tmp_path / "t.csv", [path, "img/down/same.png"])
    first, _ = source
    assert first.read() == contents[file]
    assert ("1 path repaired" in source.describe()) == bool(repairs)
    if repairs:
        assert repairs in source.describe() and f"' is {file}" in source.describe()
        assert first.uri == file


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("same.png", "2 files have that name, such as img/down/same.png and img/up/same.png"),
        ("gone.png", r"no such file; \?root=FOLDER"),
        ("gone", r"the path has no ending; \?ending=.png adds one"),
        ("other/a.png", r"no such file; img/a.png has that name; \?root="),
        ("../a.png", "is outside the table's folder, in a folder above it; img/a.png has that name"),
        (r"..\gone.png", r"is outside the table's folder, in a folder above it; \?root="),
        (r"D:\gone.png", "is outside the table's folder, as if from another machine or folder"),
        ("/etc/passwd", "is outside the table's folder, as if from another machine or folder"),
        ("https://there.org/a.png", "a URL: only files below the table's folder are read"),
        ("img", "no such file, and the path has no ending"),
        ("x" * 3000 + ".png", "no such file"),
    ],
)
def test_a_path_without_one_file_says_what_it_looks_like(tmp_path: Path, path: str, why: str) -> None:
    write_files(tmp_path)
    source = open_paths(tmp_path / "t.csv", [path, "d.png"])
    with pytest.raises(Rejected, match=why):
        next(iter(source)).read()
    assert "1 of 2 paths have no file: '" in source.describe()


def test_paths_of_several_folders_are_not_cut_to_one_file(tmp_path: Path) -> None:
    write_files(tmp_path, ("1.png", "2.png"))
    source = open_paths(tmp_path / "t.csv", ["/x/train/1.png", "/x/test/1.png", "/x/train/2.png"])
    for image in source:
        with pytest.raises(Rejected, match=r"[12]\.png has that name, but paths of several folders end so"):
            image.read()
    plain_too = open_paths(tmp_path / "t.csv", ["/x/test/1.png", "1.png"])
    assert "1 of 2 paths have no file" in plain_too.describe() and next(iter(plain_too)).uri == "/x/test/1.png"


@pytest.mark.parametrize(
    ("query", "path"),
    [
        ("?root=../pictures", "img/a.png"),
        ("?root=../pictures/img", "a.png"),
        ("?root=../pictures", "../pictures/img/a.png"),
        ("?root=..", "../pictures/img/a.png"),
        ("?root=../pictures/img&ending=png", "a"),
        ("?root=../pictures&ending=.png", r"img\a"),
    ],
)
def test_root_and_ending_name_the_files(tmp_path: Path, query: str, path: str) -> None:
    contents = write_files(tmp_path / "pictures")
    (tmp_path / "meta").mkdir()
    source = open_paths(tmp_path / "meta" / "t.csv", [path, path], query)
    assert next(iter(source)).read() == contents["img/a.png"]


def test_a_root_that_is_no_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"\?root=gone: no such folder in .*; root is a folder relative to"):
        open_paths(tmp_path / "t.csv", ["a.png", "b.png"], "?root=gone")


def test_a_link_out_of_the_folder_is_not_read_under_any_spelling(tmp_path: Path) -> None:
    write_files(tmp_path, ("secret.png", "set/x.png"))
    (tmp_path / "set/link.png").symlink_to(tmp_path / "secret.png")
    for path in ("link.png", "link.PNG", r"C:\link.png", "link"):
        with pytest.raises(Rejected, match="outside the table's folder"):
            next(iter(open_paths(tmp_path / "set" / "t.csv", [path, path]))).read()
