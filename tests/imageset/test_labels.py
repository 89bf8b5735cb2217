"""Several labels a picture, on parts of photographs that bear one to three labels."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from imageset.check import check_source
from imageset.exceptions import UserError
from imageset.labels import join_labels
from imageset.normalize.stage import normalize
from imageset.raw import records, source_file
from imageset.raw.ingestion import ingest_source
from imageset.sources.columns import guess_separator
from imageset.sources.factory import open_source
from imageset.store.reader import ImageStore
from tests.helpers.datasets import NORMALIZE_PARAMS, drop_digests
from tests.helpers.images import encode_noise, make_image_folder
from tests.helpers.photographs import crop_photographs

CELLS = ("Platelets", "RBC", "WBC")
NUM_SMEARS = 100


@pytest.fixture(scope="module")
def smears(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, set[str]]]:
    """A folder of pictures, and the labels of each: nearly all bear RBC, few Platelets, as blood smears do."""
    folder, draws = tmp_path_factory.mktemp("smears"), np.random.default_rng(0)
    labels = {}
    for data in crop_photographs(("smear",), NUM_SMEARS).values():
        name = f"{len(labels):05d}.jpg"
        (folder / name).write_bytes(data)
        shown = draws.random(3) < (0.3, 0.9, 0.6)
        labels[name] = {cell for cell, is_shown in zip(CELLS, shown, strict=True) if is_shown} or {"RBC"}
    return folder, labels


def in_one_cell(folder: Path, labels: dict[str, set[str]], separator: str) -> Path:
    table = folder / f"cells-{ord(separator)}.{'tsv' if separator == ',' else 'csv'}"
    tab = "\t" if separator == "," else ","
    rows = [f"{name}{tab}{separator.join(sorted(one, reverse=True))}" for name, one in labels.items()]
    table.write_text(f"file{tab}labels\n" + "\n".join(rows) + "\n")
    return table


def in_columns(folder: Path, labels: dict[str, set[str]]) -> Path:
    table = folder / "columns.csv"
    rows = [",".join([name, *("01"[cell in one] for cell in CELLS)]) for name, one in labels.items()]
    table.write_text("file," + ",".join(CELLS) + "\n" + "\n".join(rows) + "\n")
    return table


def as_lists(folder: Path, labels: dict[str, set[str]]) -> Path:
    table = folder / "lists.parquet"
    pq.write_table(pa.table({"file": list(labels), "labels": [sorted(one) for one in labels.values()]}), table)
    return table


@pytest.mark.parametrize("how", ["|", ";", ",", "columns", "lists"])
def test_every_way_to_say_several_labels_is_understood_alike(smears: Any, how: str) -> None:
    folder, labels = smears
    make = {"columns": in_columns, "lists": as_lists}.get(how, lambda *arguments: in_one_cell(*arguments, how))
    source = open_source(make(folder, labels))
    assert {one.uri: one.label for one in source} == {name: "|".join(sorted(one)) for name, one in labels.items()}
    counts = Counter(cell for one in labels.values() for cell in one)
    assert source.multi_label and source.classes == counts
    numbers = ", ".join(f"{cell} {counts[cell]}" for cell in CELLS)
    assert f"{NUM_SMEARS} pictures in 3 labels ({numbers})" in source.describe()
    assert "multi-label" in source.describe()
    assert ("guessed" in source.describe()) == (how != "lists")


def test_a_store_of_several_labels_gives_them_as_columns_of_0_and_1(smears: Any, tmp_path: Path) -> None:
    folder, labels = smears
    summary = ingest_source(in_columns(folder, labels), tmp_path / "raw")
    assert f"{NUM_SMEARS} pictures in 3 labels" in summary.describe()
    identity = {"first_shards": [0], "kind": "table", "multi_label": True, "name": "columns"}
    assert json.loads((tmp_path / "raw" / "source.json").read_text()).items() >= identity.items()
    done = normalize(tmp_path / "raw", tmp_path / "out", NORMALIZE_PARAMS | {"min_test_per_class": 50}, workers=2)
    store = ImageStore.open(tmp_path / "out")
    assert store.multi_label and store.classes == CELLS and sum(store.counts.values()) == NUM_SMEARS
    assert store.manifest["task"] == "multi-label" and store.manifest["num_pictures"] == store.counts
    for name in ("train", "val", "test"):
        split = store.split(name)
        assert split.labels.dtype == np.uint8 and split.labels.shape == (store.counts[name], 3)
        assert [{c for c, one in zip(CELLS, row, strict=True) if one} for row in split.labels] == [
            labels[uri] for uri in split.uris
        ]
        assert dict(zip(CELLS, split.labels.sum(0).tolist(), strict=True)) == store.manifest["counts"][name]
    assert store.manifest["counts"]["test"]["Platelets"] == 0
    assert "no test pictures, so nothing measures them: Platelets" in done.warnings[0]
    white = store.manifest["counts"]["test"]["WBC"]
    assert 0 < white < 50 and f"WBC {white}" in done.warnings[1]
    assert "in 3 labels" in done.describe()
    page = (store.path / "dataset.html").read_text()
    assert "<h3>Platelets</h3>" in page and "a picture counts for each of its labels" in page
    assert "Platelets|RBC" not in page


def test_a_corrected_set_of_labels_changes_one_row_and_no_shard(smears: Any, tmp_path: Path) -> None:
    folder, labels = smears
    ingest_source(in_columns(folder, labels), tmp_path / "raw")
    before, shard = records.read_records(tmp_path / "raw"), (tmp_path / "raw" / "shard-00000.tar").stat()
    name = next(iter(labels))
    summary = ingest_source(in_columns(folder, labels | {name: labels[name] ^ {"WBC"}}), tmp_path / "raw")
    after = records.read_records(tmp_path / "raw")
    assert (summary.num_new, summary.num_shards, summary.changed) == (0, 0, True)
    pairs = zip(before.to_pylist(), after.to_pylist(), strict=True)
    assert [one["uri"] for one, other in pairs if one != other] == [name]
    assert (tmp_path / "raw" / "shard-00000.tar").stat().st_mtime_ns == shard.st_mtime_ns


def tagged(folder: Path, rows: list[tuple[str, str]]) -> Path:
    """folder/t.csv with the columns file and label; the pictures differ unless they have the same number."""
    folder.mkdir(exist_ok=True)
    for name, _ in rows:
        (folder / name).write_bytes(encode_noise(int(re.sub(r"\D", "", name))))
    (folder / "t.csv").write_text("file,label\n" + "".join(f"{name},{label}\n" for name, label in rows))
    return folder / "t.csv"


def test_the_same_bytes_under_other_label_sets_are_a_conflict_and_order_does_not_matter(tmp_path: Path) -> None:
    rows = [
        ("a1.png", "x|y"),
        ("b1.png", "y|x"),
        ("a2.png", "x"),
        ("b2.png", "x|y"),
        ("a3.png", "y"),
        ("a4.png", ""),
    ]
    rows[-1:] = [("a4.png", '""'), ("b4.png", "y"), ("a5.png", "")]
    report = check_source(tagged(tmp_path / "set", rows), workers=1)
    assert {one.uri: one.reason for one in report.refused} == {
        "b1.png": "duplicate",
        "a2.png": "label_conflict",
        "b2.png": "label_conflict",
        "a4.png": "label_conflict",
        "b4.png": "label_conflict",
        "a5.png": "unlabelled",
    }
    assert report.classes == {"x": 1, "y": 2}
    assert "labelled with nothing and y" in report.to_text()


def test_a_picture_that_bears_none_is_kept(tmp_path: Path) -> None:
    rows = [(f"{n}.png", ["x", "y", "x|y", '""'][n % 4]) for n in range(60)]
    ingest_source(tagged(tmp_path / "set", rows), tmp_path / "raw")
    normalize(tmp_path / "raw", tmp_path / "out", NORMALIZE_PARAMS, workers=1)
    store = ImageStore.open(tmp_path / "out")
    assert sum(store.counts.values()) == 60 and store.classes == ("x", "y")
    bare = sum(int((store.split(name).labels.sum(1) == 0).sum()) for name in store.counts)
    assert bare == 15 and "<h3>none of them</h3>" in (store.path / "dataset.html").read_text()


def test_a_dataset_starts_anew_when_a_picture_may_have_several_labels(tmp_path: Path) -> None:
    table = tagged(tmp_path / "set", [(f"{n}.png", "xy"[n % 2]) for n in range(4)])
    ingest_source(table, tmp_path / "raw")
    (tmp_path / "set" / "0.png").unlink()
    assert ingest_source(table, tmp_path / "raw").num_absent == 1
    assert ingest_source(f"{table}?separator=;", tmp_path / "raw").num_absent == 0
    assert source_file.is_multi_label(tmp_path / "raw")
    assert source_file.read_source_identity(tmp_path / "raw") == {"name": "t", "kind": "table"}


@pytest.mark.parametrize(
    ("values", "found"),
    [
        (["cat", "dog", "cat|dog"], ("|", None)),
        (["cat; dog", "dog;cow", "cat", "cow"], (";", None)),
        (["cat", "dog", "cat,dog"], (",", None)),
        (["tench, Tinca tinca", "crane, bird", "crane, machine"], (None, ",")),
        (["a|b", "c"], (None, "|")),
        (["no finding", "mass"], (None, None)),
    ],
)
def test_a_separator_is_guessed_only_where_every_part_recurs(values: list[str], found: tuple[Any, Any]) -> None:
    assert guess_separator(values) == found


def test_names_with_a_comma_stay_whole_and_that_is_said(tmp_path: Path) -> None:
    table = tagged(tmp_path / "set", [("1.png", '"tench, Tinca tinca"'), ("2.png", '"crane, bird"')])
    source = open_source(table)
    assert not source.multi_label and set(source.classes) == {"tench, Tinca tinca", "crane, bird"}
    assert "a cell with ',' is read as one label; ?separator=, makes it several labels" in source.describe()
    assert open_source(f"{table}?separator=,").classes == {"tench": 1, "Tinca tinca": 1, "crane": 1, "bird": 1}


def test_what_cannot_be_told_is_asked(tmp_path: Path) -> None:
    table = tagged(tmp_path / "set", [("1.png", "a|b"), ("2.png", "c")])
    with pytest.raises(UserError, match=r"holds '\|', which may or may not separate .*t\.csv\?separator=\|"):
        open_source(table)
    assert open_source(f"{table}?separator=").classes == {"a|b": 1, "c": 1}
    assert open_source(f"{table}?separator=|").classes == {"a": 1, "b": 1, "c": 1}


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("labels=cat,dog", "the column 'dog' is read as a label of 0 or 1, but holds '2'; give 0 or 1"),
        ("labels=cat,dig", "no column 'dig'; did you mean 'dog'"),
        ("labels=cat,cow&label=cat", "give either labels=A,B,C"),
        ("seperator=;", "did you mean 'separator'"),
        ("", r"no column looks like the label .*t\.csv\?labels=A,B,C"),
    ],
)
def test_columns_that_are_no_labels_are_explained(tmp_path: Path, query: str, message: str) -> None:
    (tmp_path / "t.csv").write_text("file,cat,dog,cow\na.png,1,0,1\nb.png,0,2,0\n")
    with pytest.raises(UserError, match=message):
        open_source(f"{tmp_path / 't.csv'}?{query}" if query else tmp_path / "t.csv")


def test_columns_that_are_said_leave_the_others_alone(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("file,cat,dog,cow\na.png,1,0,1\nb.png,0,2,0\nc.png,,,\n")
    source = open_source(f"{tmp_path / 't.csv'}?labels=cow,cat")
    assert [one.label for one in source] == ["cat|cow", "", None]


def test_a_label_that_holds_the_separator_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"'a\|b' is empty or holds '\|'"):
        join_labels(["c", "a|b"])
    table = tagged(tmp_path / "set", [("1.png", "a|b;c"), ("2.png", "c")])
    with pytest.raises(UserError, match="rename it"):
        open_source(f"{table}?separator=;")


def test_a_dataset_made_before_there_were_several_labels_still_opens(tmp_path: Path) -> None:
    ingest_source(make_image_folder(tmp_path / "set"), tmp_path / "raw")
    normalize(tmp_path / "raw", tmp_path / "out", NORMALIZE_PARAMS, workers=1)
    path = tmp_path / "out" / "dataset.json"
    drop_digests(path.parent)
    manifest = json.loads(path.read_text())
    assert manifest.pop("task") == "multi-class"
    counts = manifest.pop("num_pictures")
    path.write_text(json.dumps(manifest))
    store = ImageStore.open(tmp_path / "out")
    assert not store.multi_label and store.counts == counts and store.split("train").labels.dtype == np.int64
