"""A split that stays: each picture's place depends on its own group or identity, never on its neighbours."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from imageset.errors import UserError

SPLITS = ("train", "val", "test")


@dataclass(frozen=True, slots=True)
class SplitRule:
    """Fractions of the validation and the test split, and the salt of the hash."""

    seed: int
    val: float
    test: float

    def __post_init__(self) -> None:
        if not (0 < self.val < 1 and 0 < self.test < 1 and self.val + self.test < 1):
            raise UserError(f"split: val {self.val:g} and test {self.test:g} must be above 0 "
                            "and leave something for training")

    def to_dict(self) -> dict[str, Any]:
        """A plain dictionary, for JSON."""
        return {"seed": self.seed, "val": self.val, "test": self.test}

    def place(self, image_id: str, group: str | None, made: Mapping[str, bool] | None = None) -> str:
        """Return "train", "val" or "test" for a picture by the hash of its group, else of its bytes.

        `made` says which splits the source came with; those get nothing from the hash.
        """
        key = f"group\0{group}" if group is not None else f"image\0{image_id}"
        digest = hashlib.sha256(f"{self.seed}\0{key}".encode()).digest()
        point = int.from_bytes(digest[:8], "big") / 2**64  # in [0, 1)
        made = made or {}
        if point < self.test:
            return "train" if made.get("test") else "test"
        if point < self.test + self.val:
            return "train" if made.get("val") else "val"
        return "train"


def assign(image_ids: list[str], groups: list[str | None], made: list[str | None], rule: SplitRule) -> list[str]:
    """Return the split of every picture.

    A split that the source came with is respected. A source that was divided into train and test only has its
    validation split cut from train by the hash (and likewise a missing test split); its test pictures stay.
    """
    given = {split: split in made for split in SPLITS}
    return [_one(image_id, group, split, given, rule)
            for image_id, group, split in zip(image_ids, groups, made, strict=True)]


def _one(image_id: str, group: str | None, split: str | None, given: Mapping[str, bool], rule: SplitRule) -> str:
    if split in ("val", "test"):
        return split
    return rule.place(image_id, group, given)
