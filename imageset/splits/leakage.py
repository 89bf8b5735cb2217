"""Leaks between the source's own splits, and on_leak."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from imageset.exceptions import UserError
from imageset.rejections import Rejection, escape_control_characters
from imageset.splits.groups import Groups
from imageset.store.format import SPLITS
from imageset.utils.arrow import take_rows
from imageset.utils.text import format_count

ON_LEAK = ("fail", "drop_from_train", "warn")


def find_leaks(source_splits: pa.ChunkedArray, ties: Groups) -> list[tuple[int, int]]:
    """Pairs (picture, look-alike in another split) where the source's own splits divide what belongs together.

    For each group that is divided, every picture outside its most trusted split (test, then val) is paired with
    the first picture inside it.
    """
    bits = _encode_splits(source_splits)
    numbers = np.flatnonzero(bits * (ties.is_grouped | ties.rows["group"].is_valid().to_numpy()))
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


def _encode_splits(source_splits: pa.ChunkedArray) -> np.ndarray:
    """uint8 (N,): 1 for test, 2 for val, 4 for train, 0 where the source says none."""
    found = pc.index_in(source_splits, value_set=pa.array(SPLITS[::-1]))  # type: ignore[attr-defined]
    return np.array([1, 2, 4, 0], np.uint8)[found.fill_null(3).to_numpy()]


def resolve_leaks(
    rows: pa.Table, leaks: list[tuple[int, int]], on_leak: str
) -> tuple[list[int], list[Rejection], list[str]]:
    """Return (numbers of the rows to drop, their refusals, warnings) as `on_leak` says.

    Raises:
        UserError: on_leak is "fail" and there are leaks.
    """
    if not leaks:
        return [], [], []
    one, other = _read_pairs(rows, leaks[:1])[0]
    example = f"{escape_control_characters(one['uri'])!r} ({one['split']}) and {escape_control_characters(other['uri'])!r} ({other['split']})"
    text = (
        f"{format_count(len(leaks), 'picture looks like, or belongs to,', 'pictures look like, or belong to,')} "
        f"pictures of another split of the source, e.g. {example}"
    )
    if on_leak == "fail":
        raise build_leak_error(text)
    if on_leak == "warn":
        return [], [], [text]
    drop, refused = [], []
    for (number, _), (one, other) in zip(leaks, _read_pairs(rows, leaks), strict=True):
        if one["split"] == "train":
            detail = f"looks like, or belongs to, {other['uri']} of the {other['split']} split"
            drop.append(number)
            refused.append(Rejection(one["uri"], one["image_id"], "leak", detail))
    left = len(leaks) - len(drop)
    look = format_count(left, "picture of the source's val split looks", "pictures of the source's val split look")
    return drop, refused, [f"{look} like some of its test split"] if left else []


def _read_pairs(rows: pa.Table, pairs: list[tuple[int, int]]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """The rows of pairs of numbers."""
    numbers = np.unique(np.array(pairs))
    found = take_rows(rows.select(["uri", "image_id", "split"]), numbers).to_pylist()
    by_number = dict(zip(numbers.tolist(), found, strict=True))
    return [(by_number[one], by_number[other]) for one, other in pairs]


def resolve_duplicates(refused: list[Rejection], on_leak: str) -> list[str]:
    """Warnings for the copies across splits that `judge` refused as leaks.

    Such a copy is out whatever on_leak says, since a picture is one row; "drop_from_train" need not speak of it.

    Raises:
        UserError: on_leak is "fail" and there are some.
    """
    copies = [one for one in refused if one.reason == "leak"]
    if not copies or on_leak == "drop_from_train":
        return []
    text = (
        f"{format_count(len(copies), 'picture is a copy', 'pictures are copies')}, byte for byte, of pictures of another "
        f"split of the source, e.g. {escape_control_characters(copies[0].uri)!r}: {escape_control_characters(copies[0].detail)}"
    )
    if on_leak == "fail":
        raise build_leak_error(text)
    return [f"{text}; each is kept once: in test before val before train"]


def build_leak_error(text: str) -> UserError:
    """What is said where `on_leak` is fail."""
    return UserError(f"{text}; mend the source's splits, or set params.yaml: normalize.on_leak to drop_from_train")
