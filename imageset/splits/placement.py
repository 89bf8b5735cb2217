"""Assign a split to every row, and check that no split is empty and no class is alone."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa

from imageset.exceptions import UserError
from imageset.splits.groups import Groups
from imageset.splits.split_rule import (
    SplitRule,
    assign_splits,
    hash_to_unit_interval,
)
from imageset.store.format import SPLITS
from imageset.utils.arrow import (
    ROWS_AT_ONCE,
    memmap_zeros,
    take_rows,
    to_strings,
)
from imageset.utils.text import format_class_count, format_count

EARLY_CHECK_ROWS = 1000
HASHES_AT_ONCE = 500


# ---- split -----------------------------------------------------------------------------------------------------


def assign_row_splits(rows: pa.Table, rule: SplitRule) -> list[str]:
    """The split of every row."""
    image_ids, groups, made = (to_strings(rows[column]) for column in ("image_id", "group", "split"))
    return assign_splits(image_ids, groups, made, rule, rows["since"].to_numpy())  # type: ignore[arg-type]


def compute_split_hashes(image_ids: pa.ChunkedArray, rule: SplitRule, folder: Path) -> np.ndarray | None:
    """What split_rule.hash_to_unit_interval says of each picture by its own bytes, in a file of `folder`; None by time.

    For a thread beside others: it lets them go on after every few pictures.
    """
    if rule.by == "time":
        return None
    points = memmap_zeros(len(image_ids), np.float64, folder)
    for start in range(0, len(points), HASHES_AT_ONCE):
        some = to_strings(image_ids.slice(start, HASHES_AT_ONCE))
        points[start : start + len(some)] = hash_to_unit_interval(some, [None] * len(some), rule.seed)  # type: ignore[arg-type]
        time.sleep(0)
    return points


def iter_row_splits(
    rows: pa.Table, rule: SplitRule, ties: Groups, points: np.ndarray | None = None
) -> Iterator[list[str]]:
    """The splits of the rows, ROWS_AT_ONCE at a time; `points` are those of points_alone."""
    source_splits = rows["split"].unique().to_pylist()
    for start in range(0, len(rows), ROWS_AT_ONCE):
        made = to_strings(rows["split"].slice(start, ROWS_AT_ONCE))
        if points is None:
            some = ties.build_assignments(start, len(made))
            yield assign_splits(some.hash_keys, some.source_groups, made, rule, some.times, source_splits)
            continue
        known, moved = points[start : start + len(made)].copy(), np.flatnonzero(ties.find_moved(start, len(made)))
        if len(moved):
            some = ties.build_assignments(start, len(made))
            keys, groups = ([values[one] for one in moved.tolist()] for values in (some.hash_keys, some.source_groups))
            known[moved] = hash_to_unit_interval(keys, groups, rule.seed)  # type: ignore[arg-type]
        yield assign_splits([], [], made, rule, None, source_splits, known)


def check_splits_early(rows: pa.Table, rule: SplitRule) -> None:
    """check_splits before anything is decoded; where a few rows go into every split no others are asked."""
    some = take_rows(rows, np.arange(0, len(rows), max(1, len(rows) // EARLY_CHECK_ROWS)))
    if set(assign_row_splits(some, rule)) < set(SPLITS) or len(some["label"].unique()) < 2:
        check_splits(rows, set(assign_row_splits(rows, rule)))


def check_splits(rows: pa.Table, splits: Collection[str]) -> None:
    """Raise UserError when there are no pictures, a single class, or a split that is not among `splits`."""
    if not len(rows):
        raise UserError("no pictures are left to make a dataset of; see why with `convoy check FOLDER`")
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


def warn_small_classes(counts: Mapping[str, Mapping[str, int]], least: int) -> list[str]:
    """A warning for the classes that are learned but have fewer than `least` test pictures."""
    small = [f"{label} {num}" for label, num in counts["test"].items() if num < least and counts["train"][label]]
    if not small:
        return []
    shown = ", ".join(small[:10]) + (f" and {len(small) - 10} more" if len(small) > 10 else "")
    kinds = format_class_count(len(small), multi_label=False)
    return [f"fewer than {format_count(least, 'test picture')} in {kinds}: {shown}; their accuracy says little"]
