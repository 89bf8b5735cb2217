"""The stratified split of groups, on tables of what an ingest records."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imageset.splits.sequence_names import add_sequence_names
from imageset.splits.split_rule import SplitRule, hash_to_unit_interval
from imageset.splits.stratification import NO_SPLIT, TEST, TRAIN, VAL, divide_cohort, split_groups

RULE = SplitRule(0, 0.15, 0.15, group="auto")
FRACTIONS = (0.15, 0.15)
ALL = {TRAIN, VAL, TEST}


def identify(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()


Frame = tuple[str, int, int, int, bool]  # class, track, frame, ingest, absent


def split_tracks(
    frames: list[Frame], rule: SplitRule = RULE, root: str = "", source_splits: Sequence[str | None] = (None,)
) -> dict[str, int]:
    """The split of each track, by its name without the root."""
    num = len(frames)
    rows = pa.table(
        {
            "uri": [f"{root}{label}/v{track}_frame_{frame}.png" for label, track, frame, _, _ in frames],
            "label": pa.array([label for label, *_ in frames], pa.string()),
            "group": pa.nulls(num, pa.string()),
            "split": pa.array([source_splits[0]] * num, pa.string()),
            "image_id": pa.array([identify(*frame[:3]) for frame in frames], pa.string()),
            "ingest": pa.array([frame[3] for frame in frames], pa.int32()),
            "absent": pa.array([frame[4] for frame in frames], pa.bool_()),
        }
    )
    rows = add_sequence_names(rows)
    families = dict.fromkeys(rows["family"].to_pylist(), 0)
    found = split_groups(rows, families, rule, source_splits).find_splits(rows["sequence"].to_numpy())
    return {f"{frame[0]}/{frame[1]}": split for frame, split in zip(frames, found.tolist(), strict=True)}


def make_frames(tracks: dict[str, int], ingest: int = 0, first: int = 0, num_frames: int = 3) -> list[Frame]:
    return [
        (label, track, frame, ingest, False)
        for label, num in tracks.items()
        for track in range(first, first + num)
        for frame in range(num_frames)
    ]


def test_the_placement_of_tracks_is_that_of_earlier_versions() -> None:
    """Golden values: another hash, another order or other quotas are another split of everybody's data."""
    frames = make_frames({"ant": 20, "bee": 3, "cat": 2, "dog": 1})
    found = split_tracks(frames)
    assert "".join("rvt"[split] for split in found.values()) == "rrrrvvrrrrrrrrvrtttrtvrtrr"
    found = split_tracks(frames, SplitRule(1, 0.15, 0.15, group="auto"))
    assert "".join("rvt"[split] for split in found.values()) == "rrrrtvrtvrrrrrrrvtrrtvrrvr"


@given(st.integers(3, 40), st.integers(0, 1000))
@settings(deadline=None, max_examples=60)
def test_each_class_of_three_groups_is_in_every_split_and_quotas_are_kept(num: int, seed: int) -> None:
    found = split_tracks(make_frames({"ant": num, "bee": 3}), SplitRule(seed, 0.15, 0.15, group="auto"))
    for label, total in (("ant", num), ("bee", 3)):
        counts = Counter(split for name, split in found.items() if name.startswith(label))
        assert set(counts) == ALL
        for split in (VAL, TEST):
            assert max(1, int(0.15 * total)) <= counts[split] <= int(0.15 * total) + 1


def test_fewer_groups_are_in_train_first_and_then_held_out() -> None:
    found = [split_tracks(make_frames({"ant": 1}), SplitRule(seed, 0.15, 0.15)) for seed in range(20)]
    assert {*map(tuple, (split.values() for split in found))} == {(TRAIN,)}
    two = [
        sorted(split_tracks(make_frames({"ant": 2}), SplitRule(seed, 0.15, 0.15)).values()) for seed in range(20)
    ]
    assert {tuple(split) for split in two} == {(TRAIN, VAL), (TRAIN, TEST)}


STEPS = st.lists(
    st.dictionaries(st.sampled_from(["ant", "bee", "cat"]), st.integers(1, 6), max_size=3), min_size=1, max_size=5
)


@given(STEPS, st.integers(0, 50), st.data())
@settings(deadline=None, max_examples=80)
def test_nothing_moves_when_frames_groups_and_classes_come_and_go(
    steps: list[dict[str, int]], seed: int, data: st.DataObject
) -> None:
    rule = SplitRule(seed, 0.15, 0.15, group="auto")
    frames: list[Frame] = []
    known: dict[str, int] = {}
    for ingest, tracks in enumerate(steps):
        older = [(label, track, frame + 100, ingest, False) for label, track, frame, *_ in frames[::4]]
        frames += older + make_frames(tracks, ingest, first=10 * ingest)
        found = split_tracks(frames, rule)
        assert {name: found[name] for name in known} == known
        known = found
    if frames:
        gone = data.draw(st.sets(st.integers(0, len(frames) - 1)))
        left = [(*frame[:4], number in gone) for number, frame in enumerate(frames)]
        assert split_tracks(left, rule) == known
        assert split_tracks(left, rule, root="renamed/") == known
        assert split_tracks(left[::-1], rule) == known


def test_a_class_that_grows_group_by_group_is_soon_in_every_split() -> None:
    frames: list[Frame] = []
    for ingest in range(3):
        frames += make_frames({"ant": 1}, ingest, first=ingest)
    assert sorted(split_tracks(frames).values()) == [TRAIN, VAL, TEST]
    for ingest in range(3, 300):
        frames += make_frames({"ant": 1}, ingest, first=ingest, num_frames=1)
    counts = Counter(split_tracks(frames).values())
    assert 25 < counts[TEST] < 70 and 25 < counts[VAL] < 70


def test_renamed_folders_move_no_track_while_the_old_names_are_absent() -> None:
    frames = make_frames({"ant": 9, "bee": 5})
    before = split_tracks(frames)
    both = [(*frame[:4], True) for frame in frames]
    rows = {f"new/{name}": split for name, split in before.items()}
    moved = [(f"new/{frame[0]}", *frame[1:]) for frame in frames]
    ids = {frame[:3]: identify(*frame[:3]) for frame in frames}
    found = _split_named(both, moved, ids)
    assert found == rows


def test_tracks_that_are_in_another_class_now_are_divided_among_its_splits() -> None:
    frames = make_frames({"ant": 30})
    wasps = [("new/wasp", *frame[1:]) for frame in frames if frame[1] % 10 == 7]
    old = [(*frame[:4], frame[1] % 10 == 7) for frame in frames]
    ids = {(label, *frame[1:3]): identify(*frame[:3]) for frame in frames for label in ("ant", "wasp")}
    assert set(_split_named(old, wasps, ids).values()) == ALL


def _split_named(old: list[Frame], new: list[Frame], ids: dict[tuple[str, int, int], str]) -> dict[str, int]:
    frames = [*old, *new]
    rows = pa.table(
        {
            "uri": [f"{label}/v{track}_frame_{frame}.png" for label, track, frame, *_ in frames],
            "label": [label.removeprefix("new/") for label, *_ in frames],
            "group": pa.nulls(len(frames), pa.string()),
            "split": pa.nulls(len(frames), pa.string()),
            "image_id": [ids[(label.removeprefix("new/"), track, frame)] for label, track, frame, *_ in frames],
            "ingest": pa.array([0] * len(frames), pa.int32()),
            "absent": [frame[4] for frame in frames],
        }
    )
    rows = add_sequence_names(rows)
    found = split_groups(rows, dict.fromkeys(rows["family"].to_pylist(), 0), RULE, [None])
    splits = found.find_splits(rows["sequence"].to_numpy())[len(old) :]
    return {f"{frame[0]}/{frame[1]}": int(split) for frame, split in zip(new, splits, strict=True)}


def test_a_source_with_a_test_split_of_its_own_has_validation_groups_in_each_class() -> None:
    found = split_tracks(make_frames({"ant": 4, "bee": 2, "cat": 1}), source_splits=["train", "test"])
    counts = {label: Counter(split for name, split in found.items() if name.startswith(label)) for label in
              ("ant", "bee", "cat")}  # fmt: skip
    assert counts == {"ant": {TRAIN: 3, VAL: 1}, "bee": {TRAIN: 1, VAL: 1}, "cat": {TRAIN: 1}}


def test_many_ungrouped_images_of_a_class_leave_its_groups_to_their_hashes() -> None:
    def build(num_single: int) -> list[int]:
        frames = make_frames({"ant": 1})
        num = len(frames) + num_single
        rows = pa.table(
            {
                "uri": [f"ant/v1_frame_{n}.png" for n in range(3)] + [f"ant/x{n}.png" for n in range(num_single)],
                "label": ["ant"] * num,
                "group": pa.nulls(num, pa.string()),
                "split": pa.nulls(num, pa.string()),
                "image_id": [identify("t", n) for n in range(num)],
                "ingest": pa.array([0] * num, pa.int32()),
                "absent": [False] * num,
            }
        )
        rows = add_sequence_names(rows)
        explicit = {family: 0 for family in rows["family"].to_pylist() if family % 2}
        return [
            int(split_groups(rows, explicit, SplitRule(seed, 0.2, 0.2), [None]).splits[0]) for seed in range(40)
        ]

    assert set(build(0)) == {TRAIN} and set(build(60)) == ALL


@pytest.mark.parametrize("seed", range(30))
def test_a_single_group_goes_where_its_hash_puts_it(seed: int) -> None:
    value = float(hash_to_unit_interval([identify(seed)], [None], 0)[0])
    expected = TEST if value < 0.15 else VAL if value < 0.3 else TRAIN
    assert divide_cohort(np.array([value]), FRACTIONS).tolist() == [expected]


def test_an_unknown_group_has_no_split() -> None:
    empty = split_groups(_build_empty(), {}, RULE, [None])
    assert empty.find_splits(np.array([5], np.uint64)).tolist() == [NO_SPLIT]


def _build_empty() -> pa.Table:
    text = pa.array([], pa.string())
    rows = pa.table({"uri": text, "label": text, "group": text, "split": text, "image_id": text})
    rows = rows.append_column("ingest", pa.array([], pa.int32())).append_column("absent", pa.array([], pa.bool_()))
    return add_sequence_names(rows)
