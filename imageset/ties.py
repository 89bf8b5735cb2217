"""Which pictures belong together: the source's own groups, and near duplicates; and where that crosses splits."""

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
        keys: the image_id whose hash places it: its own, or its leader's. A picture that was there first keeps its
            split when a look-alike comes.
    """

    leaders: np.ndarray
    groups: list[str | None]
    source_groups: list[str | None]
    keys: list[str]

    @property
    def num_near(self) -> int:
        """How many pictures are tied only because they look alike."""
        return sum(
            mine is not None and theirs is None
            for mine, theirs in zip(self.groups, self.source_groups, strict=True)
        )


def tie(rows: pa.Table, phashes: np.ndarray, max_bits: int | None, folder: Path) -> Ties:
    """Tie pictures of the same source group and, with max_bits, near duplicates; `folder` holds their pixels."""
    image_ids, names = rows["image_id"].to_pylist(), rows["group"].to_pylist()
    leaders = tied_by(names)
    if max_bits is not None:
        leaders = near_groups(phashes, max_bits, _Confirm(rows, folder), leaders)
    sizes = np.bincount(leaders, minlength=len(leaders))
    groups, keys = list(names), list(image_ids)
    for number in np.flatnonzero(sizes[leaders] > 1).tolist():
        leader = int(leaders[number])
        names[number], keys[number] = names[leader], image_ids[leader]
        groups[number] = names[leader] or f"near-{image_ids[leader][:16]}"
    return Ties(leaders, groups, names, keys)


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
        raise UserError(
            f"{text}; mend the source's splits, or set params.yaml: normalize.on_leak to drop_from_train"
        )
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
