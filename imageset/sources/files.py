"""Local files: walk a folder safely, read a regular file, and the file extensions of images."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from imageset.exceptions import UserError
from imageset.rejections import Rejected

# Files that are taken from a folder. Those from .heic on may not be decodable; they are rejected by name.
IMAGE_EXTENSIONS = frozenset(
    [
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".png",
        ".apng",
        ".bmp",
        ".dib",
        ".gif",
        ".webp",
        ".tif",
        ".tiff",
        ".ppm",
        ".pgm",
        ".pbm",
        ".pnm",
        ".heic",
        ".heif",
        ".avif",
        ".svg",
        ".jp2",
        ".j2k",
        ".jxl",
    ]
)
# One image must fit into one shard (see imageset.raw.shards).
MAX_IMAGE_BYTES = 255_000_000


class NamedFile(Protocol):
    """A file of a source; see SourceImage for what `read` raises."""

    @property
    def uri(self) -> str:
        """The path relative to the source."""
        ...

    def read(self) -> bytes:
        """Return the bytes."""
        ...


@dataclass(frozen=True, slots=True)
class LocalImage:
    r"""A regular file in a folder.

    Attributes:
        path: location of the file.
        uri: POSIX path relative to the folder; bytes that are not UTF-8 appear as \xff, a backslash as two.
    """

    path: Path
    uri: str

    def read(self) -> bytes:
        """Return the bytes; see SourceImage for what it raises."""
        return read_file(self.path)


def find_images(
    folder: str | os.PathLike[str],
    passed_over: Counter[str] | None = None,
    extensions: frozenset[str] = IMAGE_EXTENSIONS,
) -> Iterator[LocalImage]:
    """Walk a folder and its sub-folders in a fixed order and yield the files with the extensions of images.

    Links are never followed or read; devices, sockets and FIFOs are never opened; hidden files and folders are
    ignored.

    Args:
        folder: the folder to walk.
        passed_over: counts the files that are not yielded, by cause.
        extensions: lower-case extensions of the files to yield.

    Raises:
        UserError: the folder cannot be listed.
    """
    root = os.fsencode(folder)
    counts = Counter() if passed_over is None else passed_over
    # A stack instead of recursion: a chain of folders may be very long.
    pending = [iter(_list_folder(root, b"", counts, extensions))]
    while pending:
        entry, name = next(pending[-1], (None, b""))
        if entry is None:
            pending.pop()
        elif entry.is_dir(follow_symlinks=False):
            pending.append(iter(_list_folder(entry.path, name + b"/", counts, extensions)))
        else:
            yield LocalImage(Path(os.fsdecode(entry.path)), display_name(name))


def _list_folder(
    folder: bytes, inside: bytes, passed_over: Counter[str], extensions: frozenset[str]
) -> list[tuple[os.DirEntry[bytes], bytes]]:
    """Return the sub-folders and images of one folder with their names relative to the root, sorted."""
    try:
        with os.scandir(folder) as listing:
            entries = sorted(listing, key=lambda entry: entry.name)
    except OSError as error:
        if not inside:
            raise UserError(f"{os.fsdecode(folder)}: cannot be listed: {error.strerror}") from None
        passed_over[f"folders that cannot be listed ({error.strerror})"] += 1
        return []
    causes = [(entry, _find_skip_cause(entry, extensions)) for entry in entries]
    passed_over.update(cause for _, cause in causes if cause)
    return [(entry, inside + entry.name) for entry, cause in causes if not cause]


def _find_skip_cause(entry: os.DirEntry[bytes], extensions: frozenset[str]) -> str | None:
    if entry.name.startswith(b".") or entry.name == b"__MACOSX":
        return "hidden"
    if entry.is_symlink():
        return "links"
    if entry.is_dir(follow_symlinks=False):
        return None
    if not entry.is_file(follow_symlinks=False):
        return "devices, sockets and FIFOs"
    extension = os.path.splitext(os.fsdecode(entry.name).rstrip(". "))[1].lower()
    return None if extension in extensions else "files of other kinds"


def display_name(name: bytes) -> str:
    r"""Return a file's name as text: bytes that are not UTF-8 appear as \xff; different names stay different."""
    return name.replace(b"\\", b"\\\\").decode("utf-8", errors="backslashreplace")


def read_file(path: Path) -> bytes:
    """Read a regular file, never through a link and never blocking on a FIFO.

    Raises:
        Rejected: "unreadable" (no permission, or no longer a regular file) or "bomb" (over MAX_IMAGE_BYTES).
        OSError: the file cannot be opened or read.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except PermissionError:
        raise Rejected("unreadable", "permission denied") from None
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise Rejected("unreadable", "not a regular file")
        if status.st_size > MAX_IMAGE_BYTES:
            limit = MAX_IMAGE_BYTES // 1_000_000
            raise Rejected("bomb", f"a file of {status.st_size / 1e6:,.0f} MB; at most {limit} MB are read")
        return file.read()
