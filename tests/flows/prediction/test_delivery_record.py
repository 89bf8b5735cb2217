import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flows.prediction.cache import PREDICTION_SCHEMA, CacheShard, ImageRef, PredictionCache
from flows.prediction.delivery_record import DeliveredImages, DeliveryRecord, format_line

KEYS = ("a" * 8, "b" * 8)  # before and after an upgrade
ONE, TWO, GONE = "1" * 32, "2" * 32, "3" * 32  # names of shards


def make_id(number: int) -> str:
    return f"{number:016x}" + "0" * 48


def write_shard(cache: PredictionCache, name: str, *rows: tuple[int, str | None]) -> None:
    """Write a shard with an image for each (number, error)."""
    shard = CacheShard(name, [ImageRef(str(number), make_id(number)) for number, _ in rows])
    shard.rows = [{"uri": str(number), "image_id": make_id(number), "error": error} for number, error in rows]
    cache.folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(shard.rows, schema=PREDICTION_SCHEMA), cache.shard_path(name))


@pytest.fixture
def caches(tmp_path) -> list[PredictionCache]:
    """Two caches of version 1 of `digits`, one with two images, and one of version 2."""
    folders = [*(f"digits-1-{key}" for key in KEYS), f"digits-2-{KEYS[0]}"]
    caches = [PredictionCache(tmp_path / "predictions" / name, name) for name in folders]
    for cache in caches:
        cache.folder.mkdir(parents=True)
    write_shard(caches[0], ONE, (1, None), (2, None), (3, "timeout: too slow"))
    return caches


def deliver(cache: PredictionCache, out: Path, *names: str) -> None:
    temporary = out.with_name("table")
    temporary.write_text(f"{names}")
    DeliveryRecord(cache).commit_output(temporary, out, list(names))


def find_delivered(cache: PredictionCache) -> list[int]:
    index = DeliveryRecord(cache).load_index()
    return [number for number in range(5) if make_id(number) in index]


def test_images_count_as_delivered_after_an_upgrade_for_their_version_alone(caches, tmp_path):
    deliver(caches[0], tmp_path / "out.csv", ONE)
    assert [find_delivered(cache) for cache in caches] == [[1, 2], [1, 2], []]


def test_what_an_earlier_convoy_recorded_still_counts_and_is_taken_over_once(caches):
    (caches[0].folder / "delivered.txt").write_text(f"{ONE}\n{GONE}\n")
    assert find_delivered(caches[1]) == [1, 2]
    caches[0].shard_path(ONE).unlink()
    assert find_delivered(caches[1]) == [1, 2]


def test_what_several_folders_of_an_earlier_convoy_recorded_counts(caches):
    write_shard(caches[1], TWO, (4, None))
    for cache, name in zip(caches, (ONE, TWO), strict=False):
        (cache.folder / "delivered.txt").write_text(f"{name}\n")
    assert find_delivered(caches[0]) == [1, 2, 4]


@pytest.mark.parametrize("character", [b"\xff", b"1", b"\n"])
def test_a_damaged_line_of_the_record_is_left_out_and_said(caches, tmp_path, caplog, character):
    deliver(caches[0], tmp_path / "out.csv", ONE)
    path = DeliveryRecord(caches[0]).path
    path.write_bytes(character + path.read_bytes()[1:])
    assert find_delivered(caches[0]) == [2]
    (line,) = caplog.messages
    assert f"{path}: " in line and "--new-only gives the pictures of such lines again" in line


@pytest.mark.parametrize("name", ["delivered.txt", "delivering.json"])
def test_a_damaged_list_of_an_earlier_convoy_or_of_a_killed_run_is_said(caches, caplog, name):
    (caches[0].folder / name).write_bytes(b"\xff")
    DeliveryRecord(caches[0]).finish_commit()
    assert find_delivered(caches[0]) == []
    (line,) = caplog.messages
    assert f"{name}: without a digest" in line


def test_an_image_is_recorded_once_however_often_it_is_delivered(caches, tmp_path):
    for _ in range(3):
        deliver(caches[0], tmp_path / "out.csv", ONE)
    assert DeliveryRecord(caches[0]).path.read_text() == format_line(make_id(1)) + format_line(make_id(2))


def test_a_table_that_was_moved_before_an_upgrade_is_recorded_after_it(caches, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(DeliveryRecord, "finish_commit", lambda self: (None, []))  # killed here
        deliver(caches[0], tmp_path / "out.csv", ONE)
    with caches[0].cache_lock(on_busy=lambda: None):
        DeliveryRecord(caches[1]).finish_commit()
        assert find_delivered(caches[1]) == []  # its process may be at work
    assert DeliveryRecord(caches[1]).finish_commit() == (None, [])
    assert find_delivered(caches[1]) == [1, 2] and list(caches[0].folder.glob("*.json")) == []


def test_a_line_that_was_cut_off_is_written_again(caches, tmp_path):
    deliver(caches[0], tmp_path / "out.csv", ONE)
    path = DeliveryRecord(caches[0]).path
    path.write_text(path.read_text()[:-5])
    assert find_delivered(caches[0]) == [1]
    deliver(caches[0], tmp_path / "out.csv", ONE)
    assert find_delivered(caches[0]) == [1, 2]


def test_images_whose_ids_begin_alike_are_told_apart():
    delivered = DeliveredImages("".join(format_line(f"{'1' * 16}{end * 48}") for end in "ab").encode())
    assert [f"{'1' * 16}{end * 48}" in delivered for end in "abc"] == [True, True, False]


def test_a_table_and_its_record_are_on_the_disk_when_it_is_delivered(caches, tmp_path, monkeypatch):
    synced: list[tuple[int, int]] = []

    def record(descriptor):
        found = os.fstat(descriptor)
        synced.append((found.st_ino, found.st_size))

    monkeypatch.setattr(os, "fsync", record)
    deliver(caches[0], tmp_path / "out.csv", ONE)
    path = DeliveryRecord(caches[0]).path
    for written in (tmp_path / "out.csv", path):
        assert (written.stat().st_ino, written.stat().st_size) in synced
    assert synced[-1][0] == path.parent.stat().st_ino


def die_before_recording(cache: PredictionCache, out: Path, *names: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DeliveryRecord, "finish_commit", lambda self: (None, []))
        deliver(cache, out, *names)


def test_a_table_that_a_killed_run_has_moved_is_recorded_and_named(caches, tmp_path):
    out = tmp_path / "out.csv"
    die_before_recording(caches[0], out, ONE)
    assert DeliveryRecord(caches[0]).finish_commit() == (out, [ONE])
    assert DeliveryRecord(caches[0]).finish_commit() == (None, [])
    assert find_delivered(caches[0]) == [1, 2]
    assert sorted(path.name for path in caches[1].folder.iterdir()) == []


@pytest.mark.parametrize("text", [None, "another table"])
def test_a_table_that_a_killed_run_has_not_moved_does_not_count(caches, tmp_path, text):
    out = tmp_path / "out.csv"
    die_before_recording(caches[0], out, ONE)
    out.unlink()
    if text is not None:
        out.write_text(text)
    assert DeliveryRecord(caches[0]).finish_commit() == (None, [])
    assert find_delivered(caches[0]) == [] and not list(caches[0].folder.glob("*.json"))


def test_a_cache_at_work_does_not_keep_others_from_being_recorded(caches, tmp_path):
    write_shard(caches[1], TWO, (4, None))
    for cache, name in zip(caches, (ONE, TWO), strict=False):
        die_before_recording(cache, tmp_path / f"{name}.csv", name)
    later = PredictionCache(caches[0].folder.with_name(f"digits-1-{'c' * 8}"), "c")
    later.folder.mkdir()
    with caches[0].cache_lock(on_busy=lambda: None):
        assert DeliveryRecord(later).finish_commit() == (None, [])
    assert find_delivered(later) == [4]


def test_other_folders_and_other_versions_are_left_alone(caches):
    caches[0].folder.with_name("other").mkdir()
    write_shard(caches[2], TWO, (4, None))
    (caches[2].folder / "delivered.txt").write_text(f"{TWO}\n")
    assert [find_delivered(cache) for cache in caches] == [[], [], [4]]


def test_a_list_of_an_earlier_convoy_is_read_again_only_after_it_has_changed(caches):
    path, record = caches[0].folder / "delivered.txt", DeliveryRecord(caches[0]).path
    path.write_text(f"{ONE}\n")
    assert find_delivered(caches[0]) == [1, 2]
    record.unlink()
    assert find_delivered(caches[0]) == []
    os.utime(path, (1, 1))
    assert find_delivered(caches[0]) == [1, 2]


def test_a_shard_that_is_computed_again_still_counts_as_delivered(caches, tmp_path):
    os.replace(caches[0].shard_path(ONE), caches[0].shard_path(f"{ONE}-retried"))
    write_shard(caches[0], TWO, (4, None))
    deliver(caches[0], tmp_path / "out.csv", ONE, TWO)
    assert find_delivered(caches[0]) == [1, 2, 4]


def test_only_whole_lines_of_the_record_that_are_none_are_damaged():
    good = format_line(make_id(1)) + format_line(make_id(2))
    assert (DeliveredImages(good.encode()).num_damaged, len(DeliveredImages(good.encode()))) == (0, 2)
    assert DeliveredImages(f"{good}torn".encode()).num_damaged == 0
    assert DeliveredImages(f"x\n{good}".encode()).num_damaged == 1
    assert len(DeliveredImages(b"")) == 0 and make_id(1) not in DeliveredImages(b"")
