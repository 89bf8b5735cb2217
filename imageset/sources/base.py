"""The Source protocol, SourcePicture, and helpers that every source shares."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple, Protocol

from imageset.rejections import escape_control_characters
from imageset.utils.text import format_class_count, format_count


class PathLabel(NamedTuple):
    """What a picture's place says of it."""

    label: str | None
    split: str | None


SINGULAR_CAUSES = {"files of other kinds": "file of another kind"}  # of what is passed over
MAX_CLASSES_DESCRIBED = 12  # no more are named one by one


@dataclass(frozen=True, slots=True)
class SourceImage:
    """One picture of a source, its bytes not yet read; `time` is when it was taken, UTC without a zone.

    `read()` returns the bytes; it raises Rejected("unreadable" | "bomb") when the file may not be read or is far
    too large, and OSError when reading fails in a way that trying again may cure.
    """

    uri: str
    label: str | None
    group: str | None
    split: str | None
    read: Callable[[], bytes] = field(repr=False, compare=False)
    time: datetime | None = None


class Source(Protocol):
    """What ingest needs to know about a source.

    Attributes:
        name: slug of the folder's (or the set's) name; becomes the dataset's name.
        kind: "folder", "archive", "table", "idx", "cifar", "public" or "digits".
        multi_label: whether a picture's label is a set of names (imageset.labels).
        passed_over: how many files were not taken for pictures, by cause.
        classes: number of pictures of each class (of each label name).
        splits: number of pictures of each split that the source itself makes.
        problem: why nothing can be learned from it, or None.
    """

    name: str
    kind: str
    multi_label: bool
    passed_over: Counter[str]
    classes: Counter[str]
    splits: Counter[str]
    problem: str | None

    def __iter__(self) -> Iterator[SourceImage]: ...

    def __len__(self) -> int: ...

    def describe(self) -> str:
        """One line: what was understood."""
        ...


def slugify(name: str) -> str:
    """A name for a dataset or a model: lower case, digits and dashes ("My Flowers" -> "my-flowers")."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "dataset"


def count_image(source: Source, path_label: PathLabel | None, cause: str) -> bool:
    """Count a picture by its place; False where it is passed over."""
    if path_label is None:
        source.passed_over[cause] += 1
        return False
    source.classes.update([path_label.label] if path_label.label is not None else [])
    source.splits.update([path_label.split] if path_label.split is not None else [])
    return True


def describe_source(source: Source, label: str, note: str = "") -> str:
    """One line: what was understood of a source."""
    kinds = format_class_count(len(source.classes), source.multi_label)
    text = f"{label}: {format_count(len(source), 'picture')} in {kinds}"
    if 0 < len(source.classes) <= MAX_CLASSES_DESCRIBED:
        text += (
            " ("
            + ", ".join(
                f"{escape_control_characters(name)} {num:,}" for name, num in sorted(source.classes.items())
            )
            + ")"
        )
    if source.splits:
        text += "; splits " + ", ".join(f"{split} {num:,}" for split, num in sorted(source.splits.items()))
    return text + (f"; {note}" if note else "") + format_passed_over(source.passed_over)


def format_passed_over(passed_over: Mapping[str, int]) -> str:
    """ ", passed over: ..." or nothing."""
    if not passed_over:
        return ""
    said = (
        format_count(num, SINGULAR_CAUSES.get(cause, cause), cause) for cause, num in sorted(passed_over.items())
    )
    return "; passed over: " + ", ".join(said)
