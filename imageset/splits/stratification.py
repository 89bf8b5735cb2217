"""A stratified split of groups that stays as it is when images are added or removed.

With `group: auto`, the groups of a class that one ingest brings are a cohort. It is divided in the order of the
groups' hashes, by quotas that are the fractions of the split rule, rounded by systematic sampling; a cohort of one
group is divided as its hash alone would. A split that the class has no group in yet gets one first: train, then
test and val.

A cohort is complete when its ingest is: later images, groups, classes and ingests make cohorts of their own, and
groups that have left the source still count. A group's hash is that of its name, if the source names it, else that
of its anchor image (the smallest image_id of its earliest ingest), so that renamed folders move nothing. Only an
image that is forgotten, or the label of a whole group that is corrected, may change the quotas of its cohort.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from imageset.splits.sequence_names import NO_FAMILY
from imageset.splits.split_rule import SplitRule, hash_to_unit_interval
from imageset.store.format import SPLITS
from imageset.utils.arrow import take_rows, to_id_words

TRAIN, VAL, TEST = range(3)  # positions in SPLITS
NO_SPLIT = 255
# A class with so many ungrouped images has some of them in each split.
ENOUGH_UNGROUPED = 40
HISTORY_COLUMNS = ("image_id", "label", "split", "group", "ingest", "sequence", "family", "absent")


def encode_splits(splits: pa.ChunkedArray) -> np.ndarray:
    """Return the position of each split in SPLITS, uint8 (N,); NO_SPLIT for none."""
    positions = pc.index_in(splits, value_set=pa.array(SPLITS))  # type: ignore[attr-defined]
    return positions.fill_null(NO_SPLIT).to_numpy().astype(np.uint8)


class GroupSplits(NamedTuple):
    """The splits of G groups.

    Attributes:
        sequences: uint64 (G,), ascending, as in the column of `add_sequence_names`.
        splits: uint8 (G,), positions in SPLITS.
    """

    sequences: np.ndarray
    splits: np.ndarray

    def find_splits(self, sequences: np.ndarray) -> np.ndarray:
        """Return the positions in SPLITS of these groups, uint8 (n,); NO_SPLIT for an unknown one."""
        if not len(self.sequences):
            return np.full(len(sequences), NO_SPLIT, np.uint8)
        positions = np.minimum(np.searchsorted(self.sequences, sequences), len(self.sequences) - 1)
        return np.where(self.sequences[positions] == sequences, self.splits[positions], NO_SPLIT).astype(np.uint8)


def split_groups(
    history: pa.Table, first_ingests: Mapping[int, int], rule: SplitRule, source_splits: Collection[str | None]
) -> GroupSplits:
    """Divide the groups of all classes into train, val and test.

    Args:
        history: a table with the HISTORY_COLUMNS of all images, those that have left the source included.
        first_ingests: of the families of names that mean sequences, as in `Sequences`.
        rule: the split rule.
        source_splits: the splits that the source gives; no group is needed for its val or test.
    """
    sequences, families, ingests = (history[name].to_numpy() for name in ("sequence", "family", "ingest"))
    is_grouped = (families == NO_FAMILY) & (sequences != 0)
    for family, first in first_ingests.items():
        is_grouped |= (families == family) & (ingests >= first)
    is_usable = history["image_id"].is_valid().to_numpy() & history["label"].is_valid().to_numpy()
    is_usable &= ~np.isin(encode_splits(history["split"]), [VAL, TEST])
    num_classes, classes = _encode_classes(history["label"])
    members = np.flatnonzero(is_grouped & is_usable)
    groups = _find_groups(history, members, classes, rule.seed)
    ungrouped = np.flatnonzero(~is_grouped & is_usable)
    ungrouped = ungrouped[np.lexsort((ingests[ungrouped], classes[ungrouped]))]
    bounds = np.searchsorted(classes[ungrouped], np.arange(num_classes + 1)).tolist()
    divided = np.full(len(groups.sequences), NO_SPLIT, np.uint8)
    distinct = np.flatnonzero(groups.is_first)
    order = distinct[np.lexsort([part[distinct] for part in (groups.hashes, groups.ingests, groups.classes)])]
    fractions = tuple(0.0 if split in source_splits else getattr(rule, split) for split in ("test", "val"))
    missing: set[int] = set()
    of_class, of_ingest = groups.classes[order], groups.ingests[order]
    starts = np.flatnonzero(np.diff(of_class, prepend=-1) | np.diff(of_ingest, prepend=-1))
    for start, end in pairwise([*starts.tolist(), len(order)]):
        if not start or of_class[start] != of_class[start - 1]:
            missing = {TRAIN} | {SPLITS.index(split) for split in {"val", "test"} - set(source_splits)}
        first, last = bounds[of_class[start]], bounds[of_class[start] + 1]
        if (ingests[ungrouped[first:last]] <= of_ingest[start]).sum() >= ENOUGH_UNGROUPED:
            missing = set()
        divided[order[start:end]] = divide_cohort(groups.hashes[order[start:end]], fractions, missing)
        missing -= set(divided[order[start:end]].tolist())
    return GroupSplits(groups.sequences, divided[groups.first])


def divide_cohort(hashes: np.ndarray, fractions: tuple[float, ...], missing: Collection[int] = ()) -> np.ndarray:
    """Divide the groups of a class that came together, uint8 (n,): positions in SPLITS.

    Args:
        hashes: float64 (n,), ascending, in [0, 1).
        fractions: of groups in test and in val.
        missing: the splits that the class has no group in yet.
    """
    num = len(hashes)
    test, val = fractions
    offset = 1 - float(hashes.sum()) % 1  # of the systematic sample; a single group is placed by its hash
    num_test = min(num, int(test * num + offset))
    num_val = min(num, int((test + val) * num + offset)) - num_test
    held_out = (TEST, VAL) if int(hashes[0] * 2**32) % 2 else (VAL, TEST)
    needed = [split for split in (TRAIN, *held_out) if split in missing][:num]
    num_test, num_val = max(num_test, int(TEST in needed)), max(num_val, int(VAL in needed))
    while num_test + num_val > num - (TRAIN in needed):
        if num_val > (VAL in needed):
            num_val -= 1
        else:
            num_test -= 1
    return np.repeat(np.array([TEST, VAL, TRAIN], np.uint8), [num_test, num_val, num - num_test - num_val])


def _encode_classes(labels: pa.ChunkedArray) -> tuple[int, np.ndarray]:
    """Return (the number of classes, int32 (N,): the number of each image's class, -1 without one)."""
    encoded = labels.combine_chunks().dictionary_encode()
    return len(encoded.dictionary), encoded.indices.fill_null(-1).to_numpy()


class _GroupTable(NamedTuple):
    """G groups, by ascending sequence. Two of them with the same anchor image are one, under two names.

    Attributes:
        sequences: uint64 (G,).
        hashes: float64 (G,) in [0, 1).
        ingests: int32 (G,), the first ingest.
        classes: int32 (G,), that of the anchor image.
        first: int64 (G,), the number of the first of the names of the group.
        is_first: bool (G,), whether it is that.
    """

    sequences: np.ndarray
    hashes: np.ndarray
    ingests: np.ndarray
    classes: np.ndarray
    first: np.ndarray
    is_first: np.ndarray


def _find_groups(history: pa.Table, members: np.ndarray, classes: np.ndarray, seed: int) -> _GroupTable:
    """Return the groups of the images at the positions `members`."""
    sequences, ingests = (history[name].to_numpy()[members] for name in ("sequence", "ingest"))
    absent = history["absent"].to_numpy()[members]
    words = to_id_words(history["image_id"])[members]
    order = np.lexsort((absent, words, ingests, sequences))
    anchors = order[np.flatnonzero(np.diff(sequences[order], prepend=~sequences[order[:1]]))]
    is_here = np.zeros(len(anchors), bool)
    sequences_found = sequences[anchors]
    is_here[np.searchsorted(sequences_found, sequences[~absent])] = True
    rows = take_rows(history.select(["image_id", "group"]), members[anchors])
    ids, names = rows["image_id"].to_pylist(), rows["group"].to_pylist()
    hashes = hash_to_unit_interval(ids, names, seed)
    identities = np.where(rows["group"].is_valid().to_numpy(), sequences_found, words[anchors])
    by_identity = np.lexsort((sequences_found, ~is_here, identities))
    _, starts, inverse = np.unique(identities[by_identity], return_index=True, return_inverse=True)
    first = np.empty(len(anchors), np.int64)
    first[by_identity] = by_identity[starts][inverse]
    is_first = first == np.arange(len(anchors))
    anchor_classes = classes[members[anchors]]
    return _GroupTable(sequences_found, hashes, ingests[anchors], anchor_classes, first, is_first)
