"""The assignment of a split to every row, and checks that no split is empty and there are several classes."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from imageset.exceptions import UserError
from imageset.splits.groups import Groups
from imageset.splits.split_rule import (
    AUTO_GROUP,
    SplitRule,
    assign_splits,
    hash_to_unit_interval,
    list_split_hashes,
)
from imageset.splits.stratification import NO_SPLIT
from imageset.store.format import SPLITS
from imageset.utils.arrow import ROWS_AT_ONCE, memmap_zeros, take_rows, to_strings
from imageset.utils.text import format_class_count, format_count

EARLY_CHECK_ROWS = 1000
HASHES_AT_ONCE = 500


def assign_row_splits(rows: pa.Table, rule: SplitRule) -> list[str]:
    """Return the split of every row, from its own columns alone."""
    image_ids, groups, given_splits = (to_strings(rows[column]) for column in ("image_id", "group", "split"))
    return assign_splits(image_ids, groups, given_splits, rule, rows["since"].to_numpy())  # type: ignore[arg-type]


def compute_split_hashes(image_ids: pa.ChunkedArray, rule: SplitRule, folder: Path) -> np.ndarray | None:
    """Compute the split hash of each image from its own bytes into an array on disk.

    Runs in a background thread and yields to other threads after every HASHES_AT_ONCE images.

    Args:
        image_ids: of the images.
        rule: the split rule.
        folder: where the unnamed file of the array is created.

    Returns:
        float64 (N,) as of `hash_to_unit_interval`; None for a time-based split.
    """
    if rule.by == "time":
        return None
    hashes = memmap_zeros(len(image_ids), np.float64, folder)
    for start in range(0, len(hashes), HASHES_AT_ONCE):
        ids = to_strings(image_ids.slice(start, HASHES_AT_ONCE))
        hashes[start : start + len(ids)] = hash_to_unit_interval(ids, [None] * len(ids), rule.seed)  # type: ignore[arg-type]
        time.sleep(0)
    return hashes


def iter_row_splits(
    rows: pa.Table, rule: SplitRule, groups: Groups, hashes: np.ndarray | None = None
) -> Iterator[list[str]]:
    """Yield the splits of the rows, ROWS_AT_ONCE at a time.

    Args:
        rows: a table with the column split (of the source).
        rule: the split rule.
        groups: the groups of the rows.
        hashes: the result of `compute_split_hashes`, if known.
    """
    source_splits = rows["split"].unique().to_pylist()
    for start in range(0, len(rows), ROWS_AT_ONCE):
        given_splits = to_strings(rows["split"].slice(start, ROWS_AT_ONCE))
        num = len(given_splits)
        if rule.by == "time":
            batch = groups.build_assignments(start, num)
            yield assign_splits(
                batch.hash_keys, batch.source_groups, given_splits, rule, batch.times, source_splits
            )
            continue
        batch_hashes = _hash_rows(groups, start, num, rule, hashes)
        if groups.splits is not None:
            placed = groups.splits[start : start + num]
            fixed = list_split_hashes(rule)[placed % len(SPLITS)]
            batch_hashes = np.where(placed == NO_SPLIT, batch_hashes, fixed)
        yield assign_splits([], [], given_splits, rule, None, source_splits, batch_hashes)


def _hash_rows(groups: Groups, start: int, num: int, rule: SplitRule, hashes: np.ndarray | None) -> np.ndarray:
    """Return the hashes, float64 (num,), that determine the splits of `num` rows from number `start` on."""
    if hashes is None:
        batch = groups.build_assignments(start, num)
        return hash_to_unit_interval(batch.hash_keys, batch.source_groups, rule.seed)
    batch_hashes, moved = hashes[start : start + num].copy(), np.flatnonzero(groups.find_moved(start, num))
    if len(moved):
        batch = groups.build_assignments(start, num)
        keys, names = (
            [values[number] for number in moved.tolist()] for values in (batch.hash_keys, batch.source_groups)
        )
        batch_hashes[moved] = hash_to_unit_interval(keys, names, rule.seed)  # type: ignore[arg-type]
    return batch_hashes


def check_splits_early(rows: pa.Table, rule: SplitRule) -> None:
    """Run `check_splits` before anything is decoded.

    If a sample of the rows fills every split, the others are not examined.
    """
    if rule.group == AUTO_GROUP and rows["group"].null_count < len(rows):
        check_splits(rows, SPLITS)  # the groups of a class are divided later, so that no split is empty
        return
    sample = take_rows(rows, np.arange(0, len(rows), max(1, len(rows) // EARLY_CHECK_ROWS)))
    if set(assign_row_splits(sample, rule)) < set(SPLITS) or len(sample["label"].unique()) < 2:
        check_splits(rows, set(assign_row_splits(rows, rule)))


def check_splits(rows: pa.Table, splits: Collection[str]) -> None:
    """Raise UserError if there are no images, a single class, or a split that is not among `splits`."""
    if not len(rows):
        raise UserError("no pictures are left for the dataset; `convoy check FOLDER` shows why")
    classes = rows["label"].unique().to_pylist()
    if len(classes) < 2:
        raise UserError(
            f"a single class '{classes[0] or 'none'}' is left; at least two are needed to learn a difference"
        )
    for split in SPLITS:
        if split not in splits:
            raise UserError(
                f"the {split} split is empty with {format_count(len(rows), 'picture')}; add pictures, "
                "or change params.yaml: normalize.split"
            )


def describe_moves(before: np.ndarray, after: np.ndarray) -> list[str]:
    """Return a line about images that an earlier version of the dataset had in another split, if there are some.

    Args:
        before: uint8 (N,), positions in SPLITS, NO_SPLIT for a new image.
        after: likewise.
    """
    moves = [
        f"{format_count(num, 'picture')} from {SPLITS[old]} to {SPLITS[new]}"
        for old in range(len(SPLITS))
        for new in range(len(SPLITS))
        if old != new and (num := int(((before == old) & (after == new)).sum()))
    ]
    if not moves:
        return []
    return [
        f"moved since the last version of the dataset: {', '.join(moves)}; the champion may know what is in test "
        "now, which `convoy promote` checks"
    ]


def warn_small_classes(counts: Mapping[str, Mapping[str, int]], min_test: int) -> list[str]:
    """Return a warning each for classes without training images, without test images, and with few test images.

    Args:
        counts: number of images by split and class.
        min_test: the number of test images that a class should have at least.
    """
    warnings = []
    held_out = {label: counts["val"].get(label, 0) + counts["test"][label] for label in counts["test"]}
    untrained = [f"{label} {num}" for label, num in held_out.items() if num and not counts["train"].get(label)]
    absent = [label for label, num in held_out.items() if not num and not counts["train"].get(label)]
    if absent:
        classes = format_count(len(absent), "class has", "classes have")
        warnings.append(f"{classes} no pictures at all, and cannot be learned: {_join_some(absent)}")
    if untrained:
        classes = format_count(len(untrained), "class has", "classes have")
        warnings.append(
            f"{classes} pictures in val or test but none in train, and cannot be learned: "
            f"{_join_some(untrained)}; add training pictures, or leave out these"
        )
    trained = {label: num for label, num in counts["test"].items() if counts["train"].get(label)}
    unmeasured = [label for label, num in trained.items() if not num]
    if unmeasured:
        classes = format_count(len(unmeasured), "class has", "classes have")
        warnings.append(f"{classes} no test pictures, so nothing measures them: {_join_some(unmeasured)}")
    small = [f"{label} {num}" for label, num in trained.items() if 0 < num < min_test]
    if small:
        classes = format_class_count(len(small), multi_label=False)
        warnings.append(
            f"fewer than {format_count(min_test, 'test picture')} in {classes}: {_join_some(small)}; "
            "their accuracy says little"
        )
    return warnings


def _join_some(items: Sequence[str]) -> str:
    return ", ".join(items[:10]) + (f" and {len(items) - 10} more" if len(items) > 10 else "")
