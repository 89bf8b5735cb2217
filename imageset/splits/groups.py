"""Groups of images that belong together: the source's own groups and near duplicates.

Guarantees for an image in a dataset, whichever images are added to or removed from the source:
- By hash, an image that is ungrouped or in a group of the source always stays in its split.
- A group of near duplicates has the split of its anchor image: of the images of the earliest ingest, the one with
  the smallest image_id. A new image therefore follows the images that were there before. An image of such a group
  can move only when the anchor leaves the source, or when a new image resembles two groups and so merges them.
- By time, a group of the source has the split of its anchor: of the images of the earliest ingest, the one taken
  first, even if it has left the source since. A group of near duplicates likewise, among the images in the source.
- With `group: auto`, by hash, a group of the source or a sequence has the split of imageset.splits.stratification.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from imageset.splits.near_duplicates import are_alike, group_near_duplicates
from imageset.splits.stratification import NO_SPLIT, GroupSplits
from imageset.store.format import name_pixel_shard
from imageset.utils.arrow import iter_slices, take_rows, to_id_words, to_strings


def group_by_name(names: pa.ChunkedArray) -> np.ndarray:
    """Return int32 (N,): for each image the number of the first image with the same group name.

    It is the image's own number if it has no name.
    """
    numbers = np.arange(len(names), dtype=np.int32)
    named = np.flatnonzero(names.is_valid().to_numpy())
    if not len(named):
        return numbers
    encoded = names.drop_null().dictionary_encode().combine_chunks()
    codes = encoded.indices.to_numpy()
    first = np.empty(len(encoded.dictionary), np.int32)
    first[codes[::-1]] = named[::-1]
    numbers[named] = first[codes]
    return numbers


class GroupAssignment(NamedTuple):
    """The values that determine the splits of several images, one entry for each.

    Attributes:
        groups: the name of the image's group, or None.
        source_groups: the name if the source gave it, else None; the hash of such a group is that of its name.
        hash_keys: the image_id whose hash determines the split: the image's own, or that of its anchor.
        times: datetime64[us], the time that determines the split: the image's own, or that of its anchor.
    """

    groups: list[str | None]
    source_groups: list[str | None]
    hash_keys: list[str]
    times: np.ndarray


@dataclass(frozen=True, slots=True)
class Groups:
    """The groups of N images, in raw order.

    Attributes:
        rows: the table of the images, with the columns image_id and group (of the source).
        leaders: int32 (N,), number of the first image of the group; the image's own if it is ungrouped.
        anchors: int32 (N,), number of the anchor image of the group; the image's own if it is ungrouped.
        is_grouped: bool (N,), whether the group has several images.
        is_near_duplicate: bool (N,), whether the image is grouped only because it looks like others.
        times: datetime64[us] (N,), the time that determines the split: the image's own, or that of its anchor.
        splits: uint8 (N,), the position in SPLITS that `stratify` found, else NO_SPLIT; None: not stratified.
    """

    rows: pa.Table
    leaders: np.ndarray
    anchors: np.ndarray
    is_grouped: np.ndarray
    is_near_duplicate: np.ndarray
    times: np.ndarray
    splits: np.ndarray | None = None

    def stratify(self, group_splits: GroupSplits, sequences: np.ndarray) -> Groups:
        """Return the groups with the splits of those that a source or a file name names.

        Args:
            group_splits: the splits of the groups.
            sequences: uint64 (N,), of the images, as in the column of `add_sequence_names`.
        """
        is_named = self.rows["group"].is_valid().to_numpy()[self.anchors]
        splits = group_splits.find_splits(sequences[self.anchors])
        return replace(self, splits=np.where(is_named, splits, np.uint8(NO_SPLIT)))

    @property
    def num_near_duplicates(self) -> int:
        """The number of images that are grouped only because they look alike."""
        return int(self.is_near_duplicate.sum())

    def find_moved(self, first: int, num: int) -> np.ndarray:
        """Return bool (num,): whether something else than the image's own bytes determines its split.

        Args:
            first: number of the first image.
            num: number of images.
        """
        return self.is_grouped[first : first + num] | self.rows["group"].slice(first, num).is_valid().to_numpy()

    def build_assignments(self, first: int, num: int) -> GroupAssignment:
        """Return the values that determine the splits of `num` images from number `first` on."""
        hash_keys, source_groups = _list_ids_and_groups(self.rows.slice(first, num))
        groups = list(source_groups)
        grouped = np.flatnonzero(self.is_grouped[first : first + num])
        anchors, positions = np.unique(self.anchors[first + grouped], return_inverse=True)
        ids, names = _list_ids_and_groups(take_rows(self.rows, anchors))
        for number, position in zip(grouped.tolist(), positions.tolist(), strict=True):
            source_groups[number], hash_keys[number] = names[position], ids[position]
            groups[number] = names[position] or f"near-{ids[position][:16]}"
        return GroupAssignment(groups, source_groups, hash_keys, self.times[first : first + num])


def _list_ids_and_groups(rows: pa.Table) -> tuple[list[str], list[str | None]]:
    return to_strings(rows["image_id"]), to_strings(rows["group"])  # type: ignore[return-value]


def build_groups(rows: pa.Table, phashes: np.ndarray, max_bits: int | None, folder: Path) -> Groups:
    """Group images of the same source group and, with `max_bits`, near duplicates.

    Args:
        rows: a table with the columns image_id, group, shard and row (of the pixels), and those of `add_ages`.
        phashes: uint64 (N,).
        max_bits: the bits in which the hashes of near duplicates differ at most; None: they are not looked for.
        folder: holds the shards of pixels.
    """
    leaders = group_by_name(rows["group"])
    if max_bits is not None:
        leaders = group_near_duplicates(phashes, max_bits, _PixelComparer(rows, folder), leaders)
    leaders = leaders.astype(np.int32)
    is_grouped = (np.bincount(leaders, minlength=len(leaders)) > 1)[leaders]
    ids, named = rows["image_id"], rows["group"].is_valid().to_numpy()
    anchors = _find_anchors(
        leaders, is_grouped, rows["ingest"].to_numpy(), *(partial(_read_id_word, ids, word) for word in range(4))
    )
    since = rows["since"].to_numpy()
    times = since[_find_anchors(leaders, is_grouped, rows["since_ingest"].to_numpy(), _to_sortable(since))]
    return Groups(
        rows.select(["image_id", "group"]), leaders, anchors, is_grouped, is_grouped & ~named[anchors], times
    )


def add_ages(records: pa.Table, first_shards: list[int]) -> pa.Table:
    """Add the columns ingest, since_ingest and since to records.

    ingest (int32) is the number of the ingest that added the image; since_ingest (int32) and since
    (datetime64[us]) are the ingest and the time of the anchor of the source's group.

    Args:
        records: a table with the columns time, shard and group, including images that have left the source.
        first_shards: the number of the first raw shard of each ingest.
    """
    times = records["time"].to_numpy()
    shards = records["shard"].fill_null(0).to_numpy()
    ingests = (np.searchsorted(first_shards, shards, side="right") - 1).astype(np.int32)
    dated = np.where(np.isnat(times), np.iinfo(np.int32).max, ingests)
    if records["group"].null_count < len(records):
        leaders = group_by_name(records["group"])
        anchors = _find_anchors(leaders, records["group"].is_valid().to_numpy(), dated, _to_sortable(times))
        dated, times = dated[anchors], times[anchors]
    for name, values in (("ingest", ingests), ("since_ingest", dated), ("since", times)):
        records = records.append_column(name, pa.array(values))
    return records


def _find_anchors(
    leaders: np.ndarray, is_grouped: np.ndarray, *keys: np.ndarray | Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """Return int32 (N,): for each position that of its group's anchor, which has the smallest keys.

    A position that is not grouped is its own anchor. A key is an array (N,) or a function of positions that
    returns their values.
    """
    anchors = np.arange(len(leaders), dtype=np.int32)
    candidates = np.flatnonzero(is_grouped).astype(np.int32)
    for key in keys:
        values = key(candidates) if callable(key) else key[candidates]
        smallest = np.full(len(leaders), np.iinfo(values.dtype).max, values.dtype)  # by leader
        np.minimum.at(smallest, leaders[candidates], values)
        candidates = candidates[values == smallest[leaders[candidates]]]
    first = np.empty(len(leaders), np.int32)  # by leader
    first[leaders[candidates[::-1]]] = candidates[::-1]
    anchors[is_grouped] = first[leaders[is_grouped]]
    return anchors


def _read_id_word(image_ids: pa.ChunkedArray, word: int, positions: np.ndarray) -> np.ndarray:
    """Return `to_id_words` of the images at these positions."""
    table = pa.table([image_ids], ["image_id"])
    words = [to_id_words(pa.chunked_array([batch["image_id"]]), word) for batch in iter_slices(table, positions)]
    return np.concatenate([np.empty(0, np.uint64), *words])


def _to_sortable(times: np.ndarray) -> np.ndarray:
    """Return the times as int64 numbers; unknown times sort last."""
    return np.where(np.isnat(times), np.iinfo(np.int64).max, times.astype("datetime64[us]").view(np.int64))


class _PixelComparer:
    """A callable that compares the pixels of pairs of rows."""

    def __init__(self, rows: pa.Table, folder: Path) -> None:
        self._shards, self._rows = rows["shard"].to_numpy(), rows["row"].to_numpy()
        self._folder = folder
        self._maps: dict[int, np.ndarray] = {}

    def __call__(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        return are_alike(self._read_pixels(left), self._read_pixels(right))

    def _read_pixels(self, numbers: np.ndarray) -> np.ndarray:
        pixels = [self._open_shard(int(self._shards[number]))[self._rows[number]] for number in numbers.tolist()]
        return np.stack(pixels)

    def _open_shard(self, number: int) -> np.ndarray:
        if number not in self._maps:
            self._maps[number] = np.load(self._folder / name_pixel_shard(number), mmap_mode="r")
        return self._maps[number]
