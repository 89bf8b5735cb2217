from __future__ import annotations

import hashlib
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from imageset.exceptions import UserError
from imageset.raw import shards, source_file
from imageset.raw.ingestion import ingest_source
from imageset.raw.records import read_records
from imageset.raw.shards import read_image_bytes
from tests.helpers.datasets import snapshot
from tests.helpers.images import encode_noise, make_image_folder


def test_shards_are_ordinary_tar_files_of_the_unchanged_bytes(tmp_path: Path) -> None:
    source = make_image_folder(tmp_path / "set", num_each=3)
    summary = ingest_source(source, tmp_path / "raw")
    assert (summary.name, summary.num_images, summary.num_new, summary.num_shards) == ("set", 6, 6, 1)
    with tarfile.open(tmp_path / "raw" / "shard-00000.tar") as archive:
        members = {member.name: archive.extractfile(member).read() for member in archive}  # type: ignore[union-attr]
    assert set(members.values()) == {file.read_bytes() for file in source.rglob("*.png")}
    assert all(name == hashlib.sha256(data).hexdigest() + ".png" for name, data in members.items())


def test_any_picture_is_found_by_its_identity(tmp_path: Path) -> None:
    ingest_source(make_image_folder(tmp_path / "set", num_each=3), tmp_path / "raw")
    image_ids = read_records(tmp_path / "raw")["image_id"].to_pylist()[::-1]
    found = list(read_image_bytes(tmp_path / "raw", image_ids))
    assert [image_id for image_id, _ in found] == image_ids
    assert all(hashlib.sha256(data).hexdigest() == image_id for image_id, data in found)


def test_an_unchanged_source_touches_no_file(tmp_path: Path) -> None:
    source = make_image_folder(tmp_path / "set", num_each=3)
    ingest_source(source, tmp_path / "raw")
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "raw").iterdir()}
    assert not ingest_source(source, tmp_path / "raw").changed
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "raw").iterdir()} == before


def test_a_grown_source_packs_only_the_new_bytes(tmp_path: Path) -> None:
    source = make_image_folder(tmp_path / "set", num_each=3)
    ingest_source(source, tmp_path / "raw")
    first = (tmp_path / "raw" / "shard-00000.tar").read_bytes()
    make_image_folder(source, num_each=1, first=3)
    (source / "ant" / "copy.png").write_bytes((source / "ant" / "0000.png").read_bytes())
    summary = ingest_source(source, tmp_path / "raw")
    assert (summary.num_new, summary.num_known, summary.num_images) == (2, 6, 9)
    assert (tmp_path / "raw" / "shard-00000.tar").read_bytes() == first
    with tarfile.open(tmp_path / "raw" / "shard-00001.tar") as archive:
        assert len(archive.getmembers()) == 2


def test_what_vanished_is_marked_absent_and_may_come_back(tmp_path: Path) -> None:
    source = make_image_folder(tmp_path / "set", num_each=3)
    ingest_source(source, tmp_path / "raw")
    before = read_records(tmp_path / "raw")
    data = (source / "ant" / "0001.png").read_bytes()
    (source / "ant" / "0001.png").unlink()
    assert ingest_source(source, tmp_path / "raw").num_absent == 1
    rows = {row["uri"]: row["absent"] for row in read_records(tmp_path / "raw").to_pylist()}
    assert [uri for uri, absent in rows.items() if absent] == ["ant/0001.png"]
    (source / "ant" / "0001.png").write_bytes(data)
    assert ingest_source(source, tmp_path / "raw").num_new == 0
    assert read_records(tmp_path / "raw").equals(before)


def test_a_corrected_label_rewrites_no_picture(tmp_path: Path) -> None:
    source = make_image_folder(tmp_path / "set", num_each=3)
    ingest_source(source, tmp_path / "raw")
    (source / "ant" / "0001.png").rename(source / "bee" / "moved.png")
    summary = ingest_source(source, tmp_path / "raw")
    assert (summary.num_new, summary.num_shards, summary.changed) == (0, 0, True)
    assert summary.classes == {"ant": 2, "bee": 4}


def test_another_source_starts_anew(tmp_path: Path) -> None:
    ingest_source(make_image_folder(tmp_path / "one", num_each=3), tmp_path / "raw")
    ingest_source(make_image_folder(tmp_path / "two", num_each=2), tmp_path / "raw")
    assert len(read_records(tmp_path / "raw")) == 4
    assert source_file.read_source_identity(tmp_path / "raw") == {"name": "two", "kind": "folder"}
    assert [file.name for file in tmp_path.iterdir() if file.name.startswith(".")] == []


def test_shards_stay_below_their_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "MAX_RAW_SHARD_BYTES", 5000)
    ingest_source(make_image_folder(tmp_path / "set", num_each=5), tmp_path / "raw")
    found = sorted((tmp_path / "raw").glob("*.tar"))
    assert len(found) > 2 and all(shard.stat().st_size <= 5000 for shard in found)
    image_ids = read_records(tmp_path / "raw")["image_id"].to_pylist()
    assert len(list(read_image_bytes(tmp_path / "raw", image_ids))) == 10


def test_an_interrupted_ingest_leaves_nothing_that_counts(tmp_path: Path) -> None:
    source = make_image_folder(tmp_path / "set", num_each=4)
    ingest_source(source, tmp_path / "undisturbed")
    script = (
        "import os, sys; from imageset.raw import ingestion, shards\n"
        "pack, left = shards.RawShardWriter.add, [int(sys.argv[3])]\n"
        "def dying(self, *arguments):\n"
        "    left[0] -= 1\n"
        "    if left[0] < 0: os._exit(9)\n"
        "    return pack(self, *arguments)\n"
        "assert shards.MAX_RAW_SHARD_BYTES > 4500\n"
        "shards.RawShardWriter.add, shards.MAX_RAW_SHARD_BYTES = dying, 4500\n"
        "ingestion.ingest_source(sys.argv[1], sys.argv[2])\n"
    )
    ingest_source(make_image_folder(tmp_path / "start" / "set", num_each=1), tmp_path / "grown")
    statuses = []
    for steps in (1, 3, 5):
        for target in ("fresh", "grown"):
            arguments = [str(source), str(tmp_path / target), str(steps)]
            done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True)
            assert done.returncode in (0, 9), done.stderr
            statuses.append(done.returncode)
    assert 9 in statuses[0::2] and 9 in statuses[1::2]  # of both
    ingest_source(source, tmp_path / "fresh")
    ingest_source(source, tmp_path / "grown")
    assert snapshot(tmp_path / "fresh") == snapshot(tmp_path / "undisturbed")
    ingest_source(make_image_folder(tmp_path / "start" / "set", num_each=1), tmp_path / "calm")
    ingest_source(source, tmp_path / "calm")
    assert snapshot(tmp_path / "grown") == snapshot(tmp_path / "calm")


def test_the_source_is_only_read(tmp_path: Path) -> None:
    source = make_image_folder(tmp_path / "set", num_each=3)
    before = snapshot(source)
    ingest_source(source, tmp_path / "raw")
    assert snapshot(source) == before


def test_a_file_that_may_not_be_read_is_a_row_with_its_reason(tmp_path: Path) -> None:
    source = make_image_folder(tmp_path / "set", num_each=3)
    with (source / "ant" / "huge.tif").open("wb") as file:
        file.truncate(300_000_000)
    assert ingest_source(source, tmp_path / "raw").num_unreadable == 1
    (row,) = [row for row in read_records(tmp_path / "raw").to_pylist() if row["reason"]]
    assert (row["uri"], row["image_id"], row["reason"]) == ("ant/huge.tif", None, "bomb")


def test_a_folder_of_someone_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "thesis.doc").touch()
    with pytest.raises(UserError, match=r"holds thesis\.doc but no source\.json"):
        ingest_source(make_image_folder(tmp_path / "set", num_each=3), tmp_path / "raw")


def test_a_damaged_table_or_shard_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no pictures yet"):
        read_records(tmp_path / "raw")
    ingest_source(make_image_folder(tmp_path / "set", num_each=3), tmp_path / "raw")
    image_id = read_records(tmp_path / "raw")["image_id"][0].as_py()
    (tmp_path / "raw" / "shard-00000.tar").write_bytes(b"")
    with pytest.raises(UserError, match=r"shard-00000\.tar: missing or damaged"):
        list(read_image_bytes(tmp_path / "raw", [image_id]))
    (tmp_path / "raw" / "records.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match=r"records\.parquet: missing or damaged"):
        read_records(tmp_path / "raw")


def test_a_picture_that_changed_keeps_its_place_and_the_old_bytes_their_row(tmp_path: Path) -> None:
    source = make_image_folder(tmp_path / "set", num_each=3)
    ingest_source(source, tmp_path / "raw")
    (source / "ant" / "0000.png").write_bytes(encode_noise(77))
    ingest_source(source, tmp_path / "raw")
    rows = [row for row in read_records(tmp_path / "raw").to_pylist() if row["uri"] == "ant/0000.png"]
    assert sorted(row["absent"] for row in rows) == [False, True]
