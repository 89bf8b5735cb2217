"""The reasons of `check` are those of `normalize`: the content of a file comes before its copies and its label."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from imageset.check import check_source
from imageset.exceptions import UserError
from imageset.normalize.stage import normalize
from imageset.raw.ingestion import ingest_source
from imageset.splits.split_rule import SplitRule
from tests.helpers.datasets import NORMALIZE_PARAMS
from tests.helpers.images import encode_noise, make_image_folder

PHOTO = encode_noise(7, kind="JPEG")
CONTENTS = {
    "page.jpg": b"<!DOCTYPE html><html>410 Gone</html>",
    "nothing.jpg": b"",
    "cut.jpg": PHOTO[:300],
    "cut.png": encode_noise(7)[:400],
    "dot.png": encode_noise(7, 2, 2),
    "wall.png": encode_noise(7, 40, 1200),
    "drawing.svg": b"<svg/>",
}


def compare_reasons(tmp_path: Path, **params: Any) -> Counter[str]:
    """The numbers of reasons, after a comparison of every row."""
    params = (
        NORMALIZE_PARAMS | {"max_reject_fraction": 0.9, "max_pixels": 40_000, "near_duplicate_bits": None} | params
    )
    rule = SplitRule(**params["split"])
    report = check_source(
        tmp_path / "source", rule=rule, workers=1, max_pixels=40_000, near_duplicate_bits=None, on_leak="warn"
    )
    ingest_source(tmp_path / "source", tmp_path / "raw")
    normalize(tmp_path / "raw", tmp_path / "normalized", params, workers=1)
    rows = pq.read_table(tmp_path / "normalized" / "rejected.parquet").to_pylist()
    of_check = sorted((one.uri, one.reason, one.detail) for one in report.refused)
    assert sorted((row["uri"], row["reason"], row["detail"]) for row in rows) == of_check
    return Counter(row["reason"] for row in rows)


@pytest.mark.parametrize("folders", [("ant", "bee"), ("ant", "ant/again"), ("ant",)])
def test_copies_of_what_is_no_picture_have_its_reason(tmp_path: Path, folders: tuple[str, ...]) -> None:
    make_image_folder(tmp_path / "source")
    for folder in folders:
        (tmp_path / "source" / folder).mkdir(exist_ok=True)
        for name, data in CONTENTS.items():
            (tmp_path / "source" / folder / name).write_bytes(data)
    reasons = compare_reasons(tmp_path)
    num = len(folders)
    assert reasons == {
        **{"not_an_image": num, "empty": num, "truncated": 2 * num, "too_small": num, "bomb": num},
        "unsupported": num,
    }


def test_copies_of_pictures_are_still_conflicts_and_duplicates(tmp_path: Path) -> None:
    make_image_folder(tmp_path / "source")
    for name in ("ant/a.jpg", "bee/b.jpg"):
        (tmp_path / "source" / name).write_bytes(PHOTO)
    (tmp_path / "source" / "ant" / "copy.png").write_bytes(encode_noise(0))
    assert compare_reasons(tmp_path) == {"label_conflict": 2, "duplicate": 1}


def test_an_error_page_in_two_splits_is_no_leak(tmp_path: Path) -> None:
    for number, split in enumerate(("train", "val", "test")):
        make_image_folder(tmp_path / "source" / split, num_each=8, first=100 * number)
        (tmp_path / "source" / split / "ant" / "cut.jpg").write_bytes(PHOTO[:300])
    assert compare_reasons(tmp_path, on_leak="fail") == {"truncated": 3}


def test_a_picture_without_a_label_is_refused_for_its_content(tmp_path: Path) -> None:
    make_image_folder(tmp_path / "source")
    (tmp_path / "source" / "cut.jpg").write_bytes(PHOTO[:300])
    (tmp_path / "source" / "stray.jpg").write_bytes(PHOTO)
    assert compare_reasons(tmp_path) == {"truncated": 1, "unlabelled": 1}


def test_copies_of_damaged_pictures_count_as_refused(tmp_path: Path) -> None:
    make_image_folder(tmp_path / "source", num_each=10)
    for number in range(3):
        (tmp_path / "source" / "ant" / f"cut{number}.jpg").write_bytes(PHOTO[:300])
    with pytest.raises(UserError, match=r"3 of 23 pictures are refused \(3 truncated\)"):
        compare_reasons(tmp_path, max_reject_fraction=0.1)
