from __future__ import annotations

import csv
import json
import tarfile
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageFile

from imageset.check import check_source
from imageset.normalize.stage import normalize
from imageset.raw.ingestion import ingest_source
from imageset.splits.split_rule import SplitRule
from tests.helpers.datasets import NORMALIZE_PARAMS, snapshot
from tests.helpers.images import encode_noise, make_image_folder, write_digit_images
from tests.helpers.malformed import write_malformed_files, write_traps
from tests.helpers.permissions import obey_permissions
from tests.helpers.real_data import HOSTILE, extract_archive, needs_hostile


def test_a_check_accounts_for_every_picture_and_writes_nothing(tmp_path: Path) -> None:
    source = make_image_folder(tmp_path / "set")
    (source / "ant" / "text.jpg").write_text("no picture")
    (source / "bee" / "copy.png").write_bytes((source / "bee" / "0000.png").read_bytes())
    (source / "ant" / "other.png").write_bytes((source / "bee" / "0001.png").read_bytes())
    before = snapshot(tmp_path)
    report = check_source(source, max_reject_fraction=0.1, workers=1)
    assert {one.uri: one.reason for one in report.refused} == {
        "ant/text.jpg": "not_an_image",
        "bee/copy.png": "duplicate",
        "ant/other.png": "label_conflict",
        "bee/0001.png": "label_conflict",
    }
    assert (report.num_pictures, report.num_sound, report.classes) == (43, 39, {"ant": 20, "bee": 19})
    assert report.stop_reason is None and "convoy run would accept it" in report.to_text()
    assert snapshot(tmp_path) == before


def test_a_broken_mount_is_announced(tmp_path: Path) -> None:
    source = make_image_folder(tmp_path / "set", num_each=3)
    for file in (source / "ant").iterdir():
        file.write_bytes(bytes(100))
    report = check_source(source, workers=1)
    assert report.stop_reason == "3 of 6 pictures are refused, more than max_reject_fraction 0.05"


def test_a_source_of_which_nothing_can_be_used_is_reported_too(tmp_path: Path) -> None:
    source = make_image_folder(tmp_path / "set", num_each=2)
    for file in source.rglob("*.png"):
        file.write_bytes(b"")
    report = check_source(source, rule=SplitRule(0, 0.2, 0.2), workers=1)
    assert (report.num_pictures, report.num_sound) == (4, 0)
    assert "4 of 4 pictures are refused" in str(report.stop_reason)


def test_a_check_foretells_what_the_run_makes(tmp_path: Path) -> None:
    source = make_image_folder(tmp_path / "set")
    report = check_source(source, rule=SplitRule(**NORMALIZE_PARAMS["split"]), workers=1)
    ingest_source(source, tmp_path / "raw")
    summary = normalize(tmp_path / "raw", tmp_path / "out", NORMALIZE_PARAMS, workers=1)
    assert report.run_splits == summary.counts
    assert "convoy run would accept it: train 21, val 8, test 11" in report.to_text().splitlines()
    assert json.loads(json.dumps(report.to_dict()))["run_splits"] == summary.counts


def test_a_check_foretells_the_size_and_the_colours_that_auto_stands_for(tmp_path: Path) -> None:
    for name, classes in (("set", ("ant", "bee")), ("grey", ("3", "4"))):
        source = tmp_path / name
        if name == "set":
            make_image_folder(source, classes=classes)
        else:
            write_digit_images(source, classes="34", num_each=20)
        report = check_source(source, rule=SplitRule(**NORMALIZE_PARAMS["split"]), workers=1)
        ingest_source(source, tmp_path / f"{name}-raw")
        params = {**NORMALIZE_PARAMS, "size_px": "auto", "channels": "auto"}
        normalize(tmp_path / f"{name}-raw", tmp_path / f"{name}-out", params, workers=1)
        decode = json.loads((tmp_path / f"{name}-out" / "dataset.json").read_text())["decode"]
        assert (report.size_px, report.channels) == (decode["size"], decode["channels"])
        colours = "grey" if name == "grey" else "colour"
        assert f"pictures would be {report.size_px} x {report.size_px} px, {colours}" in report.to_text()


def test_a_single_class_can_be_looked_at(tmp_path: Path) -> None:
    report = check_source(make_image_folder(tmp_path / "set", classes=("ant",), num_each=2), workers=1)
    assert report.num_sound == 2 and "a single class 'ant'" in str(report.stop_reason)


def test_a_name_with_a_line_break_stays_on_one_line_of_the_report(tmp_path: Path) -> None:
    source = make_image_folder(tmp_path / "set", num_each=2)
    (source / "ant" / "two\nlines\u202e.jpg").touch()
    assert "two\\nlines\\u202e.jpg" in check_source(source, workers=1).to_text()


def test_malformed_files_go_through_with_every_one_accounted_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_malformed_files(tmp_path / "set")
    with monkeypatch.context() as patch:
        patch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", False)
        decodable = {str(file.relative_to(root)) for file in root.rglob("*") if file.is_file() and _opens(file)}
    assert len(decodable) > 50
    check_malformed(root, decodable)


def _opens(path: Path) -> bool:
    """Whether Pillow decodes a file. It may crash on other files than these."""
    try:
        with Image.open(path) as picture:
            picture.load()
    except (OSError, RuntimeError, SyntaxError, ValueError, Image.DecompressionBombError):
        return False
    return True


@needs_hostile
def test_the_hostile_corpus_goes_through_with_every_file_accounted_for(tmp_path: Path) -> None:
    with tarfile.open(HOSTILE / "corpus.tar.gz") as archive:
        extract_archive(archive, tmp_path)
    (root,) = tmp_path.iterdir()
    with (HOSTILE / "MANIFEST.csv").open() as manifest:
        rows = list(csv.DictReader(manifest))
    pillow_can = {row["path"] for row in rows if row["pillow"] == "ok"}
    pillow_can |= {row["path"] for row in rows if row["path"].endswith((".heic", ".heif"))}  # by pillow-heif
    check_malformed(root, pillow_can)


def check_malformed(root: Path, decodable: set[str]) -> None:
    """Check, ingest and normalize a folder: what Pillow cannot decode is refused, and all is accounted for."""
    report = check_source(root, timeout_s=120)
    files = [file for file in root.rglob("*") if file.is_file()]
    assert report.num_pictures + sum(report.passed_over.values()) == len(files)
    assert report.num_sound + len(report.refused) == report.num_pictures
    reasons = Counter(one.reason for one in report.refused)
    assert reasons["crashed"] == reasons["timeout"] == 0
    assert {"bomb", "truncated", "undecodable", "unsupported", "too_small", "empty"} <= set(reasons)
    refused = {one.uri for one in report.refused}
    walked = {str(file.relative_to(root)) for file in files}
    assert not [uri for uri in walked - refused - decodable if _taken(uri)]
    ingest_source(root, root.parent / "raw")
    lenient = NORMALIZE_PARAMS | {"max_pixels": 178_956_970, "max_reject_fraction": 1.0}
    summary = normalize(root.parent / "raw", root.parent / "out", lenient, timeout_s=120)
    assert summary.rejected == dict(sorted(reasons.items()))
    rows = pq.read_table(root.parent / "out" / "rejected.parquet").to_pylist()
    assert {(row["uri"], row["reason"]) for row in rows} == {(one.uri, one.reason) for one in report.refused}


def _taken(uri: str) -> bool:
    from imageset.sources.files import IMAGE_EXTENSIONS

    return Path(uri).suffix.lower() in IMAGE_EXTENSIONS and not Path(uri).name.startswith(".")


def test_a_folder_of_traps_is_walked_and_never_left(tmp_path: Path) -> None:
    write_traps(tmp_path / "set" / "trap", encode_noise(777))
    make_image_folder(tmp_path / "set", num_each=1)
    report = check_source(tmp_path / "set", workers=1)
    assert report.passed_over == {"links": 8, "hidden": 1, "devices, sockets and FIFOs": 2}
    reasons = Counter(one.reason for one in report.refused)
    assert reasons["bomb"] == 1 and reasons["duplicate"] >= 22 and report.num_sound == 3
    make_image_folder(tmp_path / "set", num_each=20, first=1)
    found = ingest_source(tmp_path / "set", tmp_path / "raw")
    assert found.num_unreadable == 1 and found.num_new == 43  # 20 GB of nothing are not read
    summary = normalize(tmp_path / "raw", tmp_path / "out", NORMALIZE_PARAMS, workers=1)
    assert (
        summary.rejected == {"bomb": 1, "duplicate": reasons["duplicate"]} and sum(summary.counts.values()) == 43
    )


def test_a_file_without_permission_is_unreadable(tmp_path: Path) -> None:
    source = make_image_folder(tmp_path / "set", num_each=2)
    (source / "ant" / "0000.png").chmod(0)
    with obey_permissions():
        assert [one.reason for one in check_source(source, workers=1).refused] == ["unreadable"]


def test_look_alikes_and_leaks_are_named(tmp_path: Path) -> None:
    from tests.helpers.images import make_split_folder

    report = check_source(make_split_folder(tmp_path / "set"), workers=1)
    assert len(report.near_duplicates) == 5 and next(iter(report.near_duplicates)) == [
        "test/ant/100.jpg",
        "train/ant/leak100.jpg",
    ]
    assert "5 pictures look like" in report.warnings[0] and "near duplicates: 10 in 5 groups" in report.to_text()


def test_a_class_without_training_pictures_and_empty_folders_are_warned_of(tmp_path: Path) -> None:
    for number, split in enumerate(("train", "val", "test")):
        classes = ("ant", "bee") if split == "train" else ("ant", "bee", "wasp")
        make_image_folder(tmp_path / "set" / split, classes=classes, num_each=3, first=100 * number)
    (tmp_path / "set" / "train" / "wasp").mkdir()
    report = check_source(tmp_path / "set", workers=1, rule=SplitRule(**NORMALIZE_PARAMS["split"]))
    assert report.stop_reason is None and report.warnings == [
        "1 folder holds no pictures: train/wasp",
        "1 class has pictures in val or test but none in train, and cannot be learned: wasp 6; "
        "add training pictures, or leave out these",
    ]
