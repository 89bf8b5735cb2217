"""What can be wrong with a picture, and the reason code it is rejected under."""

from __future__ import annotations

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
HARMLESS = frozenset({"duplicate", "leak"})


def plain(text: str) -> str:
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
