import hashlib
import os
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from flows.predict import dataset_name, read_pictures, schema, write_rows
from imageset.errors import UserError

ROW = dict.fromkeys(schema().names) | {"uri": "a.png", "status": "ok", "model_version": 1}


def test_an_output_appears_whole_or_not_at_all(tmp_path):
    def rows():
        yield ROW
        raise RuntimeError("killed half-way")

    with pytest.raises(RuntimeError):
        write_rows(tmp_path / "out.parquet", rows())
    assert list(tmp_path.iterdir()) == []


def test_an_earlier_output_stands_until_the_new_one_is_whole(tmp_path):
    out = tmp_path / "out.parquet"
    write_rows(out, [ROW])

    def rows():
        yield ROW
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_rows(out, rows())
    assert pq.read_table(out).num_rows == 1
    assert list(tmp_path.iterdir()) == [out]


def test_many_rows_are_written_in_groups_and_none_is_lost(tmp_path):
    out = tmp_path / "out.parquet"
    rows = ({**ROW, "uri": f"{n}.png", "status": "error" if n % 10 == 0 else "ok"} for n in range(10_000))
    assert write_rows(out, rows) == (10_000, 1_000)
    table = pq.read_table(out)
    assert table["uri"].to_pylist() == [f"{n}.png" for n in range(10_000)]
    assert table.schema.equals(schema())
    assert pq.ParquetFile(out).num_row_groups == 3


def test_a_picture_that_may_not_be_read_keeps_its_place(tmp_path, monkeypatch):
    for name in ("a.png", "b.png", "c.png"):
        (tmp_path / name).write_bytes(name.encode())
    open_file = os.open

    def refuse(path, *arguments, **options):
        if str(path).endswith("b.png"):
            raise PermissionError(13, "Permission denied")
        return open_file(path, *arguments, **options)

    monkeypatch.setattr(os, "open", refuse)
    pictures = list(read_pictures(tmp_path))
    assert [picture.uri for picture, _ in pictures] == ["a.png", "b.png", "c.png"]
    assert pictures[0][0].image_id == hashlib.sha256(b"a.png").hexdigest()
    assert pictures[1][0].image_id is None and "permission denied" in pictures[1][0].error.lower()


def test_the_name_of_the_model_is_that_of_the_dataset(tmp_path):
    (tmp_path / "data/normalized").mkdir(parents=True)
    (tmp_path / "data/normalized/dataset.json").write_text('{"name": "flowers"}')
    assert dataset_name(tmp_path) == "flowers"


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"name'])
def test_a_broken_dataset_is_named(tmp_path, text):
    (tmp_path / "data/normalized").mkdir(parents=True)
    (tmp_path / "data/normalized/dataset.json").write_text(text)
    with pytest.raises(UserError, match=r"dataset\.json: broken .*dvc repro -f normalize"):
        dataset_name(tmp_path)


def test_without_a_dataset_the_way_to_a_model_is_named(tmp_path):
    with pytest.raises(UserError, match="convoy run FOLDER"):
        dataset_name(Path(tmp_path))
