from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from imageset.splits.sequence_names import add_sequence_names, parse_name


@pytest.mark.parametrize(
    ("uri", "sequence", "frame", "is_explicit"),
    [
        ("00012/00003_00029.ppm", "00012/00003", 29, False),
        ("walk/video3_frame_000123.jpg", "walk/video3", 123, True),
        ("walk/kitchen_frame_000123.jpg", "walk/kitchen", 123, True),
        ("dog/IMG_20240101_120000_BURST001.jpg", "dog/IMG_20240101_120000", 1, True),
        ("dog/00004IMG_00004_BURST20240101120000123_COVER.jpg", "dog/burst 20240101120000123", 120000123, True),
        ("dog/clip-01/0001.png", "dog/clip-01", 1, True),
        ("dog/patient_7/scan.png", "dog/patient_7", 0, True),
        ("dog/slide7_x100_y200.png", "dog/slide7", 200, True),
        ("dog/A7-r03-c12.png", "dog/A7", 12, True),
        ("dog/S1_tile_12.png", "dog/S1", 12, True),
        ("sick/person12_bacteria_7.jpeg", "sick/person12", 7, True),
        ("dog/IMG_1234.jpg", "dog/IMG", 1234, False),
        ("dog/dog.123.jpg", "dog/dog", 123, False),
        ("dog/0001.png", "dog", 1, False),
        ("7/00123.png", "7", 123, False),
        ("0001.png", "", 1, False),
    ],
)
def test_a_name_is_taken_apart_into_sequence_and_frame(
    uri: str, sequence: str, frame: int, is_explicit: bool
) -> None:
    parts = parse_name(uri, uri.partition("/")[0])
    assert parts is not None
    assert (parts.sequence, parts.frame, parts.is_explicit) == (sequence, frame, is_explicit)


def test_random_ids_hold_no_number_of_a_frame() -> None:
    assert parse_name("dog/62c6229a4e.jpg", "dog") is None
    ids = ["rose/10090824183_d02c613f10_m.jpg", "rose/10090824183_e12c613f11_m.jpg"]
    assert len({parts.sequence for parts in (parse_name(uri, "rose") for uri in ids) if parts}) == 1  # the class
    assert parse_name("dog/cat.jpg", "dog") is None


def test_the_folder_of_a_class_is_no_sequence() -> None:
    parts = parse_name("clip-01/0001.png", "clip-01")
    assert parts is not None and not parts.is_explicit


def test_frames_of_two_splits_of_the_source_and_groups_of_the_source_are_apart() -> None:
    rows = pa.table(
        {
            "uri": ["a/v1_frame_1.png", "a/v1_frame_2.png", "a/v1_frame_3.png", "a/v1_frame_4.png"],
            "label": ["a"] * 4,
            "group": pa.array([None, None, None, "patient"], pa.string()),
            "split": pa.array([None, "train", None, None], pa.string()),
        }
    )
    rows = add_sequence_names(rows)
    sequences = rows["sequence"].to_pylist()
    assert sequences[0] == sequences[2] and len(set(sequences)) == 3
    assert rows["frame"].to_pylist()[:3] == [1, 2, 3]
    families = rows["family"].to_numpy()
    assert (families[:3] % 2 == np.ones(3)).all() and families[3] == 0
