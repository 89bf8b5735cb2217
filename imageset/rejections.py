"""What can be wrong with a picture, and the reason code it is rejected under."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rejection:
    """One row of rejected.parquet; image_id is None where the bytes could not be read."""

    uri: str
    image_id: str | None
    reason: str
    detail: str

    def __str__(self) -> str:
        return f"{escape_control_characters(self.uri)}: {self.reason}: {escape_control_characters(self.detail)}"


def num_harmful(refused: Iterable[Rejection]) -> int:
    """How many refusals count towards max_reject_fraction; duplicates do not."""
    return sum(one.reason not in HARMLESS_REASONS for one in refused)


def count_reasons(refused: Iterable[Rejection]) -> dict[str, int]:
    """Number of refusals by reason, sorted by reason."""
    return dict(sorted(Counter(one.reason for one in refused).items()))


def describe_worst(refused: Sequence[Rejection]) -> str:
    """The harmful reasons with their numbers, most frequent first, and one example."""
    harmful = [one for one in refused if one.reason not in HARMLESS_REASONS]
    counts = Counter(one.reason for one in harmful)
    example = min(harmful, key=lambda one: (-counts[one.reason], one.reason, one.uri))
    numbers = ", ".join(f"{num:,} {reason}" for reason, num in counts.most_common())
    return f"({numbers}), e.g. {example}"


REASONS = {
    "empty": "the file holds no bytes",
    "not_an_image": "the bytes are not a picture",
    "truncated": "the picture ends too early",
    "undecodable": "the picture is damaged",
    "too_small": "the picture has too few pixels",
    "bomb": "the picture is larger than the limit",
    "unsupported": "a kind of picture that is not decoded here",
    "unreadable": "the file may not be read",
    "unlabelled": "the picture lies in no class folder",
    "label_conflict": "the same bytes carry two labels",
    "duplicate": "the same bytes with the same label are kept once",
    "leak": "a picture whose copy or look-alike stands in another split of the source",
    "undated": "the split goes by time, and nothing says when the picture was taken",
    "crashed": "decoding the picture killed its worker",
    "timeout": "decoding the picture took too long",
}

# Not a fault of the picture: its twin is in the dataset. These do not count towards max_reject_fraction.
HARMLESS_REASONS = frozenset({"duplicate", "leak"})


def escape_control_characters(text: str) -> str:
    """Text fit for one line of a terminal: line breaks, control and direction marks are spelled out."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


class Rejected(Exception):
    """A picture is refused.

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
