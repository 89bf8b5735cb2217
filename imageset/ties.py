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

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from imageset.errors import UserError
from imageset.judge import Refusal
from imageset.near import alike, near_groups, tied_by
from imageset.quality import plain
from imageset.store import shard_name

ON_LEAK = ("fail", "drop_from_train", "warn")


@dataclass(frozen=True, slots=True)
class Ties:
    """For each of N pictures, in raw order.

    Attributes:
        leaders: int64 (N,), number of the first picture of its group, its own where it is alone.
        groups: the name of its group, or None.
        source_groups: the same where the source named it: such a group hashes by its name.
        keys: the image_id whose hash places it: its own, or that of its cluster's eldest.
        times: datetime64[us] (N,), the time that places it: its own, or that of its group's eldest.
    """

    leaders: np.ndarray
    groups: list[str | None]
    source_groups: list[str | None]
    keys: list[str]
    times: np.ndarray

    @property
    def num_near(self) -> int:
        """How many pictures are tied only because they look alike."""
        return sum(
            mine is not None and theirs is None
            for mine, theirs in zip(self.groups, self.source_groups, strict=True)
        )


def tie(rows: pa.Table, phashes: np.ndarray, max_bits: int | None, folder: Path) -> Ties:
    """Tie pictures of the same source group and, with max_bits, near duplicates; `folder` holds their pixels.

    `rows` has the columns image_id, group, shard and row (of the pixels), ingest (int64, in which the picture
    came), and since_ingest and since (datetime64[us]): of the eldest of the source's group, by with_ages.
    """
    image_ids, names = rows["image_id"].to_pylist(), rows["group"].to_pylist()
    leaders = tied_by(names)
    if max_bits is not None:
        leaders = near_groups(phashes, max_bits, _Confirm(rows, folder), leaders)
    tied = np.flatnonzero(np.bincount(leaders, minlength=len(leaders))[leaders] > 1)
    eldest = tied[_eldest(leaders[tied], rows["ingest"].to_numpy()[tied], np.array(image_ids, "S64")[tied])]
    groups, placed, keys = list(names), list(names), list(image_ids)
    for number, old in zip(tied.tolist(), eldest.tolist(), strict=True):
        placed[number], keys[number] = names[old], image_ids[old]
        groups[number] = names[old] or f"near-{image_ids[old][:16]}"
    times = rows["since"].to_numpy().copy()
    times[tied] = times[tied][_eldest(leaders[tied], rows["since_ingest"].to_numpy()[tied], times[tied])]
    return Ties(leaders, groups, placed, keys, times)


def with_ages(records: pa.Table, first_shards: list[int]) -> pa.Table:
    """Add the columns ingest, since_ingest and since (see tie) to records, which hold absent pictures too."""
    times = records["time"].to_numpy()
    ingests = np.searchsorted(first_shards, records["shard"].fill_null(0).to_numpy(), side="right") - 1
    dated = np.where(np.isnat(times), np.iinfo(np.int64).max, ingests)
    eldest = _eldest(tied_by(records["group"].to_pylist()), dated, times)
    for name, values in (("ingest", ingests), ("since_ingest", dated[eldest]), ("since", times[eldest])):
        records = records.append_column(name, pa.array(values))
    return records


def _eldest(leaders: np.ndarray, ingests: np.ndarray, then: np.ndarray) -> np.ndarray:
    """int64 (N,): for each position that of its group's eldest: the earliest ingest, then the smallest `then`."""
    order = np.lexsort((then, ingests, leaders))
    _, first, inverse = np.unique(leaders[order], return_index=True, return_inverse=True)
    eldest = np.empty_like(order)
    eldest[order] = order[first[inverse]]
    return eldest


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


def find_leaks(made: list[str | None], ties: Ties) -> list[tuple[int, int]]:
    """Pairs (picture, look-alike in another split) where the source's own splits divide what belongs together.

    For each group that is divided, every picture outside its most trusted split (test, then val) is paired with
    the first picture inside it.
    """
    members: dict[int, list[int]] = {}
    for number, leader in enumerate(ties.leaders.tolist()):
        if ties.groups[number] is not None and made[number] is not None:
            members.setdefault(leader, []).append(number)
    leaks = []
    for group in members.values():
        for trusted in ("test", "val"):
            inside = [number for number in group if made[number] == trusted]
            if inside and len(inside) < len(group):
                leaks += [(number, inside[0]) for number in group if made[number] != trusted]
                break
    return leaks


def settle_leaks(
    rows: pa.Table, leaks: list[tuple[int, int]], on_leak: str
) -> tuple[list[int], list[Refusal], list[str]]:
    """Return (numbers of the rows to drop, their refusals, warnings) as `on_leak` says.

    Raises:
        UserError: on_leak is "fail" and there are leaks.
    """
    if not leaks:
        return [], [], []
    uris, image_ids, made = (rows[column].to_pylist() for column in ("uri", "image_id", "split"))
    number, other = leaks[0]
    example = f"{plain(uris[number])!r} ({made[number]}) and {plain(uris[other])!r} ({made[other]})"
    text = (
        f"{len(leaks):,} pictures look like, or belong to, pictures of another split of the source, e.g. {example}"
    )
    if on_leak == "fail":
        raise leak_error(text)
    if on_leak == "warn":
        return [], [], [text]
    drop = [(number, other) for number, other in leaks if made[number] == "train"]
    refused = [
        Refusal(
            uris[number],
            image_ids[number],
            "leak",
            f"looks like, or belongs to, {uris[other]} of the {made[other]} split",
        )
        for number, other in drop
    ]
    left = len(leaks) - len(drop)
    warnings = [f"{left:,} pictures of the source's val split look like some of its test split"] if left else []
    return [number for number, _ in drop], refused, warnings


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
        f"{len(copies):,} pictures are copies, byte for byte, of pictures of another split of the source, e.g. "
        f"{plain(copies[0].uri)!r}: {plain(copies[0].detail)}"
    )
    if on_leak == "fail":
        raise leak_error(text)
    return [f"{text}; each is kept once: in test before val before train"]


def leak_error(text: str) -> UserError:
    """What is said where `on_leak` is fail."""
    return UserError(f"{text}; mend the source's splits, or set params.yaml: normalize.on_leak to drop_from_train")
