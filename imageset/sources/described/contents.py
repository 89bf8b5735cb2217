"""The files of a source whose pictures may be described by tables or documents of annotations."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlencode

from imageset.rejections import escape_control_characters
from imageset.sources.annotations.reader import ALL_EXTENSIONS
from imageset.sources.base import Source
from imageset.sources.files import find_images
from imageset.sources.table import TABLE_EXTENSIONS
from imageset.sources.tables.image_paths import ImageFolder, ImagePaths, LocalFolder, RemoteFolder

DESCRIBING_EXTENSIONS = frozenset({*TABLE_EXTENSIONS, *ALL_EXTENSIONS})


@dataclass(frozen=True)
class Contents:
    """The files of a source: its images, and those that may describe them.

    Attributes:
        label: name of the source in messages.
        name: slug that becomes the dataset's name.
        images: paths of the images, relative to the source.
        documents: location by name, relative to the source, of the files with DESCRIBING_EXTENSIONS.
        open_images: opens a folder of images by its path relative to the source.
    """

    label: str
    name: str
    images: Sequence[str]
    documents: Mapping[str, Path]
    open_images: Callable[[str], ImageFolder]
    _read_nothing: Callable[[str], bytes] = field(default=lambda name: b"", repr=False)

    def list_images(self, folder: str) -> ImagePaths:
        """Return the images of a folder, to look for paths among them."""
        return ImagePaths(RemoteFolder(self._read_nothing, lambda: self.images, folder))


class Description(NamedTuple):
    """A way to read the labels of the pictures.

    Attributes:
        documents: names of the tables or documents.
        spec: the source that reads them.
        open: opens them as a source.
    """

    documents: tuple[str, ...]
    spec: str
    open: Callable[[], Source]


def list_local_contents(path: Path, name: str, images: Sequence[str]) -> Contents:
    """Return the contents of a local folder."""
    documents = {file.uri: file.path for file in find_images(path, extensions=DESCRIBING_EXTENSIONS)}
    return Contents(str(path), name, images, documents, lambda folder: LocalFolder(path / folder))


def list_contents_beside(path: Path, images: Sequence[str]) -> Contents:
    """Return the contents of the folder above a local one: its images, and the tables and documents beside it."""
    above = path.resolve().parent
    try:
        files = [file for file in sorted(above.iterdir()) if not file.name.startswith(".") and file.is_file()]
    except OSError:  # no permission
        files = []
    documents = {file.name: file for file in files if file.suffix.lower() in DESCRIBING_EXTENSIONS}
    inside = path.resolve().name
    return Contents(
        str(path.parent) if path.name else str(above),
        inside,
        [f"{inside}/{name}" for name in images],
        documents,
        lambda folder: LocalFolder(above / folder),
    )


def format_spec(path: str, roles: Mapping[str, str]) -> str:
    """Return a table with the roles of its columns, as a source."""
    return path + (f"?{urlencode(roles, safe='/')}" if roles else "")


def join_names(names: Sequence[str]) -> str:
    """Return names for a message: the first few, and how many more there are."""
    shown = [escape_control_characters(name) for name in names[:4]]
    more = [f"{len(names) - 4:,} more"] if len(names) > 4 else []
    return " and ".join(filter(None, [", ".join([*shown, *more][:-1]), [*shown, *more][-1]]))


def join_patterns(names: Sequence[str]) -> str:
    """Return names as one pattern: "{test,train}/metadata.csv"."""
    if len(names) == 1:
        return names[0]
    start = os.path.commonpath(names)
    tails = [name.removeprefix(start).lstrip("/") for name in names]
    num = 0  # of characters at the end that all have
    while all(len(tail) > num for tail in tails) and len({tail[-num - 1] for tail in tails}) == 1:
        num += 1
    inner = ",".join(tail[: len(tail) - num] for tail in tails)
    return posixpath.join(start, f"{{{inner}}}{tails[0][len(tails[0]) - num :]}")
