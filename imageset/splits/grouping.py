"""The groups of images: those of the source, near duplicates and, with `group: auto`, sequences."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from imageset.splits.groups import Groups, build_groups
from imageset.splits.sequence_names import add_sequence_names
from imageset.splits.sequences import Sequences, find_sequences, name_sequences
from imageset.splits.split_rule import AUTO_GROUP, SplitRule
from imageset.splits.stratification import HISTORY_COLUMNS, TEST, TRAIN, split_groups
from imageset.utils.arrow import iter_slices, take_rows, write_arrow
from imageset.utils.text import format_count

MIN_FRACTION_DIVIDED = 0.1  # of test images, from which on divided neighbours are worth a warning
MAX_NEIGHBOUR_BITS = 4  # of near duplicates that are only looked for to warn about them
_NO_SEQUENCES = Sequences({}, np.empty(0, bool))


class GroupedImages(NamedTuple):
    """The images with their groups.

    Attributes:
        rows: the table of the images; the column group holds the names of sequences, too.
        groups: of the rows.
        sequences: of the rows, whether they are kept together or not.
    """

    rows: pa.Table
    groups: Groups
    sequences: Sequences


def add_names(records: pa.Table, rule: SplitRule | None, folder: str | Path) -> tuple[pa.Table, pa.Table | None]:
    """Add the columns of `add_sequence_names`, unless a regular expression finds the groups.

    Args:
        records: a table with the columns of `add_ages` and absent.
        rule: the split rule, if there is one.
        folder: where the unnamed file of the history is created.

    Returns:
        (the records, the history of all groups for `group_images`; None without these columns).
    """
    if rule is None or rule.group_pattern is not None:
        return records, None
    records = add_sequence_names(records)
    history = records.select(list(HISTORY_COLUMNS))
    return records, write_arrow(iter_slices(history, np.arange(len(history))), history.schema, folder)


def group_images(
    rows: pa.Table,
    history: pa.Table | None,
    phashes: np.ndarray,
    rule: SplitRule | None,
    max_bits: int | None,
    multi_label: bool,
    folder: Path,
) -> GroupedImages:
    """Group images, and with `group: auto` divide the groups of each class into splits.

    Args:
        rows: the decoded images, with the columns that `build_groups` needs.
        history: the result of `add_names`.
        phashes: uint64 (N,).
        rule: the split rule, if there is one.
        max_bits: as for `build_groups`.
        multi_label: whether an image may have several labels.
        folder: holds the shards of pixels.
    """
    if history is None or rule is None:
        return GroupedImages(rows, build_groups(rows, phashes, max_bits, folder), _NO_SEQUENCES)
    sequences = find_sequences(rows, phashes, multi_label)
    if rule.group != AUTO_GROUP:
        return GroupedImages(rows, build_groups(rows, phashes, max_bits, folder), sequences)
    if sequences.num:
        rows = name_sequences(rows, sequences, folder)
    groups = build_groups(rows, phashes, max_bits, folder)
    if rule.by == "hash" and rows["group"].null_count < len(rows):
        source_splits = rows["split"].unique().to_pylist()
        group_splits = split_groups(history, sequences.first_ingests, rule, source_splits)
        groups = groups.stratify(group_splits, rows["sequence"].to_numpy())
    return GroupedImages(rows, groups, sequences)


def describe_sequences(sequences: Sequences, rule: SplitRule | None) -> str:
    """Return one line about sequences that are kept together; "" if there are none."""
    if rule is None or rule.group != AUTO_GROUP or not sequences.num:
        return ""
    return f"{sequences.describe()}: kept together in one split"


def warn_divided_images(
    rows: pa.Table,
    sequences: Sequences,
    phashes: np.ndarray,
    splits: np.ndarray,
    rule: SplitRule | None,
    max_bits: int | None,
) -> Iterator[str]:
    """Yield a warning if sequences, or near duplicates that are not looked for, stand in train and in test.

    Args:
        rows: the images, with the columns of `add_sequence_names`.
        sequences: of the rows.
        phashes: uint64 (N,).
        splits: uint8 (N,), positions in SPLITS.
        rule: the split rule, if there is one.
        max_bits: as for `build_groups`.
    """
    if rule is None or "sequence" not in rows.column_names:
        return
    num_test = int((splits == TEST).sum())
    names = rows["sequence"].to_numpy()
    if rule.group is None and sequences.num:
        members = sequences.is_member
        trained = np.unique(names[members & (splits == TRAIN)])
        num = int(np.isin(names[members & (splits == TEST)], trained).sum())
        if num:
            yield (
                f"{sequences.describe()}, are not kept together: {num:,} of "
                f"{format_count(num_test, 'test picture has', 'test pictures have')} frames of the same sequence "
                "in train, so that the model is tested on what it knows; `group: auto` in params.yaml: "
                "normalize.split keeps each in one split"
            )
    elif rule.group is not None and sequences.num and rows["split"].null_count < len(rows):
        num = _count_divided_by_source(rows, sequences, splits)
        if num:
            yield (
                f"{num:,} of {format_count(num_test, 'test picture has', 'test pictures have')} frames of the "
                "same sequence in train by the source's own split, which is kept, so that the model is tested on "
                "what it knows; without that split, `group: auto` keeps each sequence in one"
            )
    for family, limit in sequences.alike_limits.items():
        num = _count_divided_neighbours(rows, phashes, splits, limit, rows["family"].to_numpy() == family)
        if num and num >= MIN_FRACTION_DIVIDED * num_test:
            yield (
                f"{_say_neighbours(num, num_test)}, as frames of a video do, but the names show no sequences: if "
                "they are frames, give each video a folder or a name of its own (clip-01/0001.png, "
                "v01_frame_0001.png), or the accuracy says too much"
            )
    if max_bits is None and not sequences.num and not sequences.alike_limits:
        num = _count_divided_neighbours(rows, phashes, splits, MAX_NEIGHBOUR_BITS, np.ones(len(rows), bool))
        if num:
            yield (
                f"{_say_neighbours(num, num_test)}; params.yaml: normalize.near_duplicate_bits: "
                f"{MAX_NEIGHBOUR_BITS} keeps near duplicates in one split"
            )


def _say_neighbours(num: int, num_test: int) -> str:
    subject = format_count(num_test, "test picture looks", "test pictures look")
    return f"{num:,} of {subject} like a training picture with the next or the previous number in its name"


def _count_divided_by_source(rows: pa.Table, sequences: Sequences, splits: np.ndarray) -> int:
    """Return the number of test images of sequences that the source's own split divides."""
    members = np.flatnonzero(sequences.is_member & rows["split"].is_valid().to_numpy())
    named = take_rows(rows.select(["group", "split"]), members).to_pylist()
    names = np.array([row["group"].removesuffix(f" ({row['split']})") for row in named])
    trained, tested = (names[splits[members] == split] for split in (TRAIN, TEST))
    return int(np.isin(tested, trained).sum()) if len(named) else 0


def _count_divided_neighbours(
    rows: pa.Table, phashes: np.ndarray, splits: np.ndarray, max_bits: int, is_chosen: np.ndarray
) -> int:
    """Return the number of chosen test images that look like a neighbour by name in train."""
    names, frames = rows["sequence"].to_numpy(), rows["frame"].to_numpy()
    chosen = np.flatnonzero(is_chosen & (names != 0))
    order = chosen[np.lexsort((frames[chosen], names[chosen]))]
    left, right = order[:-1], order[1:]
    alike = (names[left] == names[right]) & (np.bitwise_count(phashes[left] ^ phashes[right]) <= max_bits)
    tested = [a[alike & (splits[a] == TEST) & (splits[b] == TRAIN)] for a, b in ((left, right), (right, left))]
    return len(np.unique(np.concatenate(tested)))
