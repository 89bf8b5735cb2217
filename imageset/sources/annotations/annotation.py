"""Annotations: the labels that a document gives to pictures, whatever its format."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from imageset.class_names import normalize_class_name
from imageset.sources.layouts.split_names import parse_split_name

_IMAGE_ID = re.compile(r"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")


class Annotation(NamedTuple):
    """The labels of one picture, by one annotator.

    Attributes:
        picture: its path as the document gives it; None: the document names no file.
        labels: the names of its labels, sorted and each once; empty: it has none yet, or, with an annotator or a
            time, a person has found that it has none.
        image_id: SHA-256 of its bytes, if the document holds it.
        annotator: the person, if known.
        time: when the labels were given, UTC without a zone, if known.
        split: train, val or test, if the document says so.
        other_paths: other places where the file may be, if it is not at `picture`.
    """

    picture: str | None
    labels: tuple[str, ...]
    image_id: str | None = None
    annotator: str | None = None
    time: datetime | None = None
    split: str | None = None
    other_paths: tuple[str, ...] = ()

    @property
    def is_answered(self) -> bool:
        """Whether there are labels, or a person has found that there are none."""
        return bool(self.labels or self.annotator or self.time)


@dataclass(frozen=True, slots=True)
class AnnotationSet:
    """The annotations of one document, or of a folder of them.

    Attributes:
        format: name of the format for messages: "COCO".
        basis: parts of the document that the labels are read from: "boxes".
        annotations: the annotations.
        folder: folder that the paths of the pictures are relative to, relative to the source; "" is the source.
        split: the split of all pictures whose annotation names none, or None.
        has_endings: whether the paths of the pictures have the endings of files.
        notes: what is odd about the document, one clause each.
    """

    format: str
    basis: str
    annotations: list[Annotation]
    folder: str = ""
    split: str | None = None
    has_endings: bool = True
    notes: tuple[str, ...] = field(default=())


def clean_labels(names: Iterable[str]) -> tuple[str, ...]:
    """Return the names of labels in one spelling (imageset.class_names), sorted, each once and none empty."""
    return tuple(sorted({normalize_class_name(name) for name in names} - {""}))


def find_image_id(text: str) -> str | None:
    """Return the image_id in the name of a file, or None."""
    match = _IMAGE_ID.search(text)
    return match[0] if match else None


def guess_split(path: str, *, with_other_words: bool = False) -> str | None:
    """Return the split in a path, searched from its last part: "images/train2017" -> "train".

    Args:
        path: the path, with slashes.
        with_other_words: whether a name may hold other words, too: "instances_train2017.json".
    """
    for part in reversed(path.split("/")):
        split = parse_split_name(part.rpartition(".")[0] or part)
        if split and (with_other_words or not split.affix):
            return split.split
    return None
