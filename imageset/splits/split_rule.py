"""A split that stays: each picture's place depends on its own group or identity, never on its neighbours.

By hash: the salted hash of a picture's group, else of its bytes, says where it goes. By time: two fixed dates cut
the pictures into train, val and test. Either way a picture stays where it is when others come or go; what exactly
is promised for groups is said in imageset.splits.groups.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

import numpy as np

from imageset.exceptions import UserError
from imageset.utils.timestamps import parse_time

SPLIT_METHODS = ("hash", "time")
_PARAMS_KEY = "params.yaml: normalize.split"


@dataclass(frozen=True, slots=True)
class SplitRule:
    """How pictures are divided.

    Attributes:
        seed: the salt of the hash.
        val, test: fractions of the pictures, by hash.
        by: "hash" or "time".
        val_from, test_from: by time: pictures from here on are for validation, and from there on for testing.
        group: regular expression over the uri whose first group names the picture's group, where the source names
            none.
        time: the same for the time, where the source says none.
    """

    seed: int
    val: float
    test: float
    by: str = "hash"
    val_from: str | None = None
    test_from: str | None = None
    group: str | None = None
    time: str | None = None

    def __post_init__(self) -> None:
        if not (0 < self.val < 1 and 0 < self.test < 1 and self.val + self.test < 1):
            raise UserError(
                f"split: val {self.val:g} and test {self.test:g} must be above 0 and leave something for training"
            )
        if self.by not in SPLIT_METHODS:
            raise UserError(f"{_PARAMS_KEY}.by: must be one of {', '.join(SPLIT_METHODS)}, not {self.by!r}")
        for name in ("group", "time"):
            _check_pattern(name, getattr(self, name))
        dates = [_parse_cut_date(name, getattr(self, name)) for name in ("val_from", "test_from")]
        if self.by == "hash" and any(dates):
            raise UserError(
                f"{_PARAMS_KEY}: val_from and test_from are for `by: time`; remove them, or say by: time"
            )
        if self.by == "time":
            if None in dates:
                raise UserError(
                    f"{_PARAMS_KEY}: `by: time` needs val_from and test_from, e.g. val_from: '2024-01-31'"
                )
            if not dates[0] < dates[1]:  # type: ignore[operator]
                raise UserError(
                    f"{_PARAMS_KEY}: val_from {self.val_from} must be before test_from {self.test_from}"
                )

    @property
    def cut_times(self) -> np.ndarray:
        """datetime64[us] (2,): where validation and testing begin."""
        return np.array([parse_time(self.val_from), parse_time(self.test_from)], "datetime64[us]")

    def to_dict(self) -> dict[str, Any]:
        """A plain dictionary, for JSON, without what is not set."""
        every = {name: getattr(self, name) for name in self.__slots__}
        return {name: value for name, value in every.items() if value is not None}


def _check_pattern(name: str, pattern: str | None) -> None:
    if pattern is None:
        return
    try:
        num_groups = re.compile(pattern).groups
    except re.error as error:
        raise UserError(f"{_PARAMS_KEY}.{name}: not a regular expression: {error}: {pattern!r}") from None
    if num_groups < 1:
        raise UserError(
            f"{_PARAMS_KEY}.{name}: {pattern!r} holds no group; put brackets around the part that counts"
        )


def _parse_cut_date(name: str, value: object) -> datetime | None:
    if isinstance(value, date):
        raise UserError(f"{_PARAMS_KEY}.{name}: put the date in quotes ('{value}'); DVC takes no date without")
    found = parse_time(value)
    if value is not None and found is None:
        raise UserError(f"{_PARAMS_KEY}.{name}: not a date: {value!r}; write it like '2024-01-31'")
    return found


def match_uris(pattern: str, uris: Iterable[str]) -> list[str | None]:
    """What the pattern's first group finds in each uri."""
    return [match[1] if match else None for match in map(re.compile(pattern).search, uris)]


def build_no_match_error(pattern: str, example: str, name: str) -> UserError:
    """What is said where found_in_uris finds nothing in any uri."""
    return UserError(f"{_PARAMS_KEY}.{name}: {pattern!r} is found in no uri, e.g. not in {example!r}")


def assign_splits(
    image_ids: list[str],
    groups: list[str | None],
    given_splits: list[str | None],
    rule: SplitRule,
    times: np.ndarray | None = None,
    source_splits: Collection[str | None] | None = None,
    hashes: np.ndarray | None = None,
) -> list[str]:
    """Return the split of every picture: by the hash of its group, else of its bytes, or by its time.

    `times` is datetime64[us] (N,), the same throughout a group; NaT goes to train. A split that the source came
    with is respected. A source that was divided into train and test only has its validation split cut from train
    (and likewise a missing test split); its test pictures stay. `source_splits` are the splits of the whole
    source, where `made` is only a part of it; `points` what points_of says of the pictures, where that is known.
    """
    whole = set(given_splits) if source_splits is None else source_splits
    if rule.by == "time":
        in_val, in_test = _split_by_time(times, rule)
    else:
        in_val, in_test = _split_by_hash(
            hash_to_unit_interval(image_ids, groups, rule.seed) if hashes is None else hashes, rule
        )
    chosen = np.full(len(given_splits), "train", dtype="<U5")
    if "val" not in whole:
        chosen[in_val] = "val"
    if "test" not in whole:
        chosen[in_test] = "test"
    if not any(given_splits):
        return chosen.tolist()
    return [
        split if split in ("val", "test") else place for split, place in zip(given_splits, chosen.tolist(), strict=True)
    ]


def _split_by_hash(points: np.ndarray, rule: SplitRule) -> tuple[np.ndarray, np.ndarray]:
    return (points >= rule.test) & (points < rule.test + rule.val), points < rule.test


def _split_by_time(times: np.ndarray | None, rule: SplitRule) -> tuple[np.ndarray, np.ndarray]:
    assert times is not None
    val_from, test_from = rule.cut_times
    return (times >= val_from) & (times < test_from), times >= test_from


def hash_to_unit_interval(image_ids: list[str], groups: list[str | None], seed: int) -> np.ndarray:
    """float64 (N,) in [0, 1): where the salted hash puts each picture."""
    sha256, alone, together = hashlib.sha256, f"{seed}\0image\0".encode(), f"{seed}\0group\0".encode()
    digests = [
        sha256(alone + image_id.encode() if group is None else together + group.encode()).digest()[:8]
        for image_id, group in zip(image_ids, groups, strict=True)
    ]
    return np.frombuffer(b"".join(digests), ">u8").astype(np.float64) / 2**64
