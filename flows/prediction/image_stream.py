"""Stream the images of any source that ingest takes, labeled or not, to a prediction."""

from __future__ import annotations

import glob
import hashlib
import json
import os
import re
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from tempfile import SpooledTemporaryFile
from urllib.parse import unquote

from flows.prediction.cache import ImageRef
from imageset.exceptions import UserError
from imageset.rejections import Rejected
from imageset.sources.archive import ARCHIVE_EXTENSIONS, is_archive
from imageset.sources.factory import check_url, open_source
from imageset.sources.files import IMAGE_EXTENSIONS, find_images, read_file
from imageset.sources.remote.url import is_remote
from imageset.sources.sharded import expand_braces, is_pattern
from imageset.sources.table import is_table

LISTING_MEMORY_BYTES = 8 << 20  # a longer listing of a folder is kept in a temporary file
LISTING_READ_BYTES = 1 << 16
FOLDER_EXTENSIONS = (*IMAGE_EXTENSIONS, *ARCHIVE_EXTENSIONS, ".parquet")  # images, or shards that hold images

NamedReader = tuple[str, Callable[[], bytes]]  # (uri, function that reads the bytes)


class ImageStream:
    """The images of a source with their bytes, in the source's own fixed order.

    Args:
        num: number of images.
        walk: starts again at the first image and yields (uri, function that reads the bytes).
        folder: the folder that holds the files; None if the source is anything but a folder of image files.
    """

    def __init__(self, num: int, walk: Callable[[], Iterator[NamedReader]], folder: Path | None):
        self._num, self._walk, self.folder = num, walk, folder

    def __len__(self) -> int:
        return self._num

    def __iter__(self) -> Iterator[tuple[ImageRef, bytes]]:
        """Yield (image, bytes). An unreadable image has no bytes and an error, so that its row keeps its place."""
        for uri, read in self._walk():
            yield _read_image(uri, read)

    def to_path(self, uri: str) -> Path:
        """Return the path of an image; only for a source that is a folder."""
        assert self.folder is not None
        return _to_path(self.folder, uri)

    def iter_selected(self, uris: set[str]) -> Iterator[tuple[ImageRef, bytes]]:
        """Yield the images of these uris, each once, in the source's order; no others are read."""
        remaining = set(uris)
        for uri, read in self._walk():
            if uri in remaining:
                remaining.remove(uri)
                yield _read_image(uri, read)
            if not remaining:
                return


class FolderListing:
    """The uris of all images below a folder, listed once.

    A long listing is kept in a temporary file, so memory does not grow with the number of images. All passes over
    a source see the same images, even if files come and go meanwhile.
    """

    def __init__(self, folder: Path) -> None:
        self._file = SpooledTemporaryFile(LISTING_MEMORY_BYTES)  # noqa: SIM115 - closed with this object
        weakref.finalize(self, self._file.close)
        self._num = 0
        for image in find_images(folder):
            self._file.write(json.dumps(image.uri).encode() + b"\n")  # JSON: a file name may hold a line break
            self._num += 1

    def __len__(self) -> int:
        return self._num

    def __iter__(self) -> Iterator[str]:
        position = 0
        while True:
            self._file.seek(position)
            lines = self._file.readlines(LISTING_READ_BYTES)
            position = self._file.tell()
            if not lines:
                return
            yield from map(json.loads, lines)


def open_images(source: str) -> ImageStream:
    """Open a source; a folder is listed once, here.

    Raises:
        UserError: the source does not exist, or holds no images.
    """
    folder = Path(source).expanduser()
    if "://" not in source and folder.is_dir() and len(listing := FolderListing(folder)):
        images = ImageStream(len(listing), lambda: _iter_listing(folder, listing), folder)
    else:
        opened = open_source(source, require_classes=False)
        images = ImageStream(len(opened), lambda: ((image.uri, image.read) for image in opened), None)
    if not len(images):
        raise UserError(f"{source}: holds no pictures (sub-folders included); name a source that does")
    return images


def check_images(source: str) -> None:
    """Raise UserError if a source plainly holds no images, without listing or reading a large one.

    A command calls this before it starts a server; `open_images` finds everything else.
    """
    if is_remote(source):
        check_url(source)
    elif not _may_hold_images(source):
        open_images(source)  # raises the error, unless the source is a small one, such as sklearn://digits


def holds_images(folder: Path) -> bool:
    """Return whether a folder tree holds a file named like an image; stop at the first one."""
    return folder.is_dir() and _holds_file(folder, tuple(IMAGE_EXTENSIONS))


def _may_hold_images(source: str) -> bool:
    """Return whether a path looks like a source of images, by its name and the first fitting file in a folder."""
    if source.startswith("file://"):
        return _may_hold_images(unquote(source.removeprefix("file://").removeprefix("localhost")))
    path = Path(source).expanduser()
    if path.is_dir():
        return _holds_file(path, FOLDER_EXTENSIONS)
    if is_pattern(source) and not path.exists():
        return any(glob.glob(pattern) for pattern in expand_braces(str(path).partition("?")[0]))
    return is_table(source) or is_archive(path)


def _holds_file(folder: Path, extensions: tuple[str, ...]) -> bool:
    """Return whether a folder tree holds a visible file with one of these extensions; stop at the first one.

    Raises:
        UserError: the folder itself cannot be listed.
    """
    waiting = [root := os.fspath(folder)]
    while waiting:
        path = waiting.pop()
        try:
            with os.scandir(path) as entries:
                for entry in entries:
                    if entry.name.startswith(".") or entry.name == "__MACOSX":
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
                    elif _has_extension(entry.name, extensions) and entry.is_file(follow_symlinks=False):
                        return True
        except OSError as error:
            if path == root:
                raise UserError(f"{folder}: cannot be listed: {error.strerror}") from None
    return False


def _has_extension(name: str, extensions: tuple[str, ...]) -> bool:
    return name.rstrip(". ").lower().endswith(extensions)


def _iter_listing(folder: Path, listing: FolderListing) -> Iterator[NamedReader]:
    return ((uri, partial(read_file, _to_path(folder, uri))) for uri in listing)


def _to_path(folder: Path, uri: str) -> Path:
    """Return the path that a uri names: the inverse of `imageset.sources.files.display_name`."""

    def decode_escape(match: re.Match[bytes]) -> bytes:
        return b"\\" if match[1] == b"\\" else bytes([int(match[1][1:], 16)])

    return folder / os.fsdecode(re.sub(rb"\\(\\|x[0-9a-f]{2})", decode_escape, uri.encode()))


def _read_image(uri: str, read: Callable[[], bytes]) -> tuple[ImageRef, bytes]:
    try:
        data = read()
    except Rejected as rejection:
        return ImageRef(uri, None, f"{rejection.reason}: {rejection.detail}"), b""
    except OSError as error:
        return ImageRef(uri, None, f"unreadable: {error.strerror or error}"), b""
    return ImageRef(uri, hashlib.sha256(data).hexdigest()), data
