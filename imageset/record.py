"""The one description of a picture that every part shares."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """One picture of one source.

    Attributes:
        image_id: SHA-256 of the picture's bytes, 64 hexadecimal digits.
        uri: POSIX path relative to the source's root; for people, never an identity.
        label: class name, or None when unlabelled.
        group: pictures of one group are never divided between splits, or None.
        split: "train", "val" or "test" where the source came divided, else None.
    """

    image_id: str
    uri: str
    label: str | None = None
    group: str | None = None
    split: str | None = None
