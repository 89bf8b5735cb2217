from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from imageset.exceptions import UserError
from imageset.sources.factory import open_source


def read_labels(folder: Path, cells: list[str], query: str = "") -> tuple[list[str | None], str]:
    table = folder / "t.csv"
    table.write_text("path,label\n" + "".join(f"{number}.png,{cell}\n" for number, cell in enumerate(cells)))
    source = open_source(f"{table}{query}")
    return [image.label for image in source], source.describe()


@pytest.mark.parametrize(
    ("cells", "labels", "said"),
    [
        (["cat", "dog"], ["cat", "dog"], ""),
        (["cat ", " dog", "cat"], ["cat", "dog", "cat"], "blanks around labels removed, as in ' dog'"),
        (["caf\u00e9", "cafe\u0301", "x"], ["café", "café", "x"], "labels in Unicode NFC, as 'café'"),
        (["3", "3.0", "4"], ["3", "3", "4"], "numbers with a fraction of zeros read as integers, as '3.0'"),
        (["0.0", "1.0", ""], ["0", "1", None], "read as integers, as '0.0'"),
        (["3.0", "3.5"], ["3.0", "3.5"], ""),
        (["007", "8"], ["007", "8"], ""),
        (["3.0", "cat"], ["3.0", "cat"], ""),
        (["cat", "dog", "  "], ["cat", "dog", None], "blanks around labels removed"),
    ],
)
def test_one_class_has_one_spelling(tmp_path: Path, cells: list[str], labels: list[str | None], said: str) -> None:
    found, text = read_labels(tmp_path, cells)
    assert found == labels
    assert (said or "columns path: path, label: label; 2 of 2 paths") in text


def test_several_labels_in_a_cell_are_spelled_alike(tmp_path: Path) -> None:
    labels, text = read_labels(tmp_path, ["3.0 | 4", "3", "4.0|3"], "?separator=|")
    assert labels == ["3|4", "3", "3|4"] and "as '3.0'" in text


def test_a_missing_number_is_no_class_and_floats_are_integers(tmp_path: Path) -> None:
    table = pa.table({"path": ["a", "b", "c"], "label": [1.0, 2.0, float("nan")]})
    pq.write_table(table, tmp_path / "t.parquet")
    assert [image.label for image in open_source(tmp_path / "t.parquet")] == ["1", "2", None]


ONE_HOT = "image,MEL,NV\na.png,1.0,0.0\nb.png,0.0,1.0\nc.png,1.0,0.0\n"


@pytest.mark.parametrize(
    ("content", "query", "labels", "multi_label"),
    [
        (ONE_HOT, "", ["MEL", "NV", "MEL"], False),
        (ONE_HOT + "d.png,,\n", "", ["MEL", "NV", "MEL", None], False),
        (ONE_HOT.replace("image", ",image").replace("\n", "\n0,", 3), "", ["MEL", "NV", "MEL"], False),
        (ONE_HOT, "?labels=MEL,NV", ["MEL", "NV", "MEL"], True),
        (ONE_HOT, "?labels=mel, nv ", ["MEL", "NV", "MEL"], True),
        (ONE_HOT + "d.png,0,0\n", "", ["MEL", "NV", "MEL", ""], True),
        (ONE_HOT + "d.png,1,1\n", "", ["MEL", "NV", "MEL", "MEL|NV"], True),
    ],
)
def test_columns_of_which_exactly_one_is_1_are_one_label(
    tmp_path: Path, content: str, query: str, labels: list[str | None], multi_label: bool
) -> None:
    (tmp_path / "t.csv").write_text(content)
    source = open_source(f"{tmp_path / 't.csv'}{query}")
    assert source.multi_label == multi_label
    assert [image.label for image in source] == labels
    said = "one label a picture, as exactly one of 2 columns is 1 in each row"
    assert (said in source.describe()) != multi_label


@pytest.mark.parametrize("query", ["?label=BREED&path=file", "?label=breed &path=File", "?path=FILE&label=Breed"])
def test_a_column_is_named_in_any_case(tmp_path: Path, query: str) -> None:
    (tmp_path / "t.csv").write_text("File, Breed\na.png,x\nb.png,y\n")
    assert [image.label for image in open_source(f"{tmp_path / 't.csv'}{query}")] == ["x", "y"]


def test_a_table_without_a_line_of_names_is_told_to_get_one(tmp_path: Path) -> None:
    (table := tmp_path / "t.csv").write_text("a.png,cat\nb.png,dog\n")
    with pytest.raises(UserError, match=r"first line is that of a picture \(a\.png, cat\).* path,label$"):
        open_source(str(table))
    table.write_text("path,label\n" + table.read_text())
    assert open_source(str(table)).classes == {"cat": 1, "dog": 1}
