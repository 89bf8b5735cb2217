"""A split that stays: each picture's place depends on its own group or identity, never on its neighbours."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np

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
            raise UserError(
                f"split: val {self.val:g} and test {self.test:g} must be above 0 and leave something for training"
            )

    def to_dict(self) -> dict[str, Any]:
        """A plain dictionary, for JSON."""
        return {"seed": self.seed, "val": self.val, "test": self.test}


def assign(image_ids: list[str], groups: list[str | None], made: list[str | None], rule: SplitRule) -> list[str]:
    """Return the split of every picture, by the hash of its group, else of its bytes.

    A split that the source came with is respected. A source that was divided into train and test only has its
    validation split cut from train by the hash (and likewise a missing test split); its test pictures stay.
    """
    points = _points(image_ids, groups, rule.seed)
    chosen = np.full(len(image_ids), "train", dtype="<U5")
    if "val" not in made:
        chosen[(points >= rule.test) & (points < rule.test + rule.val)] = "val"
    if "test" not in made:
        chosen[points < rule.test] = "test"
    if not any(made):
        return chosen.tolist()
    return [
        split if split in ("val", "test") else place for split, place in zip(made, chosen.tolist(), strict=True)
    ]


def _points(image_ids: list[str], groups: list[str | None], seed: int) -> np.ndarray:
    """float64 (N,) in [0, 1): where the salted hash puts each picture."""
    sha256, alone, together = hashlib.sha256, f"{seed}\0image\0".encode(), f"{seed}\0group\0".encode()
    digests = [
        sha256(alone + image_id.encode() if group is None else together + group.encode()).digest()[:8]
        for image_id, group in zip(image_ids, groups, strict=True)
    ]
    return np.frombuffer(b"".join(digests), ">u8").astype(np.float64) / 2**64
