from __future__ import annotations

from pathlib import Path

import pytest

from imageset.exceptions import UserError
from imageset.sources.factory import open_source
from tests.helpers.images import encode_noise

LINES = "path,label\na.png,cat\nb.png,Käfer\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number, name in enumerate(("a", "b")):
        (tmp_path / f"{name}.png").write_bytes(encode_noise(number))
    return tmp_path


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (LINES.encode(), ""),
        (LINES.encode("utf-8-sig"), ""),
        (LINES.encode("cp1252"), "read as Windows-1252 since it is not UTF-8"),
        (LINES.encode("utf-16"), "in UTF-16"),
        (LINES.encode("utf-16-le"), "in UTF-16"),
        (LINES.encode("utf-16-be"), "in UTF-16"),
        (LINES.replace(",", "\t").encode("utf-16"), "in UTF-16; separated by tabs"),
        (LINES.replace(",", ";").encode(), "separated by semicolons"),
        (LINES.replace(",", "\t").encode(), "separated by tabs"),
        (LINES.replace(",", "|").encode(), "separated by '|'"),
        (b"sep=;\r\n" + LINES.replace(",", ";").replace("\n", "\r\n").encode(), "separated by semicolons"),
        ("path;label;note\na.png;cat;0,5\nb.png;Käfer;fine, so far\n".encode(), "separated by semicolons"),
        ('path;label,note\na.png;cat\n"b.png";Käfer\n'.replace("label,note", "label").encode(), "semicolons"),
        (" Path , LABEL \na.png,cat\nb.png,Käfer\n".encode(), "path: Path, label: LABEL"),
        ("Image Path,Class-Name\na.png,cat\nb.png,Käfer\n".encode(), "path: Image Path, label: Class-Name"),
        ("path,label\na.png,cat,,\nb.png,Käfer\n".encode(), "1 row with empty cells at the end"),
        ("path,label,,\na.png,cat,,\nb.png,Käfer,,\n".encode(), ""),
        ("path,label,note\na.png,cat\nb.png,Käfer,x\n".encode(), "1 row filled up with empty cells"),
        ("path,label\na.png,cat\n,\n\n , \nb.png,Käfer\n,\n".encode(), "passed over: 3 empty rows"),
        (",path,label\n0,a.png,cat\n1,b.png,Käfer\n2,,\n".encode(), "passed over: 1 empty row"),
        ('path,label,note\na.png,cat,"two\nlines"\nb.png,Käfer,x,\n'.encode(), "1 row with empty cells"),
        (LINES.encode("cp1252") + b"\xe4.png,K\xe4fer\n" * 20_000, "read as Windows-1252"),
    ],
)
def test_a_table_as_other_programs_write_it_is_read_and_said(folder: Path, content: bytes, said: str) -> None:
    (folder / "t.csv").write_bytes(content)
    source = open_source(folder / "t.csv")
    images = [image for image in source if not image.uri.startswith("ä")]
    assert [image.uri for image in images] == ["a.png", "b.png"]
    assert images[0].read() == encode_noise(0) and images[0].label == "cat"
    assert images[1].label == "Käfer"
    assert said in source.describe()
    if not said:
        assert source.describe().endswith("columns path: path, label: label")


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (
            "path,label\na.png,cat\nb.png,dog,big\n",
            "line 3 has 3 cells and the header 2: b.png,dog,big; put a cell",
        ),
        ("label,label,path\nx,y,a.png\n", "2 columns are called 'label'; rename all but one"),
    ],
)
def test_a_table_that_can_be_read_in_two_ways_is_not(folder: Path, content: str, why: str) -> None:
    (folder / "t.csv").write_text(content)
    with pytest.raises(UserError, match=why):
        open_source(folder / "t.csv")


def test_json_lines_of_a_windows_program_are_read(folder: Path) -> None:
    text = '{"path": "a.png", "label": "cat"}\n{"path": "b.png", "label": "Käfer"}\n'
    for encoding in ("utf-8-sig", "utf-16"):
        (folder / "t.jsonl").write_bytes(text.encode(encoding))
        assert [image.label for image in open_source(folder / "t.jsonl")] == ["cat", "Käfer"]


def test_a_cell_in_quotes_may_hold_the_delimiter_and_stays_empty_text(folder: Path) -> None:
    (folder / "t.csv").write_text('path,label\na.png,"x,y"\nb.png,""\na.png,\n')
    assert [image.label for image in open_source(f"{folder / 't.csv'}?separator=,")] == ["x|y", "", None]
