"""The result of the detection of a layout."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from imageset.sources.base import PathLabel

UNLABELLED_IN_SPLIT = "unlabelled pictures of a split"


class Layout(NamedTuple):
    """A layout of folders.

    Attributes:
        parse_path: returns the label and split of an image by its path, or None if the image is passed over.
        note: what was recognized, for the description of the source.
        find_skip_cause: returns the cause under which an image is passed over.
        find_class_depth: returns how many folders from the source on lead to the classes at or below a folder; 0:
            there are none.
        problem: why the folders cannot be understood, or None.
    """

    parse_path: Callable[[str], PathLabel | None]
    note: str = ""
    find_skip_cause: Callable[[str], str] = lambda name: UNLABELLED_IN_SPLIT
    find_class_depth: Callable[[str], int] = lambda folder: 0
    problem: str | None = None
