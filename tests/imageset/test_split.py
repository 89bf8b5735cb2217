from __future__ import annotations

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imageset.errors import UserError
from imageset.split import SplitRule, assign

RULE = SplitRule(seed=0, val=0.15, test=0.15)


def ids(num: int) -> list[str]:
    return [hashlib.sha256(str(number).encode()).hexdigest() for number in range(num)]


def test_the_fractions_are_met() -> None:
    splits = assign(ids(5000), [None] * 5000, [None] * 5000, RULE)
    assert abs(splits.count("val") - 750) < 100 and abs(splits.count("test") - 750) < 100


@given(st.sets(st.text(), min_size=1, max_size=20), st.sets(st.text(), max_size=20))
@settings(deadline=None, max_examples=50)
def test_a_picture_never_changes_split_when_others_come(old: set[str], new: set[str]) -> None:
    before = dict(zip(sorted(old), assign(sorted(old), [None] * len(old), [None] * len(old), RULE), strict=True))
    every = sorted(old | new)
    after = dict(zip(every, assign(every, [None] * len(every), [None] * len(every), RULE), strict=True))
    assert all(after[image_id] == split for image_id, split in before.items())


@given(st.lists(st.tuples(st.text(), st.integers(0, 5)), min_size=1, max_size=20))
@settings(deadline=None, max_examples=50)
def test_a_group_is_never_divided(pictures: list[tuple[str, int]]) -> None:
    groups = [str(group) for _, group in pictures]
    splits = assign([image_id for image_id, _ in pictures], list(groups), [None] * len(groups), RULE)
    assert len(set(zip(groups, splits, strict=True))) == len(set(groups))


def test_another_seed_is_another_split() -> None:
    one, two = (assign(ids(100), [None] * 100, [None] * 100, SplitRule(seed, 0.15, 0.15)) for seed in (0, 1))
    assert one != two


def test_a_split_made_by_the_source_is_respected_and_validation_cut_from_train() -> None:
    made = ["train" if number % 2 else "test" for number in range(1000)]
    splits = assign(ids(1000), [None] * 1000, list(made), RULE)
    assert all((before == "test") == (after == "test") for before, after in zip(made, splits, strict=True))
    assert 40 < splits.count("val") < 120


def test_impossible_fractions_are_refused() -> None:
    with pytest.raises(UserError, match="leave something for training"):
        SplitRule(0, 0.5, 0.5)
