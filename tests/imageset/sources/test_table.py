from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from imageset.exceptions import UserError
from imageset.rejections import Rejected
from imageset.sources.factory import open_source
from tests.helpers.images import encode_noise, make_image_folder


def rows(folder: Path) -> list[dict[str, str]]:
    return [
        {"file": file.relative_to(folder).as_posix(), "breed": file.parent.name, "fold": "test", "dog": "d1"}
        for file in sorted(folder.rglob("*.png"))
    ]


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl", "parquet"])
def test_a_table_names_files_labels_splits_and_groups(tmp_path: Path, ending: str) -> None:
    folder = make_image_folder(tmp_path / "set", num_each=2)
    table, path = rows(folder), folder / f"table.{ending}"
    if ending == "parquet":
        pq.write_table(pa.Table.from_pylist(table), path)
    elif ending == "jsonl":
        path.write_text("\n".join(json.dumps(row) for row in table))
    else:
        comma = "," if ending == "csv" else "\t"
        path.write_text("\n".join(comma.join(row) for row in [list(table[0]), *(row.values() for row in table)]))
    with pytest.raises(UserError, match=r"no column looks like the label .*label=COLUMN"):
        open_source(path)
    source = open_source(f"{path}?label=breed&group=dog")
    pictures = list(source)
    assert [(one.label, one.split, one.group) for one in pictures] == [("ant", "test", "d1")] * 2 + [
        ("bee", "test", "d1")
    ] * 2
    assert pictures[0].read() == (folder / "ant" / "0000.png").read_bytes()
    assert "label: breed" in source.describe()


def test_class_007_stays_007_and_a_path_outside_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "secret.png").write_bytes(encode_noise(1))
    (tmp_path / "set" / "t.csv").write_text("path,label\n../secret.png,007\ngone.png,008\n")
    pictures = list(open_source(tmp_path / "set" / "t.csv"))
    assert [one.label for one in pictures] == ["007", "008"]
    for picture, why in zip(pictures, ("outside the table's folder", "no such file"), strict=True):
        with pytest.raises(Rejected, match=why):
            picture.read()


def test_hugging_face_parquet_keeps_bytes_and_class_names(tmp_path: Path) -> None:
    images = [{"bytes": encode_noise(number), "path": f"{number}.png"} for number in range(4)]
    table = pa.table({"image": images, "label": [0, 1, 0, 1]})
    features = {"info": {"features": {"label": {"names": ["ant", "bee"], "_type": "ClassLabel"}}}}
    pq.write_table(table.replace_schema_metadata({"huggingface": json.dumps(features)}), tmp_path / "hf.parquet")
    pictures = list(open_source(tmp_path / "hf.parquet"))
    assert [one.label for one in pictures] == ["ant", "bee", "ant", "bee"] and pictures[2].read() == encode_noise(
        2
    )


def test_a_column_that_is_not_there_is_answered_with_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("path,breed\na.png,x\n")
    with pytest.raises(UserError, match="no column 'bred'; did you mean 'breed'"):
        open_source(f"{tmp_path / 't.csv'}?label=bred")
