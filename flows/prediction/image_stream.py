"""The pictures of any source that ingest takes, on their way to a prediction: nothing needs a label here."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from flows.prediction.cache import ImageRef
from imageset.exceptions import UserError
from imageset.rejections import Rejected
from imageset.sources.factory import open_source
from imageset.sources.files import find_images

NamedReader = tuple[str, Callable[[], bytes]]  # uri, what reads the bytes


class ImageStream:
    """What a source holds, in its own fixed order, each with its bytes.

    Attributes:
        folder: where the files lie, if the source is a folder of them.
    """

    def __init__(self, num: int, walk: Callable[[], Iterator[NamedReader]], folder: Path | None):
        self._num, self._walk, self.folder = num, walk, folder

    def __len__(self) -> int:
        return self._num

    def __iter__(self) -> Iterator[tuple[ImageRef, bytes]]:
        """(picture, its bytes). One that cannot be read goes on as no bytes at all, with the reason, so that its
        row stays where it belongs."""
        for uri, read in self._walk():
            yield _read_image(uri, read)

    def to_path(self, uri: str) -> Path:
        """Where a picture of a folder lies: the inverse of `imageset.sources.files.display_name`."""
        assert self.folder is not None

        def one_byte(found: re.Match[bytes]) -> bytes:
            return b"\\" if found[1] == b"\\" else bytes([int(found[1][1:], 16)])

        return self.folder / os.fsdecode(re.sub(rb"\\(\\|x[0-9a-f]{2})", one_byte, uri.encode()))

    def iter_selected(self, uris: set[str]) -> Iterator[tuple[ImageRef, bytes]]:
        """Some of them, once each, in the source's order; no other one is read."""
        left = set(uris)
        for uri, read in self._walk():
            if uri in left:
                left.remove(uri)
                yield _read_image(uri, read)
            if not left:
                return


def open_images(source: str) -> ImageStream:
    """Understand a source.

    Raises:
        UserError: it does not exist, or holds no pictures.
    """
    folder = Path(source).expanduser()
    if "://" not in source and folder.is_dir() and any(find_images(folder)):  # never a list of all its files
        pictures = ImageStream(sum(1 for _ in find_images(folder)), lambda: _walk_folder(folder), folder)
    else:
        found = open_source(source, require_classes=False)
        pictures = ImageStream(len(found), lambda: ((one.uri, one.read) for one in found), None)
    if not len(pictures):
        raise UserError(f"{source}: holds no pictures (sub-folders included); name a source that does")
    return pictures


def _walk_folder(folder: Path) -> Iterator[NamedReader]:
    return ((file.uri, file.read) for file in find_images(folder))


def _read_image(uri: str, read: Callable[[], bytes]) -> tuple[ImageRef, bytes]:
    try:
        data = read()
    except Rejected as rejected:
        return ImageRef(uri, None, f"{rejected.reason}: {rejected.detail}"), b""
    except OSError as error:
        return ImageRef(uri, None, f"unreadable: {error.strerror or error}"), b""
    return ImageRef(uri, hashlib.sha256(data).hexdigest()), data
