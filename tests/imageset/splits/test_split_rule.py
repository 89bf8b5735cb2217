from __future__ import annotations

import hashlib
from datetime import date

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imageset.exceptions import UserError
from imageset.normalize.rows import fill_group_and_time
from imageset.splits.split_rule import (
    SplitRule,
    assign_splits,
    hash_to_unit_interval,
    list_split_hashes,
    match_uris,
)

RULE = SplitRule(seed=0, val=0.15, test=0.15)


def ids(num: int) -> list[str]:
    return [hashlib.sha256(str(number).encode()).hexdigest() for number in range(num)]


def test_the_fractions_are_met() -> None:
    splits = assign_splits(ids(5000), [None] * 5000, [None] * 5000, RULE)
    assert abs(splits.count("val") - 750) < 100 and abs(splits.count("test") - 750) < 100


@given(st.sets(st.text(), min_size=1, max_size=20), st.sets(st.text(), max_size=20))
@settings(deadline=None, max_examples=50)
def test_a_picture_never_changes_split_when_others_come(old: set[str], new: set[str]) -> None:
    before = dict(
        zip(sorted(old), assign_splits(sorted(old), [None] * len(old), [None] * len(old), RULE), strict=True)
    )
    every = sorted(old | new)
    after = dict(zip(every, assign_splits(every, [None] * len(every), [None] * len(every), RULE), strict=True))
    assert all(after[image_id] == split for image_id, split in before.items())


@given(st.lists(st.tuples(st.text(), st.integers(0, 5)), min_size=1, max_size=20))
@settings(deadline=None, max_examples=50)
def test_a_group_is_never_divided(pictures: list[tuple[str, int]]) -> None:
    groups = [str(group) for _, group in pictures]
    splits = assign_splits([image_id for image_id, _ in pictures], list(groups), [None] * len(groups), RULE)
    assert len(set(zip(groups, splits, strict=True))) == len(set(groups))


def test_a_split_that_was_decided_already_has_a_hash_that_leads_to_it() -> None:
    hashes = list_split_hashes(RULE)
    assert assign_splits([], [], [None] * 3, RULE, hashes=hashes) == ["train", "val", "test"]


def test_another_seed_is_another_split() -> None:
    one, two = (
        assign_splits(ids(100), [None] * 100, [None] * 100, SplitRule(seed, 0.15, 0.15)) for seed in (0, 1)
    )
    assert one != two


def test_the_same_pictures_and_groups_have_the_split_that_earlier_versions_gave_them() -> None:
    """Golden values: everybody's data would be divided anew by another hash, salt, or order of val and test."""
    assert hash_to_unit_interval(ids(2), [None, None], 0).tolist() == [0.37203867344428226, 0.8412186971752877]
    names: list[str | None] = ["a", "b"]
    assert hash_to_unit_interval(ids(2), names, 0).tolist() == [0.6969128891509271, 0.014824939858473938]
    assert hash_to_unit_interval(ids(2), names, 1).tolist() == [0.1563569445091486, 0.03920289931904807]
    named: list[str | None] = [f"P{number}" for number in range(12)]
    golden = {(0, False): "vrrrrvttrtrr", (0, True): "rrrrvrtrrtrt",
              (1, False): "rvttrrrrvrrr", (1, True): "tttvrrrrtrrv"}  # fmt: skip
    for (seed, is_grouped), expected in golden.items():
        rule = SplitRule(seed, 0.15, 0.25)
        splits = assign_splits(ids(12), named if is_grouped else [None] * 12, [None] * 12, rule)
        assert "".join({"train": "r", "val": "v", "test": "t"}[split] for split in splits) == expected


def test_a_split_made_by_the_source_is_respected_and_validation_cut_from_train() -> None:
    made = ["train" if number % 2 else "test" for number in range(1000)]
    splits = assign_splits(ids(1000), [None] * 1000, list(made), RULE)
    assert all((before == "test") == (after == "test") for before, after in zip(made, splits, strict=True))
    assert 40 < splits.count("val") < 120


def test_impossible_fractions_are_refused() -> None:
    with pytest.raises(UserError, match="leave something for training"):
        SplitRule(0, 0.5, 0.5)


TIMED = SplitRule(0, 0.15, 0.15, by="time", val_from="2024-01-01", test_from="2024-06-01 12:00")


def test_a_split_by_time_is_cut_at_its_dates() -> None:
    days = [
        "2019-05-01",
        "2023-12-31T23:59:59",
        "2024-01-01",
        "2024-06-01T11:59:59",
        "2024-06-01T12:00",
        "2030-01-01",
    ]
    times = np.array([*days, "NaT"], "datetime64[us]")
    splits = assign_splits(ids(7), [None] * 7, [None] * 7, TIMED, times)
    assert splits == ["train", "train", "val", "val", "test", "test", "train"]


def test_a_split_by_time_respects_what_the_source_made() -> None:
    times = np.array(["2024-07-01", "2019-01-01", "2024-02-01"], "datetime64[us]")
    assert assign_splits(ids(3), [None] * 3, ["train", "test", "train"], TIMED, times) == ["train", "test", "val"]


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"by": "day"}, "split.by: must be one of hash, time"),
        ({"by": "time"}, "needs val_from and test_from"),
        ({"by": "time", "val_from": "2024-06-01", "test_from": "2024-01-01"}, "must be before test_from"),
        ({"by": "time", "val_from": "soon", "test_from": "2024-01-01"}, "val_from: not a date: 'soon'"),
        ({"by": "time", "val_from": date(2024, 1, 1), "test_from": "2025"}, "put the date in quotes"),
        ({"val_from": "2024-01-01"}, "are for `by: time`"),
        ({"group": "a(b"}, "not a regular expression"),
        ({"group": "ab"}, "holds no group"),
    ],
)
def test_a_wrong_rule_is_explained_in_one_line(said: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message.replace("(", r"\(")) as caught:
        SplitRule(0, 0.15, 0.15, **said)
    assert "\n" not in str(caught.value)


def test_a_pattern_finds_groups_in_uris_and_says_when_it_finds_none() -> None:
    uris = ["00006/00001_00029.ppm", "00006/00002_00000.ppm", "readme.ppm"]
    assert match_uris(r"(\d+/\d+)_\d+\.ppm", uris) == ["00006/00001", "00006/00002", None]
    records = pa.record_batch({"uri": uris, "group": pa.nulls(3, pa.string())})
    found = fill_group_and_time([records], SplitRule(0, 0.1, 0.1, group="(patient)"))
    with pytest.raises(UserError, match=r"found in no uri, e\.g\. not in '00006/00001_00029"):
        list(found)
