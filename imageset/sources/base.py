"""The Source protocol, SourceImage, and helpers that all sources share."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple, Protocol

from imageset.rejections import escape_control_characters
from imageset.utils.text import format_class_count, format_count


class PathLabel(NamedTuple):
    """The label and the split that an image's path gives; None if the path gives none."""

    label: str | None
    split: str | None


# Causes for which one file, or one row of a table, is passed over.
SINGULAR_CAUSES = {
    "files of other kinds": "file of another kind",
    "empty rows": "empty row",
    "links, devices and FIFOs": "link, device or FIFO",
    "names that lead out of the archive": "name that leads out of the archive",
}
_PLURAL_NOUN = re.compile(r"^((?:unlabelled )?picture|(?:system )?folder|file|thumbnail|link)s(?= |$)")
MAX_CLASSES_DESCRIBED = 12  # with more classes, their names are left out


@dataclass(frozen=True, slots=True)
class SourceImage:
    """One image of a source; its bytes are not read yet.

    Attributes:
        uri: name of the image, unique in its source.
        label: its label, or None.
        group: images of a group stay in one split; None: no group.
        split: the split that the source gives, or None.
        read: returns the bytes. It raises Rejected("unreadable" | "bomb") if the file cannot be read or is far too
            large, and OSError if reading fails with an error that may be transient.
        time: when the image was taken, UTC without a zone, or None.
    """

    uri: str
    label: str | None
    group: str | None
    split: str | None
    read: Callable[[], bytes] = field(repr=False, compare=False)
    time: datetime | None = None


class Source(Protocol):
    """The interface of a source, as an ingest uses it.

    Attributes:
        name: slug of the folder's (or the set's) name; becomes the dataset's name.
        kind: "folder", "archive", "table", "idx", "cifar", "public" or "digits".
        multi_label: whether an image's label is a set of names (imageset.labels).
        passed_over: number of files that are not images, by cause.
        classes: number of images of each class (of each label name).
        splits: number of images of each split that the source itself defines.
        problem: why nothing can be learned from the source, or None.
        warnings: what is odd about the source, but no problem.
    """

    name: str
    kind: str
    multi_label: bool
    passed_over: Counter[str]
    classes: Counter[str]
    splits: Counter[str]
    problem: str | None
    warnings: Sequence[str]

    def __iter__(self) -> Iterator[SourceImage]: ...

    def __len__(self) -> int: ...

    def describe(self) -> str:
        """Return one line that describes the source as it was understood."""
        ...


def slugify(name: str) -> str:
    """Return a name for a dataset or a model: lower case, digits and dashes ("My Flowers" -> "my-flowers")."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "dataset"


def count_image(
    source: Source, path_label: PathLabel | None, find_skip_cause: Callable[[str], str], name: str
) -> bool:
    """Count an image by the label and split of its path.

    Args:
        source: its `classes` and `splits`, or its `passed_over`, are updated.
        path_label: the label and split; None: the image is passed over.
        find_skip_cause: returns the cause under which it is passed over.
        name: its path.

    Returns:
        Whether the image belongs to the source.
    """
    if path_label is None:
        source.passed_over[find_skip_cause(name)] += 1
        return False
    source.classes.update([path_label.label] if path_label.label is not None else [])
    source.splits.update([path_label.split] if path_label.split is not None else [])
    return True


def describe_source(source: Source, label: str, note: str = "") -> str:
    """Return one line that describes a source: its images, classes, splits, a note, and files passed over."""
    kinds = format_class_count(len(source.classes), source.multi_label)
    text = f"{escape_control_characters(label)}: {format_count(len(source), 'picture')} in {kinds}"
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
    return text + (f"; {escape_control_characters(note)}" if note else "") + format_passed_over(source.passed_over)


def describe_nameless(num: int) -> str:
    """Return a note about images that were found by their content, since they have no ending; or ""."""
    kinds = "picture has no ending and is", "pictures have no ending and are"
    return f"{format_count(num, *kinds)} known by the content" if num else ""


def format_passed_over(passed_over: Mapping[str, int]) -> str:
    """Return "; passed over: ..." with the numbers of files by cause, or an empty string."""
    if not passed_over:
        return ""
    counts = (
        format_count(num, SINGULAR_CAUSES.get(cause, _PLURAL_NOUN.sub(r"\1", cause)), cause)
        for cause, num in sorted(passed_over.items())
    )
    return "; passed over: " + ", ".join(counts)
