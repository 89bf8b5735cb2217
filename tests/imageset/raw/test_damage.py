from __future__ import annotations

from pathlib import Path

import pytest

from imageset.exceptions import UserError
from imageset.normalize.stage import normalize
from imageset.raw.damage import find_damaged_raw_files, has_changed_since_check
from imageset.raw.ingestion import ingest_source
from imageset.raw.records import read_records
from imageset.raw.shards import read_image_bytes
from imageset.raw.source_file import read_digests
from tests.helpers.datasets import NORMALIZE_PARAMS, drop_digests, flip_bit, snapshot
from tests.helpers.images import make_image_folder

IN_FIRST_IMAGE = 700  # bytes; the header of a tar archive's member has 512


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Raw data of two ingests in a project."""
    (tmp_path / "dvc.yaml").touch()
    ingest_source(make_image_folder(tmp_path / "set", num_each=5), tmp_path / "raw")
    ingest_source(make_image_folder(tmp_path / "set", num_each=2, first=20), tmp_path / "raw")
    return tmp_path / "raw"


def list_present(raw: Path) -> set[tuple[str, str]]:
    """Return (uri, image_id) of the images that the source has, each of which can be read."""
    rows = [row for row in read_records(raw).to_pylist() if not row["absent"]]
    assert len(list(read_image_bytes(raw, [row["image_id"] for row in rows]))) == len(rows)
    return {(row["uri"], row["image_id"]) for row in rows}


def test_every_file_has_a_digest_and_none_is_damaged(raw: Path) -> None:
    names = {path.name for path in raw.iterdir()} - {"source.json"}
    assert names == read_digests(raw).keys() == {"records.parquet", "shard-00000.tar", "shard-00001.tar"}
    assert has_changed_since_check(raw)
    assert find_damaged_raw_files(raw, thorough=True) == [] and not has_changed_since_check(raw)


@pytest.mark.parametrize("name", ["records.parquet", "source.json", "shard-00001.tar"])
@pytest.mark.parametrize("keep_time", [False, True])
def test_damage_stops_normalize_and_is_found(raw: Path, tmp_path: Path, name: str, keep_time: bool) -> None:
    find_damaged_raw_files(raw)
    flip_bit(raw / name, keep_time=keep_time)
    with pytest.raises(UserError, match=rf"{name}: missing or damaged; `convoy run` restores it"):
        normalize(raw, tmp_path / "out", NORMALIZE_PARAMS, workers=1)
    assert find_damaged_raw_files(raw) == [name] == find_damaged_raw_files(raw, thorough=True)


@pytest.mark.parametrize("damage", ["flip", "cut", "missing"])
@pytest.mark.parametrize("has_digests", [True, False])
def test_the_pictures_of_a_lost_shard_are_stored_again(
    raw: Path, tmp_path: Path, damage: str, has_digests: bool
) -> None:
    before, shard = list_present(raw), raw / "shard-00001.tar"
    if not has_digests:
        drop_digests(raw)
    if damage == "flip":
        flip_bit(shard, IN_FIRST_IMAGE / shard.stat().st_size)
    else:
        shard.write_bytes(shard.read_bytes()[:600])
    if damage == "missing":
        shard.unlink()
    if damage == "flip" and not has_digests:  # found when an ingest that changes something adds the digests
        make_image_folder(tmp_path / "set", num_each=1, first=50)
        with pytest.raises(UserError, match=r"shard-00001\.tar: damaged; remove it, and `convoy run` stores"):
            ingest_source(tmp_path / "set", raw)
        shard.unlink()
    summary = ingest_source(tmp_path / "set", raw)
    assert summary.lost_shards == ("shard-00001.tar",) and not shard.exists()
    assert list_present(raw) >= before
    assert find_damaged_raw_files(raw, thorough=True) == []
    assert not ingest_source(tmp_path / "set", raw).changed


def test_raw_data_of_an_earlier_version_is_checked_by_its_image_ids(raw: Path) -> None:
    drop_digests(raw)
    assert find_damaged_raw_files(raw) == [] == find_damaged_raw_files(raw, thorough=True)
    flip_bit(raw / "shard-00000.tar", IN_FIRST_IMAGE / (raw / "shard-00000.tar").stat().st_size)
    assert find_damaged_raw_files(raw, thorough=True) == ["shard-00000.tar"]
    (raw / "shard-00001.tar").unlink()
    assert find_damaged_raw_files(raw) == ["shard-00001.tar"]


def test_the_next_ingest_that_changes_something_adds_the_digests(raw: Path, tmp_path: Path) -> None:
    drop_digests(raw)
    before = snapshot(raw)
    ingest_source(tmp_path / "set", raw)
    assert snapshot(raw) == before
    (tmp_path / "set" / "bee" / "0000.png").unlink()
    ingest_source(tmp_path / "set", raw)
    assert read_digests(raw).keys() == {"records.parquet", "shard-00000.tar", "shard-00001.tar"}
    assert find_damaged_raw_files(raw, thorough=True) == []
