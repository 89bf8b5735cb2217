"""Tables of strangers: what is wrong in a row costs that row, and what is wrong with the table is one line."""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from imageset.exceptions import UserError
from imageset.rejections import Rejected
from imageset.sources import columns
from imageset.sources.table import open_table
from imageset.sources.tables import flags
from imageset.sources.tables.image_paths import LocalFolder
from tests.helpers.images import encode_noise

PICTURES = ("0.png", "1.png", "2.png", "3.png")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of four pictures, among links that lead in a circle or out of it."""
    inside = tmp_path / "set"
    inside.mkdir()
    for number, name in enumerate(PICTURES):
        (inside / name).write_bytes(encode_noise(number))
    (tmp_path / "secret.png").write_bytes(encode_noise(9))
    (inside / "loop.png").symlink_to("loop.png")
    (inside / "escape.png").symlink_to("../secret.png")
    (inside / "inside.png").symlink_to("0.png")
    (inside / "up").symlink_to("..")
    os.mkfifo(inside / "fifo.png")
    return inside


def read_outcomes(table: Path) -> list[str]:
    """Return "read" for each row whose picture is read, else the reason of its rejection."""
    outcomes = []
    for image in open_table(str(table)):
        try:
            outcomes.append("read" if image.read() else "")
        except Rejected as rejected:
            outcomes.append(rejected.reason)
    return outcomes


HOSTILE_PATHS = (
    "x" * 300 + ".png", "d" * 300 + "/x.png", "0.png/x.png", "a\0b.png", "nul\0/x.png", "loop.png",
    "loop.png/x.png", "escape.png", "up/secret.png", "../secret.png", "/etc/passwd", "//etc//passwd",
    "C:\\secret.png", "..%2fsecret.png",
    "/" * 100_000 + "x.png", "a/" * 50_000 + "x.png", "..", ".", "", " ", "fifo.png", "http://[::1", "\u202e0.png",
)  # fmt: skip


def test_no_path_of_a_table_ends_the_run_or_leaves_the_folder(folder: Path) -> None:
    paths = [*PICTURES, "inside.png", *HOSTILE_PATHS]
    labels = [str(number % 2) for number in range(len(paths))]
    pq.write_table(pa.table({"path": paths, "label": labels}), folder / "t.parquet")
    assert read_outcomes(folder / "t.parquet") == ["read"] * 5 + ["unreadable"] * len(HOSTILE_PATHS)


def test_links_in_a_circle_hide_no_other_file_of_their_folder(folder: Path) -> None:
    images = LocalFolder(folder)
    assert images.exists("0.png") and not images.exists("up") and images.read("0.png") == encode_noise(0)


def test_a_folder_is_resolved_once_however_many_rows_are_in_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, resolved = LocalFolder(folder), []
    realpath = os.path.realpath
    monkeypatch.setattr(os.path, "realpath", lambda path: resolved.append(path) or realpath(path))
    for _ in range(50):
        images.read("0.png")
    assert len(resolved) == 1


@pytest.mark.parametrize(
    "line",
    [
        "xx{{", "[1, 2]", '{"path": "1.png", "label": ' + "[" * 100_000 + "]" * 100_000 + "}",
        '{"path": "1.png", "label": ' + "9" * 5_000, '{"path": "\\ud800.png", "label": "b"}',
    ],
)  # fmt: skip
def test_a_damaged_line_of_json_costs_one_row(folder: Path, line: str) -> None:
    sound = [
        '{"path": "0.png", "label": "a"}',
        line,
        '{"path": "2.png", "label": "b"}',
        '{"path": "3.png", "label": 7}',
    ]
    (folder / "t.jsonl").write_text("\n".join(sound))
    assert read_outcomes(folder / "t.jsonl") == ["read", "unreadable", "read", "read"]
    source = open_table(str(folder / "t.jsonl"))
    assert source.classes["7"] == 1 and len(source) == 4


NESTED = {
    "struct": [{"name": "a"}, {"name": "b"}] * 2,
    "list of structs": [[{"name": "a"}]] * 4,
    "list of lists": [[["a"]]] * 4,
    "bytes": [b"a", b"b"] * 2,
}


@pytest.mark.parametrize("kind", NESTED)
@pytest.mark.parametrize("role", ["label", "split"])
def test_cells_that_are_no_names_are_one_line(folder: Path, kind: str, role: str) -> None:
    cells = {"label": ["a", "b"] * 2} | {role: NESTED[kind]}
    pq.write_table(pa.table({"path": list(PICTURES), **cells}), folder / "t.parquet")
    with pytest.raises(
        UserError, match=rf"the column '{role}' holds .* in each cell, not a {role}; .*\?{role}=COLUMN"
    ):
        open_table(str(folder / "t.parquet"))


def test_values_that_arrow_cannot_count_are_labels_all_the_same(folder: Path) -> None:
    halves = pa.array([1.0, 2.0, 1.0, 2.0]).cast(pa.float16())
    pq.write_table(pa.table({"path": list(PICTURES), "label": halves}), folder / "t.parquet")
    assert len(open_table(str(folder / "t.parquet")).classes) == 2
    lists = pa.array([["a", None], ["b"], [None], ["a", "b"]])
    pq.write_table(pa.table({"path": list(PICTURES), "label": lists}), folder / "t.parquet")
    assert open_table(str(folder / "t.parquet")).classes == {"a": 2, "b": 2}


def test_what_stands_in_the_place_of_bytes_costs_the_row(folder: Path) -> None:
    images = [{"bytes": "text", "path": "x"}] * 4
    pq.write_table(pa.table({"image": images, "label": ["a", "b"] * 2}), folder / "t.parquet")
    assert read_outcomes(folder / "t.parquet") == ["unreadable"] * 4


def test_a_cell_of_megabytes_is_a_cell(folder: Path) -> None:
    (folder / "t.csv").write_text(f"path,label,note\n0.png,a,{'x' * 3_000_000}\n1.png,b,\n")
    assert read_outcomes(folder / "t.csv") == ["read", "read"]


def test_many_columns_are_not_all_named_in_a_message(folder: Path) -> None:
    (folder / "t.csv").write_text(",".join(f"c{number}" for number in range(3000)) + "\n" + "1," * 2999 + "1\n")
    with pytest.raises(UserError, match="c11 and 2,988 more") as raised:
        open_table(str(folder / "t.csv"))
    assert len(str(raised.value)) < 500


def test_two_columns_of_flags_with_one_name_are_one_line(folder: Path) -> None:
    (folder / "t.csv").write_text("path,x,x,z\n0.png,1,0,1\n1.png,0,1,0\n")
    with pytest.raises(UserError, match="2 columns are called 'x'"):
        open_table(str(folder / "t.csv"))


@pytest.mark.parametrize("is_one_hot", [True, False])
def test_a_column_for_each_label_is_read_in_one_piece_as_row_by_row(is_one_hot: bool) -> None:
    rows = [["1", "0", "0"], ["0", "TRUE ", "false"], [None, "", None], ["0", "0.0", "1.0"]]
    rows += [] if is_one_hot else [["1", "1", "0"], ["0", "0", "0"]]
    names = ["a", "b", "c"]
    batch = pa.RecordBatch.from_pydict({name: [row[number] for row in rows] for number, name in enumerate(names)})
    assert flags.is_one_hot([batch]) == is_one_hot
    encoded = pa.RecordBatch.from_arrays([column.dictionary_encode() for column in batch.columns], names)
    assert (flags.classify_flags(encoded) == flags.classify_flags(batch)).all()
    build = columns._build_one_hot_reader if is_one_hot else columns._build_flag_reader
    reader = build("t", tuple(names), *(() if is_one_hot else ("",)))
    expected = [reader.read(row) for row in batch.to_pylist()]
    assert reader.read_batch(batch) == expected
    assert expected[:4] == ["a", "b", None, "c"]


@pytest.mark.parametrize("cell", ["2", None, ""])
def test_a_cell_that_is_no_flag_is_named_as_row_by_row(cell: str | None) -> None:
    reader = columns._build_flag_reader("t", ("a", "b"), "")
    batch = pa.RecordBatch.from_pydict({"a": ["1", "0"], "b": ["0", cell]})
    with pytest.raises(UserError) as in_one_piece:
        reader.read_batch(batch)
    with pytest.raises(UserError) as by_rows:
        reader.read(batch.to_pylist()[1])
    assert str(in_one_piece.value) == str(by_rows.value)
