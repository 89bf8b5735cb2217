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
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from imageset.errors import UserError
from imageset.judge import Refusal
from imageset.near import alike, near_groups, tied_by
from imageset.ondisk import id_words, in_pieces, strings, taken
from imageset.quality import plain
from imageset.split import SPLITS
from imageset.store import shard_name
from imageset.words import count

ON_LEAK = ("fail", "drop_from_train", "warn")


class Places(NamedTuple):
    """For each of some pictures.

    groups: the name of its group, or None.
    source_groups: the same where the source named it: such a group hashes by its name.
    keys: the image_id whose hash places it: its own, or that of its cluster's eldest.
    times: datetime64[us], the time that places it: its own, or that of its group's eldest.
    """

    groups: list[str | None]
    source_groups: list[str | None]
    keys: list[str]
    times: np.ndarray


@dataclass(frozen=True, slots=True)
class Ties:
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
    eldest: np.ndarray
    tied: np.ndarray
    near: np.ndarray
    times: np.ndarray

    @property
    def num_near(self) -> int:
        """How many pictures are tied only because they look alike."""
        return int(self.near.sum())

    def moved(self, first: int, num: int) -> np.ndarray:
        """Which of so many pictures from `first` on are placed by something else than their own bytes."""
        return self.tied[first : first + num] | self.rows["group"].slice(first, num).is_valid().to_numpy()

    def places(self, first: int, num: int) -> Places:
        """What places the pictures from `first` on, `num` of them."""
        keys, source_groups = _lists(self.rows.slice(first, num))
        groups = list(source_groups)
        tied = np.flatnonzero(self.tied[first : first + num])
        eldest, which = np.unique(self.eldest[first + tied], return_inverse=True)
        ids, names = _lists(taken(self.rows, eldest))
        for number, old in zip(tied.tolist(), which.tolist(), strict=True):
            source_groups[number], keys[number] = names[old], ids[old]
            groups[number] = names[old] or f"near-{ids[old][:16]}"
        return Places(groups, source_groups, keys, self.times[first : first + num])


def _lists(rows: pa.Table) -> tuple[list[str], list[str | None]]:
    return strings(rows["image_id"]), strings(rows["group"])  # type: ignore[return-value]


def tie(rows: pa.Table, phashes: np.ndarray, max_bits: int | None, folder: Path) -> Ties:
    """Tie pictures of the same source group and, with max_bits, near duplicates; `folder` holds their pixels.

    `rows` has the columns image_id, group, shard and row (of the pixels), ingest (int32, in which the picture
    came), and since_ingest and since (datetime64[us]): of the eldest of the source's group, by with_ages.
    """
    leaders = tied_by(rows["group"])
    if max_bits is not None:
        leaders = near_groups(phashes, max_bits, _Confirm(rows, folder), leaders)
    leaders = leaders.astype(np.int32)
    tied = (np.bincount(leaders, minlength=len(leaders)) > 1)[leaders]
    ids, named = rows["image_id"], rows["group"].is_valid().to_numpy()
    eldest = _eldest(leaders, tied, rows["ingest"].to_numpy(), *(partial(_word, ids, word) for word in range(4)))
    since = rows["since"].to_numpy()
    times = since[_eldest(leaders, tied, rows["since_ingest"].to_numpy(), _sortable(since))]
    return Ties(rows.select(["image_id", "group"]), leaders, eldest, tied, tied & ~named[eldest], times)


def with_ages(records: pa.Table, first_shards: list[int]) -> pa.Table:
    """Add the columns ingest, since_ingest and since (see tie) to records, which hold absent pictures too."""
    times = records["time"].to_numpy()
    shards = records["shard"].fill_null(0).to_numpy()
    ingests = (np.searchsorted(first_shards, shards, side="right") - 1).astype(np.int32)
    dated = np.where(np.isnat(times), np.iinfo(np.int32).max, ingests)
    if records["group"].null_count < len(records):
        leaders = tied_by(records["group"])
        eldest = _eldest(leaders, records["group"].is_valid().to_numpy(), dated, _sortable(times))
        dated, times = dated[eldest], times[eldest]
    for name, values in (("ingest", ingests), ("since_ingest", dated), ("since", times)):
        records = records.append_column(name, pa.array(values))
    return records


def _eldest(
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


def _word(image_ids: pa.ChunkedArray, word: int, positions: np.ndarray) -> np.ndarray:
    """id_words of the pictures at these positions."""
    table = pa.table([image_ids], ["image_id"])
    words = [id_words(pa.chunked_array([some["image_id"]]), word) for some in in_pieces(table, positions)]
    return np.concatenate([np.empty(0, np.uint64), *words])


def _sortable(times: np.ndarray) -> np.ndarray:
    """int64: the times as numbers, what is not known last."""
    return np.where(np.isnat(times), np.iinfo(np.int64).max, times.astype("datetime64[us]").view(np.int64))


class _Confirm:
    """Compares the pixels of pairs of rows."""

    def __init__(self, rows: pa.Table, folder: Path) -> None:
        self._shards, self._rows = rows["shard"].to_numpy(), rows["row"].to_numpy()
        self._folder = folder
        self._maps: dict[int, np.ndarray] = {}

    def __call__(self, one: np.ndarray, other: np.ndarray) -> np.ndarray:
        return alike(self._pixels(one), self._pixels(other))

    def _pixels(self, numbers: np.ndarray) -> np.ndarray:
        pixels = [self._shard(int(self._shards[number]))[self._rows[number]] for number in numbers.tolist()]
        return np.stack(pixels)

    def _shard(self, number: int) -> np.ndarray:
        if number not in self._maps:
            self._maps[number] = np.load(self._folder / shard_name(number), mmap_mode="r")
        return self._maps[number]


def find_leaks(source_splits: pa.ChunkedArray, ties: Ties) -> list[tuple[int, int]]:
    """Pairs (picture, look-alike in another split) where the source's own splits divide what belongs together.

    For each group that is divided, every picture outside its most trusted split (test, then val) is paired with
    the first picture inside it.
    """
    bits = _split_bits(source_splits)
    numbers = np.flatnonzero(bits * (ties.tied | ties.rows["group"].is_valid().to_numpy()))
    together = np.zeros(len(bits), np.uint8)  # by leader, which splits its group has
    np.bitwise_or.at(together, ties.leaders[numbers], bits[numbers])
    divided = numbers[np.isin(together[ties.leaders[numbers]], [1, 2, 4], invert=True)]
    members: dict[int, list[int]] = {}
    for number, leader in zip(divided.tolist(), ties.leaders[divided].tolist(), strict=True):
        members.setdefault(leader, []).append(number)
    leaks = []
    for leader, group in members.items():
        trusted = 1 if together[leader] & 1 else 2  # test, else val
        inside = next(number for number in group if bits[number] == trusted)
        leaks += [(number, inside) for number in group if bits[number] != trusted]
    return leaks


def _split_bits(source_splits: pa.ChunkedArray) -> np.ndarray:
    """uint8 (N,): 1 for test, 2 for val, 4 for train, 0 where the source says none."""
    found = pc.index_in(source_splits, value_set=pa.array(SPLITS[::-1]))  # type: ignore[attr-defined]
    return np.array([1, 2, 4, 0], np.uint8)[found.fill_null(3).to_numpy()]


def settle_leaks(
    rows: pa.Table, leaks: list[tuple[int, int]], on_leak: str
) -> tuple[list[int], list[Refusal], list[str]]:
    """Return (numbers of the rows to drop, their refusals, warnings) as `on_leak` says.

    Raises:
        UserError: on_leak is "fail" and there are leaks.
    """
    if not leaks:
        return [], [], []
    one, other = _of(rows, leaks[:1])[0]
    example = f"{plain(one['uri'])!r} ({one['split']}) and {plain(other['uri'])!r} ({other['split']})"
    text = (
        f"{count(len(leaks), 'picture looks like, or belongs to,', 'pictures look like, or belong to,')} "
        f"pictures of another split of the source, e.g. {example}"
    )
    if on_leak == "fail":
        raise leak_error(text)
    if on_leak == "warn":
        return [], [], [text]
    drop, refused = [], []
    for (number, _), (one, other) in zip(leaks, _of(rows, leaks), strict=True):
        if one["split"] == "train":
            detail = f"looks like, or belongs to, {other['uri']} of the {other['split']} split"
            drop.append(number)
            refused.append(Refusal(one["uri"], one["image_id"], "leak", detail))
    left = len(leaks) - len(drop)
    look = count(left, "picture of the source's val split looks", "pictures of the source's val split look")
    return drop, refused, [f"{look} like some of its test split"] if left else []


def _of(rows: pa.Table, pairs: list[tuple[int, int]]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """The rows of pairs of numbers."""
    numbers = np.unique(np.array(pairs))
    found = taken(rows.select(["uri", "image_id", "split"]), numbers).to_pylist()
    by_number = dict(zip(numbers.tolist(), found, strict=True))
    return [(by_number[one], by_number[other]) for one, other in pairs]


def settle_copies(refused: list[Refusal], on_leak: str) -> list[str]:
    """Warnings for the copies across splits that `judge` refused as leaks.

    Such a copy is out whatever on_leak says, since a picture is one row; "drop_from_train" need not speak of it.

    Raises:
        UserError: on_leak is "fail" and there are some.
    """
    copies = [one for one in refused if one.reason == "leak"]
    if not copies or on_leak == "drop_from_train":
        return []
    text = (
        f"{count(len(copies), 'picture is a copy', 'pictures are copies')}, byte for byte, of pictures of another "
        f"split of the source, e.g. {plain(copies[0].uri)!r}: {plain(copies[0].detail)}"
    )
    if on_leak == "fail":
        raise leak_error(text)
    return [f"{text}; each is kept once: in test before val before train"]


def leak_error(text: str) -> UserError:
    """What is said where `on_leak` is fail."""
    return UserError(f"{text}; mend the source's splits, or set params.yaml: normalize.on_leak to drop_from_train")
