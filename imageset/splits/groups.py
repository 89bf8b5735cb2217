"""Which pictures belong together: the source's own groups, and near duplicates; and where that crosses splits.

What is promised, once a picture is in a dataset, whatever others come or go:
- By hash, a picture that is alone or in a group that the source names stays in its split, always.
- A cluster of look-alikes goes where its eldest goes: the picture of the earliest ingest, among those the one with
  the smallest image_id. So a newcomer follows those that were there. A picture of a cluster can move only when the
  eldest leaves the source, or when a newcomer resembles two clusters and so makes them one.
- By time, a group of the source goes where its eldest goes: of the earliest ingest the picture taken first, be it
  still in the source or not. A cluster of look-alikes likewise, among those still there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from imageset.splits.near_duplicates import are_alike, group_near_duplicates
from imageset.store.format import name_pixel_shard
from imageset.utils.arrow import iter_slices, take_rows, to_id_words, to_strings


def group_by_name(names: pa.ChunkedArray) -> np.ndarray:
    """int32 (N,): for each picture the number of the first one with the same name; its own where it has none."""
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
    """For each of some pictures.

    groups: the name of its group, or None.
    source_groups: the same where the source named it: such a group hashes by its name.
    keys: the image_id whose hash places it: its own, or that of its cluster's eldest.
    times: datetime64[us], the time that places it: its own, or that of its group's eldest.
    """

    groups: list[str | None]
    source_groups: list[str | None]
    hash_keys: list[str]
    times: np.ndarray


@dataclass(frozen=True, slots=True)
class Groups:
    """For each of N pictures, in raw order.

    Attributes:
        rows: their table, with the columns image_id and group (of the source).
        leaders: int32 (N,), number of the first picture of its group, its own where it is alone.
        eldest: int32 (N,), number of the eldest picture of its group, its own where it is alone.
        tied: bool (N,), whether it is not alone.
        near: bool (N,), whether it is tied only because it looks like others.
        times: datetime64[us] (N,), the time that places it: its own, or that of its group's eldest.
    """

    rows: pa.Table
    leaders: np.ndarray
    anchors: np.ndarray
    is_grouped: np.ndarray
    is_near_duplicate: np.ndarray
    times: np.ndarray

    @property
    def num_near(self) -> int:
        """How many pictures are tied only because they look alike."""
        return int(self.is_near_duplicate.sum())

    def find_moved(self, first: int, num: int) -> np.ndarray:
        """Which of so many pictures from `first` on are placed by something else than their own bytes."""
        return self.is_grouped[first : first + num] | self.rows["group"].slice(first, num).is_valid().to_numpy()

    def build_assignments(self, first: int, num: int) -> GroupAssignment:
        """What places the pictures from `first` on, `num` of them."""
        keys, source_groups = _list_ids_and_groups(self.rows.slice(first, num))
        groups = list(source_groups)
        tied = np.flatnonzero(self.is_grouped[first : first + num])
        eldest, which = np.unique(self.anchors[first + tied], return_inverse=True)
        ids, names = _list_ids_and_groups(take_rows(self.rows, eldest))
        for number, old in zip(tied.tolist(), which.tolist(), strict=True):
            source_groups[number], keys[number] = names[old], ids[old]
            groups[number] = names[old] or f"near-{ids[old][:16]}"
        return GroupAssignment(groups, source_groups, keys, self.times[first : first + num])


def _list_ids_and_groups(rows: pa.Table) -> tuple[list[str], list[str | None]]:
    return to_strings(rows["image_id"]), to_strings(rows["group"])  # type: ignore[return-value]


def build_groups(rows: pa.Table, phashes: np.ndarray, max_bits: int | None, folder: Path) -> Groups:
    """Tie pictures of the same source group and, with max_bits, near duplicates; `folder` holds their pixels.

    `rows` has the columns image_id, group, shard and row (of the pixels), ingest (int32, in which the picture
    came), and since_ingest and since (datetime64[us]): of the eldest of the source's group, by with_ages.
    """
    leaders = group_by_name(rows["group"])
    if max_bits is not None:
        leaders = group_near_duplicates(phashes, max_bits, _PixelComparer(rows, folder), leaders)
    leaders = leaders.astype(np.int32)
    tied = (np.bincount(leaders, minlength=len(leaders)) > 1)[leaders]
    ids, named = rows["image_id"], rows["group"].is_valid().to_numpy()
    eldest = _find_anchors(
        leaders, tied, rows["ingest"].to_numpy(), *(partial(_read_id_word, ids, word) for word in range(4))
    )
    since = rows["since"].to_numpy()
    times = since[_find_anchors(leaders, tied, rows["since_ingest"].to_numpy(), _to_sortable(since))]
    return Groups(rows.select(["image_id", "group"]), leaders, eldest, tied, tied & ~named[eldest], times)


def add_ages(records: pa.Table, first_shards: list[int]) -> pa.Table:
    """Add the columns ingest, since_ingest and since (see tie) to records, which hold absent pictures too."""
    times = records["time"].to_numpy()
    shards = records["shard"].fill_null(0).to_numpy()
    ingests = (np.searchsorted(first_shards, shards, side="right") - 1).astype(np.int32)
    dated = np.where(np.isnat(times), np.iinfo(np.int32).max, ingests)
    if records["group"].null_count < len(records):
        leaders = group_by_name(records["group"])
        eldest = _find_anchors(leaders, records["group"].is_valid().to_numpy(), dated, _to_sortable(times))
        dated, times = dated[eldest], times[eldest]
    for name, values in (("ingest", ingests), ("since_ingest", dated), ("since", times)):
        records = records.append_column(name, pa.array(values))
    return records


def _find_anchors(
    leaders: np.ndarray, tied: np.ndarray, *keys: np.ndarray | Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """int32 (N,): for each position that of its group's eldest, the one with the smallest keys.

    Its own where it is not `tied`. A key is an array (N,), or gives the values at positions.
    """
    eldest = np.arange(len(leaders), dtype=np.int32)
    left = np.flatnonzero(tied).astype(np.int32)
    for key in keys:
        values = key(left) if callable(key) else key[left]
        least = np.full(len(leaders), np.iinfo(values.dtype).max, values.dtype)
        np.minimum.at(least, leaders[left], values)
        left = left[values == least[leaders[left]]]
    first = np.empty(len(leaders), np.int32)  # by leader
    first[leaders[left[::-1]]] = left[::-1]
    eldest[tied] = first[leaders[tied]]
    return eldest


def _read_id_word(image_ids: pa.ChunkedArray, word: int, positions: np.ndarray) -> np.ndarray:
    """id_words of the pictures at these positions."""
    table = pa.table([image_ids], ["image_id"])
    words = [to_id_words(pa.chunked_array([some["image_id"]]), word) for some in iter_slices(table, positions)]
    return np.concatenate([np.empty(0, np.uint64), *words])


def _to_sortable(times: np.ndarray) -> np.ndarray:
    """int64: the times as numbers, what is not known last."""
    return np.where(np.isnat(times), np.iinfo(np.int64).max, times.astype("datetime64[us]").view(np.int64))


class _PixelComparer:
    """Compares the pixels of pairs of rows."""

    def __init__(self, rows: pa.Table, folder: Path) -> None:
        self._shards, self._rows = rows["shard"].to_numpy(), rows["row"].to_numpy()
        self._folder = folder
        self._maps: dict[int, np.ndarray] = {}

    def __call__(self, one: np.ndarray, other: np.ndarray) -> np.ndarray:
        return are_alike(self._pixels(one), self._pixels(other))

    def _pixels(self, numbers: np.ndarray) -> np.ndarray:
        pixels = [self._shard(int(self._shards[number]))[self._rows[number]] for number in numbers.tolist()]
        return np.stack(pixels)

    def _shard(self, number: int) -> np.ndarray:
        if number not in self._maps:
            self._maps[number] = np.load(self._folder / name_pixel_shard(number), mmap_mode="r")
        return self._maps[number]
