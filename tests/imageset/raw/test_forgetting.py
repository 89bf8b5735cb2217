import hashlib
import tarfile

import pytest

from imageset.exceptions import UserError
from imageset.normalize.stage import normalize
from imageset.raw.damage import find_damaged_raw_files
from imageset.raw.forgetting import forget_images
from imageset.raw.ingestion import ingest_source
from imageset.raw.label_log import LABEL_LOG_FILE, SOURCE_REPLACED, LabelEntry, format_line, read_label_log
from imageset.raw.records import read_records
from imageset.raw.shards import read_image_bytes
from imageset.rejections import FORGOTTEN
from imageset.store.reader import ImageStore
from tests.helpers.datasets import NORMALIZE_PARAMS, snapshot
from tests.helpers.images import write_digit_images


def hash_picture(path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def source(tmp_path):
    return write_digit_images(tmp_path / "source", num_each=20)


@pytest.fixture
def raw(tmp_path, source):
    ingest_source(source, tmp_path / "raw")
    return tmp_path / "raw"


def test_a_forgotten_picture_leaves_the_shards_and_every_other_one_stays_byte_for_byte(raw, source):
    files = sorted(source.rglob("*.png"))
    gone = files[7]
    assert forget_images(raw, {hash_picture(gone)}) == 1
    others = {hash_picture(file): file.read_bytes() for file in files if file != gone}
    assert dict(read_image_bytes(raw, others)) == others
    assert gone.read_bytes() not in b"".join(snapshot(raw).values())
    with tarfile.open(raw / "shard-00000.tar") as shard:
        assert [name[:64] for name in shard.getnames()] == list(others)
    assert find_damaged_raw_files(raw, thorough=True) == []  # source.json has the digests of the new files


def test_what_is_forgotten_twice_touches_no_file_again(raw, source):
    gone = {hash_picture(next(source.rglob("*.png")))}
    forget_images(raw, gone)
    before = {path: path.stat().st_mtime_ns for path in raw.iterdir()}
    assert forget_images(raw, gone) == 0
    assert {path: path.stat().st_mtime_ns for path in raw.iterdir()} == before


def test_a_shard_whose_pictures_are_all_forgotten_is_gone(raw, source):
    forget_images(raw, {hash_picture(file) for file in source.rglob("*.png")})
    assert sorted(path.name for path in raw.iterdir()) == ["records.parquet", "source.json"]


def test_labels_of_a_forgotten_picture_leave_the_log_and_other_lines_stay(raw, source):
    gone, stays = (hash_picture(file) for file in sorted(source.rglob("*.png"))[:2])
    kept = LabelEntry("2026-01-01", stays, "1", "0", "Anna", "t.csv").to_line()
    replaced = {"event": SOURCE_REPLACED, "dropped": [gone, "f" * 64]}
    lines = [LabelEntry("2026-01-01", gone, "1", "0", "Anna", "t.csv").to_line(), kept, format_line(replaced)]
    (raw / LABEL_LOG_FILE).write_text("".join(lines))
    forget_images(raw, {gone})
    text = (raw / LABEL_LOG_FILE).read_text()
    assert gone not in text
    assert text.startswith(kept)
    assert len(read_label_log(raw)) == 1


def test_a_shard_that_is_cut_short_stops_it_and_nothing_is_changed(raw, source):
    shard = raw / "shard-00000.tar"
    shard.write_bytes(shard.read_bytes()[:4000])
    before = snapshot(raw)
    with pytest.raises(UserError, match=r"shard-00000\.tar: missing or damaged; `convoy run` restores it"):
        forget_images(raw, {hash_picture(next(source.rglob("*.png")))})
    assert snapshot(raw) == before


def test_an_ingest_leaves_forgotten_pictures_out_and_says_why(raw, source):
    gone = sorted(source.rglob("*.png"))[3]
    forgotten = {hash_picture(gone)}
    forget_images(raw, forgotten)
    summary = ingest_source(source, raw, forgotten=forgotten)
    assert (summary.num_forgotten, summary.num_new, summary.num_unreadable) == (1, 0, 0)
    assert "1 forgotten and left out" in summary.describe()
    rows = [row for row in read_records(raw).to_pylist() if row["reason"] is not None]
    assert [(row["uri"], row["image_id"], row["reason"]) for row in rows] == [("0/" + gone.name, None, FORGOTTEN)]
    assert not ingest_source(source, raw, forgotten=forgotten).changed


def test_a_source_that_takes_the_place_of_another_brings_no_forgotten_picture_back(raw, source):
    gone = sorted(source.rglob("*.png"))[3]
    ingest_source(source, raw, start_anew=True, forgotten={hash_picture(gone)})
    kept = b"".join(snapshot(raw).values())
    assert [file for file in sorted(source.rglob("*.png")) if file.read_bytes() not in kept] == [gone]


def test_forgotten_pictures_do_not_count_as_refused(raw, source, tmp_path):
    forgotten = {hash_picture(file) for file in sorted(source.rglob("*.png"))[:10]}
    ingest_source(source, raw, start_anew=True, forgotten=forgotten)
    params = NORMALIZE_PARAMS | {"max_reject_fraction": 0.0}
    normalize(raw, tmp_path / "normalized", params, workers=1)
    assert ImageStore.open(tmp_path / "normalized").manifest["rejected"][FORGOTTEN] == 10
