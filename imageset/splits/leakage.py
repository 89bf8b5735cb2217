"""Leaks between the splits of the source, resolved as the parameter on_leak says."""

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


def find_leaks(source_splits: pa.ChunkedArray, groups: Groups) -> list[tuple[int, int]]:
    """Find groups that the splits of the source divide.

    For each such group, every image outside its most trusted split (test, then val) is paired with the first image
    inside it.

    Args:
        source_splits: the split of each image in the source, or null.
        groups: the groups of the images.

    Returns:
        Pairs of numbers (image, image of its group in another split).
    """
    bits = _encode_splits(source_splits)
    numbers = np.flatnonzero(bits * (groups.is_grouped | groups.rows["group"].is_valid().to_numpy()))
    split_bits = np.zeros(len(bits), np.uint8)  # by leader: the splits of its group
    np.bitwise_or.at(split_bits, groups.leaders[numbers], bits[numbers])
    divided = numbers[np.isin(split_bits[groups.leaders[numbers]], [1, 2, 4], invert=True)]
    members: dict[int, list[int]] = {}
    for number, leader in zip(divided.tolist(), groups.leaders[divided].tolist(), strict=True):
        members.setdefault(leader, []).append(number)
    leaks = []
    for leader, numbers_in_group in members.items():
        trusted = 1 if split_bits[leader] & 1 else 2  # test, else val
        inside = next(number for number in numbers_in_group if bits[number] == trusted)
        leaks += [(number, inside) for number in numbers_in_group if bits[number] != trusted]
    return leaks


def _encode_splits(source_splits: pa.ChunkedArray) -> np.ndarray:
    """Return uint8 (N,): 1 for test, 2 for val, 4 for train, 0 if the source gives no split."""
    positions = pc.index_in(source_splits, value_set=pa.array(SPLITS[::-1]))  # type: ignore[attr-defined]
    return np.array([1, 2, 4, 0], np.uint8)[positions.fill_null(3).to_numpy()]


def resolve_leaks(
    rows: pa.Table, leaks: list[tuple[int, int]], on_leak: str
) -> tuple[list[int], list[Rejection], list[str]]:
    """Resolve leaks as `on_leak` says.

    Args:
        rows: a table with the columns uri, image_id and split (of the source).
        leaks: pairs of row numbers, as `find_leaks` returns them.
        on_leak: one of ON_LEAK.

    Returns:
        (numbers of the rows to drop, their rejections, warnings).

    Raises:
        UserError: on_leak is "fail" and there are leaks.
    """
    if not leaks:
        return [], [], []
    example = " and ".join(
        f"{escape_control_characters(row['uri'])!r} ({row['split']})" for row in _read_pairs(rows, leaks[:1])[0]
    )
    text = (
        f"{format_count(len(leaks), 'picture looks like, or belongs to,', 'pictures look like, or belong to,')} "
        f"pictures of another split of the source, e.g. {example}"
    )
    if on_leak == "fail":
        raise build_leak_error(text)
    if on_leak == "warn":
        return [], [], [text]
    drop, rejections = [], []
    for (number, _), (row, trusted_row) in zip(leaks, _read_pairs(rows, leaks), strict=True):
        if row["split"] == "train":
            detail = f"looks like, or belongs to, {trusted_row['uri']} of the {trusted_row['split']} split"
            drop.append(number)
            rejections.append(Rejection(row["uri"], row["image_id"], "leak", detail))
    num_left = len(leaks) - len(drop)
    subject = format_count(
        num_left, "picture of the source's val split looks", "pictures of the source's val split look"
    )
    return drop, rejections, [f"{subject} like pictures of its test split"] if num_left else []


def _read_pairs(rows: pa.Table, pairs: list[tuple[int, int]]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Return the rows for pairs of row numbers."""
    numbers = np.unique(np.array(pairs))
    selected = take_rows(rows.select(["uri", "image_id", "split"]), numbers).to_pylist()
    by_number = dict(zip(numbers.tolist(), selected, strict=True))
    return [(by_number[left], by_number[right]) for left, right in pairs]


def resolve_duplicates(rejections: list[Rejection], on_leak: str) -> list[str]:
    """Return warnings for the exact duplicates across splits that `find_duplicates` rejected as leaks.

    Such a copy is dropped whatever `on_leak` says, since an image has a single row; "drop_from_train" gives no
    warning.

    Raises:
        UserError: on_leak is "fail" and there are such copies.
    """
    copies = [rejection for rejection in rejections if rejection.reason == "leak"]
    if not copies or on_leak == "drop_from_train":
        return []
    text = (
        f"{format_count(len(copies), 'picture is a copy', 'pictures are copies')}, byte for byte, of pictures of "
        f"another split of the source, e.g. {escape_control_characters(copies[0].uri)!r}: "
        f"{escape_control_characters(copies[0].detail)}"
    )
    if on_leak == "fail":
        raise build_leak_error(text)
    return [f"{text}; each is kept once: in test, else in val, else in train"]


def build_leak_error(text: str) -> UserError:
    """Return the error that is raised when `on_leak` is "fail"."""
    return UserError(
        f"{text}; correct the source's splits, or set params.yaml: normalize.on_leak to drop_from_train"
    )
