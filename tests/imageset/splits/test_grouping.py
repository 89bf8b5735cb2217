"""Sequences from the source to the index: what `group: auto` does, says and leaves alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from imageset.check import check_source
from imageset.normalize.stage import NormalizeSummary, normalize
from imageset.raw.ingestion import ingest_source
from imageset.splits.split_rule import SplitRule, assign_splits
from imageset.store.reader import ImageStore
from tests.helpers.datasets import NORMALIZE_PARAMS
from tests.helpers.images import draw_photo, encode_jpeg, encode_noise

AUTO = NORMALIZE_PARAMS["split"] | {"group": "auto"}


def make_clips(folder: Path, clips: dict[str, int], *, first: int = 0, num_frames: int = 4) -> Path:
    """Frames of clips, NAME_frame_N.png in a folder a class; no two pictures look alike."""
    for label, num in clips.items():
        (folder / label).mkdir(parents=True, exist_ok=True)
        for clip in range(first, first + num):
            for frame in range(num_frames):
                seed = 10_000 * ord(label[0]) + 100 * clip + frame
                (folder / label / f"v{clip:02d}_frame_{frame}.png").write_bytes(encode_noise(seed))
    return folder


def make_tracks(folder: Path, name: str, num: int = 5, num_frames: int = 6) -> Path:
    """Frames of tracks without a word in their names: the same photograph, moved from frame to frame."""
    for number, label in enumerate(("ant", "bee")):
        (folder / label).mkdir(parents=True, exist_ok=True)
        for track in range(num):
            photo = np.asarray(draw_photo(100 * number + track).resize((48, 48)))
            for frame in range(num_frames):
                moved = np.roll(photo, frame // 2, axis=1).astype(int) + 4 * frame
                image = Image.fromarray(np.clip(moved, 0, 255).astype(np.uint8))
                path = folder / label / name.format(track=track, frame=frame, number=track * num_frames + frame)
                path.write_bytes(encode_jpeg(image, 90))
    return folder


def run(folder: Path, source: Path, **params: Any) -> tuple[NormalizeSummary, dict[str, tuple[str, str | None]]]:
    """Ingest and normalize; return the summary, and (split, group) by uri."""
    ingest_source(source, folder / "raw")
    summary = normalize(folder / "raw", folder / "out", NORMALIZE_PARAMS | {"split": AUTO} | params, workers=1)
    columns = (ImageStore.open(folder / "out").index[name].to_pylist() for name in ("uri", "split", "group"))
    return summary, {uri: (split, group) for uri, split, group in zip(*columns, strict=True)}


def test_clips_stay_together_in_every_split_and_are_said_in_one_line(tmp_path: Path) -> None:
    source = make_clips(tmp_path / "set", {"ant": 3, "butterfly": 5})
    summary, rows = run(tmp_path, source)
    line = "8 sequences of about 4 frames, by file name: kept together in one split"
    assert summary.sequences == line and summary.warnings == []
    assert json.loads((tmp_path / "out" / "dataset.json").read_text())["sequences"] == line
    assert line in (tmp_path / "out" / "dataset.html").read_text()
    places = {group: {split for split, other in rows.values() if other == group} for _, group in rows.values()}
    assert len(places) == 8 and all(len(splits) == 1 for splits in places.values())
    for label in ("ant", "butterfly"):
        assert {split for uri, (split, _) in rows.items() if uri.startswith(label)} == {"train", "val", "test"}
    assert rows["ant/v00_frame_0.png"][1] == "ant/v00"
    report = check_source(source, rule=SplitRule(**AUTO), near_duplicate_bits=None, workers=1)
    assert report.sequences == line and line in report.to_text().splitlines()
    assert report.run_splits == {split: sum(s == split for s, _ in rows.values()) for split in report.run_splits}


def test_a_set_that_grows_moves_nothing(tmp_path: Path) -> None:
    source = make_clips(tmp_path / "set", {"ant": 4, "butterfly": 4})
    _, known = run(tmp_path, source)
    steps: list[dict[str, int]] = [{"ant": 4, "butterfly": 4}, {"ant": 2}, {"cicada": 3}]
    for number, clips in enumerate(steps):
        first = 0 if number == 0 else 10 * number
        make_clips(source, clips, first=first, num_frames=6 if number == 0 else 4)  # first: longer clips
        if number == 2:
            for frame in range(4):
                (source / "ant" / f"v00_frame_{frame}.png").unlink()
        summary, rows = run(tmp_path, source)
        assert {uri: rows[uri] for uri in known if uri in rows} == {u: r for u, r in known.items() if u in rows}
        assert not any("last version" in line for line in summary.warnings)
        known = rows
    assert {split for uri, (split, _) in known.items() if uri.startswith("cicada")} == {"train", "val", "test"}


def test_tracks_without_a_word_in_their_names_are_found_by_their_looks(tmp_path: Path) -> None:
    source = make_tracks(tmp_path / "set", "{track:05d}_{frame:05d}.jpg")
    summary, rows = run(tmp_path, source)
    assert summary.sequences == "10 sequences of about 6 frames, by file name: kept together in one split"
    assert all(group == uri.rpartition("_")[0] for uri, (_, group) in rows.items())


def test_plainly_numbered_pictures_have_the_split_that_they_have_without_groups(tmp_path: Path) -> None:
    source = make_tracks(tmp_path / "set", "IMG_{number:04d}.jpg")
    summary, rows = run(tmp_path / "auto", source)
    _, plain = run(tmp_path / "null", source, split=NORMALIZE_PARAMS["split"])
    assert summary.sequences == "" and rows == plain
    assert {split for split, _ in rows.values()} == {"train", "val", "test"}


def test_without_groups_the_frames_that_are_tested_and_trained_on_are_counted(tmp_path: Path) -> None:
    source = make_clips(tmp_path / "set", {"ant": 3, "butterfly": 5})
    null = NORMALIZE_PARAMS["split"]
    summary, rows = run(tmp_path, source, split=null)
    clip_splits: dict[str, set[str]] = {}
    for uri, (split, _) in rows.items():
        clip_splits.setdefault(uri.rpartition("_")[0], set()).add(split)
    tested = [uri for uri, (split, _) in rows.items() if split == "test"]
    num = sum("train" in clip_splits[uri.rpartition("_")[0]] for uri in tested)
    assert summary.sequences == "" and num
    (warning,) = summary.warnings
    assert f"8 sequences of about 4 frames, by file name, are not kept together: {num} of {len(tested)}" in warning
    assert "`group: auto`" in warning
    report = check_source(source, rule=SplitRule(**null), near_duplicate_bits=None, workers=1)
    assert report.warnings == summary.warnings and report.sequences == ""


def test_pictures_that_look_like_their_neighbours_by_number_are_counted(tmp_path: Path) -> None:
    """One long video a class: its frames are in every split, since a class is no group."""
    source = make_tracks(tmp_path / "set", "IMG_{number:04d}.jpg")
    for number, split in enumerate((AUTO, NORMALIZE_PARAMS["split"])):
        summary, rows = run(tmp_path / str(number), source, split=split)
        num_test = sum(place == "test" for place, _ in rows.values())
        (warning,) = summary.warnings
        assert f"of {num_test} test pictures look like a training picture" in warning
        assert "as frames of a video do" in warning


def test_near_duplicates_are_counted_where_they_are_not_looked_for(tmp_path: Path) -> None:
    source = tmp_path / "set"
    for position, label in enumerate(("ant", "bee")):
        (source / label).mkdir(parents=True)
        for number in range(60):
            photo = draw_photo(1000 * position + (number if number % 6 else number + 1))  # every sixth twice
            (source / label / f"{number:03d}.jpg").write_bytes(encode_jpeg(photo, 70 if number % 6 else 95))
    summary, rows = run(tmp_path, source, near_duplicate_bits=None)
    num_test = sum(place == "test" for place, _ in rows.values())
    (warning,) = summary.warnings
    assert f"of {num_test} test pictures look like a training picture" in warning
    assert "near_duplicate_bits: 4 keeps" in warning
    summary, _ = run(tmp_path, source, near_duplicate_bits=4)
    assert not any("look like" in line for line in summary.warnings)


def test_sequences_that_the_source_divides_stay_divided_and_are_counted(tmp_path: Path) -> None:
    source = make_clips(tmp_path / "set", {"ant": 3, "butterfly": 3})
    uris = sorted(path.relative_to(source).as_posix() for path in source.rglob("*.png"))
    lines = [f"{uri},{uri.partition('/')[0]},{'test' if uri.endswith('0.png') else 'train'}" for uri in uris]
    (source / "table.csv").write_text("\n".join(["path,label,split", *lines]))
    summary, rows = run(tmp_path, source / "table.csv")
    assert len(rows) == 24 and summary.rejected == {}
    assert {split for uri, (split, _) in rows.items() if uri.endswith("0.png")} == {"test"}
    (warning,) = summary.warnings
    assert "4 of 6 test pictures have frames of the same sequence in train by the source's own split" in warning
    held = [uri for uri, (split, _) in rows.items() if split == "val"]
    assert len({uri.rpartition("_frame")[0] for uri in held}) == 2  # the rest of the other two clips


def test_another_rule_says_how_many_pictures_it_moves(tmp_path: Path) -> None:
    source = make_clips(tmp_path / "set", {"ant": 6, "butterfly": 6})
    _, before = run(tmp_path, source, split=NORMALIZE_PARAMS["split"])
    summary, after = run(tmp_path, source)
    num = sum(before[uri][0] == "test" and after[uri][0] == "train" for uri in before)
    assert num and f"{num} pictures from test to train" in summary.warnings[0]
    summary, _ = run(tmp_path, source)
    assert summary.warnings == []


@pytest.mark.parametrize("group", [None, r"(\w+/v\d+)_"])
def test_null_and_a_pattern_divide_by_the_hash_alone_as_they_always_did(tmp_path: Path, group: str | None) -> None:
    source = make_clips(tmp_path / "set", {"ant": 6, "butterfly": 6}, num_frames=2)
    rule = NORMALIZE_PARAMS["split"] | {"group": group}
    _, rows = run(tmp_path, source, split=rule)
    index = ImageStore.open(tmp_path / "out").index
    names = [uri.rpartition("_frame")[0] if group else None for uri in index["uri"].to_pylist()]
    expected = assign_splits(index["image_id"].to_pylist(), names, [None] * len(index), SplitRule(**rule))
    assert index["split"].to_pylist() == expected and [other for _, other in rows.values()] == names
