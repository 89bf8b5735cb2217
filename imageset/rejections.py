"""Rejected images: the reason codes, and the row that each one becomes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

FORGOTTEN = "forgotten"
REASONS = {
    "empty": "the file holds no bytes",
    "not_an_image": "the bytes are not a picture",
    "truncated": "the picture ends too early",
    "undecodable": "the picture is damaged",
    "too_small": "the picture has too few pixels",
    "bomb": "the picture is larger than the limit",
    "unsupported": "this kind of picture is not supported",
    "unreadable": "the file cannot be read",
    "unlabelled": "the picture is in no class folder",
    "label_conflict": "the same bytes have two labels",
    "label_dispute": "people who labelled the picture disagree",
    "duplicate": "the same bytes with the same label are kept once",
    "leak": "a copy or near duplicate of the picture is in another split of the source",
    "undated": "the split is by time, and the picture has no time",
    FORGOTTEN: "`convoy forget` has removed the picture, and it is not taken again",
    "crashed": "decoding the picture ended its worker process",
    "timeout": "decoding the picture took too long",
}

# Reasons that follow from the bytes of the file alone.
CONTENT_REASONS = frozenset(
    {"empty", "not_an_image", "truncated", "undecodable", "too_small", "bomb", "unsupported", "crashed", "timeout"}
)
# Not faults of the image: a copy of it is in the dataset, people will decide about it, or people have decided that
# it is left out. They do not count towards max_reject_fraction.
HARMLESS_REASONS = frozenset({"duplicate", "leak", "label_dispute", FORGOTTEN})


@dataclass(frozen=True, slots=True)
class Rejection:
    """One row of rejected.parquet; `image_id` is None if the bytes could not be read."""

    uri: str
    image_id: str | None
    reason: str
    detail: str

    def __str__(self) -> str:
        return f"{escape_control_characters(self.uri)}: {self.reason}: {escape_control_characters(self.detail)}"


def count_harmful(rejections: Iterable[Rejection]) -> int:
    """Return how many rejections count towards max_reject_fraction; those of HARMLESS_REASONS do not."""
    return sum(rejection.reason not in HARMLESS_REASONS for rejection in rejections)


def count_reasons(rejections: Iterable[Rejection]) -> dict[str, int]:
    """Return the number of rejections by reason, sorted by reason."""
    return dict(sorted(Counter(rejection.reason for rejection in rejections).items()))


def describe_worst(rejections: Sequence[Rejection]) -> str:
    """Return the harmful reasons with their numbers, most frequent first, and one example."""
    harmful = [rejection for rejection in rejections if rejection.reason not in HARMLESS_REASONS]
    counts = Counter(rejection.reason for rejection in harmful)
    example = min(harmful, key=lambda worst: (-counts[worst.reason], worst.reason, worst.uri))
    numbers = ", ".join(f"{num:,} {reason}" for reason, num in counts.most_common())
    return f"({numbers}), e.g. {example}"


def escape_control_characters(text: str) -> str:
    """Return text for one line of a terminal: line breaks, control and direction marks are written as escapes."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


class Rejected(Exception):
    """An image is rejected.

    Attributes:
        reason: one of REASONS.
        detail: one line for a person.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        assert reason in REASONS, reason
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}" if self.detail else self.reason
