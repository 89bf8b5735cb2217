"""Several shards or Parquet files that are one dataset, made of parts of photographs."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from imageset.exceptions import UserError
from imageset.raw.ingestion import ingest_source
from imageset.raw.records import read_records
from imageset.sources.factory import open_source
from imageset.sources.sharded import expand_braces
from tests.helpers.datasets import pack_members
from tests.helpers.images import encode_noise
from tests.helpers.photographs import crop_photographs


@pytest.fixture(scope="module")
def pictures() -> list[tuple[str, bytes]]:
    """(class, bytes) of 6 pictures of two classes, mixed."""
    crops = crop_photographs(("airplane", "automobile"), 3)
    found = [(Path(name).parent.name, data) for name, data in crops.items()]
    return [found[number] for number in (0, 3, 1, 4, 2, 5)]


def shards(folder: Path, pictures: list[tuple[str, bytes]], names: tuple[str, ...]) -> Path:
    """WebDataset's shards with two pictures each."""
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        members = []
        for position, (label, data) in enumerate(pictures[2 * number : 2 * number + 2]):
            members += [(f"{position:06d}.jpg", data), (f"{position:06d}.cls", label.encode())]
        pack_members(folder / name, members)
    return folder


def test_a_folder_of_shards_is_one_dataset(tmp_path: Path, pictures: list[tuple[str, bytes]]) -> None:
    folder = shards(tmp_path / "set", pictures, ("shard-000.tar", "shard-001.tar", "shard-002.tar"))
    source = open_source(folder)
    assert sorted((one.label or "", one.read()) for one in source) == sorted(pictures)
    assert source.name == "set" and "6 pictures in 2 classes" in source.describe()
    assert "3 archives" in source.describe() and source.splits == {}
    assert [one.uri for one in source][:2] == ["shard-000.tar/000000.jpg", "shard-000.tar/000001.jpg"]


@pytest.mark.parametrize("names", [("train/0.tar", "train/1.tar", "val/0.tar"),
                                   ("in1k-train-0.tar", "in1k-train-1.tar", "in1k-validation-0.tar")])  # fmt: skip
def test_shards_tell_their_split_by_folder_or_name(
    tmp_path: Path, pictures: list[tuple[str, bytes]], names: tuple[str, ...]
) -> None:
    source = open_source(shards(tmp_path / "set", pictures, names))
    assert source.splits == {"train": 4, "val": 2}
    assert Counter(one.split for one in source) == source.splits


def test_class_folders_may_be_divided_over_shards(tmp_path: Path, pictures: list[tuple[str, bytes]]) -> None:
    (tmp_path / "set").mkdir()
    for number, (label, data) in enumerate(sorted(pictures)):
        pack_members(tmp_path / "set" / f"{number}.tar", [(f"top/{label}/{number}.jpg", data)])
    assert [one.label for one in open_source(tmp_path / "set")] == [label for label, _ in sorted(pictures)]


def test_a_pattern_names_shards(tmp_path: Path, pictures: list[tuple[str, bytes]]) -> None:
    folder = shards(tmp_path / "set", pictures, ("train-000.tar", "train-001.tar", "other.tar"))
    for pattern in ("train-{000..001}.tar", "train-*.tar", "train-00[01].tar"):
        source = open_source(folder / pattern)
        assert source.name.startswith("train") and (len(source), source.splits) == (4, {"train": 4})
    with pytest.raises(UserError, match=r"no such file: .*train-002\.tar"):
        open_source(folder / "train-{000..002}.tar")
    with pytest.raises(UserError, match=r"no such file: .*val-\*\.tar"):
        open_source(folder / "val-*.tar")
    with pytest.raises(UserError, match="at most 100,000"):
        open_source(folder / "train-{0..999999999999}.tar")


def test_braces_are_expanded_as_a_shell_does() -> None:
    assert expand_braces("{train,val}-{08..10}.tar") == [
        f"{split}-{number}.tar" for split in ("train", "val") for number in ("08", "09", "10")
    ]


def hugging_face(path: Path, pictures: list[tuple[str, bytes]]) -> None:
    classes = ["airplane", "automobile"]
    images = [{"bytes": data, "path": f"{number}.jpg"} for number, (_, data) in enumerate(pictures)]
    table = pa.table({"image": images, "label": [classes.index(label) for label, _ in pictures]})
    features = {"info": {"features": {"label": {"names": classes, "_type": "ClassLabel"}}}}
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table.replace_schema_metadata({"huggingface": json.dumps(features)}), path)


def test_a_folder_of_hugging_faces_parquet_has_its_splits_in_the_file_names(
    tmp_path: Path, pictures: list[tuple[str, bytes]]
) -> None:
    names = ("train-00000-of-00002", "train-00001-of-00002", "test-00000-of-00001")
    for number, name in enumerate(names):
        hugging_face(tmp_path / "set" / "data" / f"{name}.parquet", pictures[2 * number : 2 * number + 2])
    (tmp_path / "set" / "README.md").write_text("# a card")
    source = open_source(tmp_path / "set")
    assert (source.name, source.kind, source.splits) == ("set", "table", {"train": 4, "test": 2})
    assert sorted((one.label or "", one.read()) for one in source) == sorted(pictures)
    assert len({one.uri for one in source}) == 6
    assert ingest_source(source, tmp_path / "raw").num_new == 6
    assert open_source(tmp_path / "set" / "data" / "test-00000-of-00001.parquet?label=label").splits == {"test": 2}


def test_a_grown_folder_of_shards_packs_only_what_is_new(
    tmp_path: Path, pictures: list[tuple[str, bytes]]
) -> None:
    folder = shards(tmp_path / "set", pictures, ("shard-000.tar", "shard-001.tar"))
    ingest_source(folder, tmp_path / "raw")
    first = (tmp_path / "raw" / "shard-00000.tar").read_bytes()
    shards(folder, pictures, ("shard-000.tar", "shard-001.tar", "shard-002.tar"))
    summary = ingest_source(folder, tmp_path / "raw")
    assert (summary.num_new, summary.num_known, summary.num_absent) == (2, 4, 0)
    (folder / "shard-000.tar").unlink()
    assert ingest_source(folder, tmp_path / "raw").num_absent == 2
    assert (tmp_path / "raw" / "shard-00000.tar").read_bytes() == first
    assert sum(read_records(tmp_path / "raw")["absent"].to_pylist()) == 2


def test_files_of_two_kinds_are_not_one_dataset(tmp_path: Path, pictures: list[tuple[str, bytes]]) -> None:
    shards(tmp_path / "set", pictures, ("a.tar",))
    hugging_face(tmp_path / "set" / "b.parquet", pictures)
    with pytest.raises(UserError, match="1 archive and 1 table of 2 files"):
        open_source(tmp_path / "set")


def test_tables_of_other_columns_are_not_one_dataset(tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": [encode_noise(1)], "label": ["a"]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"image": [encode_noise(1)], "breed": ["a"]}), tmp_path / "b.parquet")
    with pytest.raises(UserError, match=r"has the columns image, breed, but a\.parquet has image, label"):
        open_source(tmp_path)
