"""A stable split: the split of an image depends on its own group or identity, never on other images.

By hash: the salted hash of the image's group, else of its bytes, determines the split. By time: two fixed dates
divide the images into train, val and test. Either way an image keeps its split when others are added or removed;
imageset.splits.groups states the guarantees for groups.
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
AUTO_GROUP = "auto"  # value of `group`: sequences are found by the names of their files
_PARAMS_KEY = "params.yaml: normalize.split"


@dataclass(frozen=True, slots=True)
class SplitRule:
    """The rule by which images are split.

    Attributes:
        seed: the salt of the hash.
        val: by hash: fraction of the images for validation.
        test: by hash: fraction of the images for testing.
        by: "hash" or "time".
        val_from: by time: images from this time on are for validation.
        test_from: by time: images from this time on are for testing.
        group: regular expression for the uri; its first group is the name of the image's group if the source
            gives none. AUTO_GROUP: sequences are found, and the groups of each class are stratified.
        time: the same for the time if the source gives none.
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
            _check_pattern(name, self.group_pattern if name == "group" else self.time)
        dates = [_parse_cut_date(name, getattr(self, name)) for name in ("val_from", "test_from")]
        if self.by == "hash" and any(dates):
            raise UserError(
                f"{_PARAMS_KEY}: val_from and test_from are for `by: time`; remove them, or set by: time"
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
    def group_pattern(self) -> str | None:
        """The regular expression for the group, or None."""
        return None if self.group == AUTO_GROUP else self.group

    @property
    def cut_times(self) -> np.ndarray:
        """The times at which validation and testing begin, datetime64[us] (2,)."""
        return np.array([parse_time(self.val_from), parse_time(self.test_from)], "datetime64[us]")

    def to_dict(self) -> dict[str, Any]:
        """Return a plain dictionary, for JSON, without the values that are None."""
        values = {name: getattr(self, name) for name in self.__slots__}
        return {name: value for name, value in values.items() if value is not None}


def _check_pattern(name: str, pattern: str | None) -> None:
    if pattern is None:
        return
    try:
        num_groups = re.compile(pattern).groups
    except re.error as error:
        raise UserError(f"{_PARAMS_KEY}.{name}: not a regular expression: {error}: {pattern!r}") from None
    if num_groups < 1:
        raise UserError(
            f"{_PARAMS_KEY}.{name}: {pattern!r} holds no group; put parentheses around the part to use"
        )


def _parse_cut_date(name: str, value: object) -> datetime | None:
    if isinstance(value, date):
        raise UserError(
            f"{_PARAMS_KEY}.{name}: put the date in quotes ('{value}'); DVC accepts no dates without them"
        )
    parsed = parse_time(value)
    if value is not None and parsed is None:
        raise UserError(f"{_PARAMS_KEY}.{name}: not a date: {value!r}; write it like '2024-01-31'")
    return parsed


def match_uris(pattern: str, uris: Iterable[str]) -> list[str | None]:
    """Return the match of the pattern's first group in each uri, or None."""
    return [match[1] if match else None for match in map(re.compile(pattern).search, uris)]


def build_no_match_error(pattern: str, example: str, name: str) -> UserError:
    """Return the error for a pattern of `match_uris` that matches no uri at all."""
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
    """Return the split of every image: by the hash of its group, else of its bytes, or by its time.

    A split given by the source is kept. If the source is divided into train and test only, the validation split is
    taken from train (and likewise a missing test split); its test images stay.

    Args:
        image_ids: of the images.
        groups: the name of each image's group, or None.
        given_splits: the split of each image in the source, or None.
        rule: the split rule.
        times: datetime64[us] (N,), the same throughout a group; NaT goes to train.
        source_splits: the splits of the whole source, if the images are only a part of it.
        hashes: float64 (N,), the result of `hash_to_unit_interval`, if known.
    """
    all_splits = set(given_splits) if source_splits is None else source_splits
    if rule.by == "time":
        in_val, in_test = _split_by_time(times, rule)
    else:
        in_val, in_test = _split_by_hash(
            hash_to_unit_interval(image_ids, groups, rule.seed) if hashes is None else hashes, rule
        )
    chosen = np.full(len(given_splits), "train", dtype="<U5")
    if "val" not in all_splits:
        chosen[in_val] = "val"
    if "test" not in all_splits:
        chosen[in_test] = "test"
    if not any(given_splits):
        return chosen.tolist()
    return [
        given if given in ("val", "test") else split
        for given, split in zip(given_splits, chosen.tolist(), strict=True)
    ]


def _split_by_hash(hashes: np.ndarray, rule: SplitRule) -> tuple[np.ndarray, np.ndarray]:
    return (hashes >= rule.test) & (hashes < rule.test + rule.val), hashes < rule.test


def _split_by_time(times: np.ndarray | None, rule: SplitRule) -> tuple[np.ndarray, np.ndarray]:
    assert times is not None
    val_from, test_from = rule.cut_times
    return (times >= val_from) & (times < test_from), times >= test_from


def list_split_hashes(rule: SplitRule) -> np.ndarray:
    """Return a hash, float64 (3,), that puts an image into each of SPLITS: train, val, test."""
    return np.array([np.nextafter(1, 0), rule.test, 0.0])


def hash_to_unit_interval(image_ids: list[str], groups: list[str | None], seed: int) -> np.ndarray:
    """Return float64 (N,) in [0, 1): the salted hash of each image's group, else of its image_id."""
    sha256, image_salt, group_salt = hashlib.sha256, f"{seed}\0image\0".encode(), f"{seed}\0group\0".encode()
    digests = [
        sha256(image_salt + image_id.encode() if group is None else group_salt + group.encode()).digest()[:8]
        for image_id, group in zip(image_ids, groups, strict=True)
    ]
    return np.frombuffer(b"".join(digests), ">u8").astype(np.float64) / 2**64
