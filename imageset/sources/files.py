"""Walk a folder safely, read one regular file, the known endings."""

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

# What is picked up from a folder; the last line only to be refused by name, not passed over in silence.
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
# One picture must fit into one shard (see imageset.raw.ingestion).
MAX_IMAGE_BYTES = 255_000_000


# ---- files ----------------------------------------------------------------------------------------------------


class NamedFile(Protocol):
    """A file with its path relative to the source; `read()` gives its bytes and raises as SourcePicture says."""

    @property
    def uri(self) -> str: ...

    def read(self) -> bytes: ...


@dataclass(frozen=True, slots=True)
class LocalImage:
    """A regular file that a folder holds.

    Attributes:
        path: where it lies.
        uri: POSIX path relative to the folder; bytes that are not UTF-8 as \\xff, a backslash as two.
    """

    path: Path
    uri: str

    def read(self) -> bytes:
        """The bytes; see SourcePicture for what it raises."""
        return read_file(self.path)


def find_images(
    folder: str | os.PathLike[str],
    passed_over: Counter[str] | None = None,
    extensions: frozenset[str] = IMAGE_EXTENSIONS,
) -> Iterator[LocalImage]:
    """Walk a folder, sub-folders included, in a fixed order, and yield what is named like a picture.

    `endings` are those of pictures unless other files are looked for. Links are never followed (nor read),
    devices, sockets and FIFOs never opened, hidden files and folders left alone; `passed_over` counts them by
    cause.
    """
    root = os.fsencode(folder)
    counts = Counter() if passed_over is None else passed_over
    waiting = [
        iter(_list_folder(root, b"", counts, extensions))
    ]  # a stack, not recursion: a chain of folders may be very long
    while waiting:
        entry, name = next(waiting[-1], (None, b""))
        if entry is None:
            waiting.pop()
        elif entry.is_dir(follow_symlinks=False):
            waiting.append(iter(_list_folder(entry.path, name + b"/", counts, extensions)))
        else:
            yield LocalImage(Path(os.fsdecode(entry.path)), display_name(name))


def _list_folder(
    folder: bytes, inside: bytes, passed_over: Counter[str], endings: frozenset[str]
) -> list[tuple[os.DirEntry[bytes], bytes]]:
    """The sub-folders and pictures of one folder with their names relative to the root, sorted."""
    try:
        with os.scandir(folder) as listing:
            entries = sorted(listing, key=lambda entry: entry.name)
    except OSError as error:
        if not inside:
            raise UserError(f"{os.fsdecode(folder)}: cannot be listed: {error.strerror}") from None
        passed_over[f"folders that cannot be listed ({error.strerror})"] += 1
        return []
    causes = [(entry, _find_skip_cause(entry, endings)) for entry in entries]
    passed_over.update(cause for _, cause in causes if cause)
    return [(entry, inside + entry.name) for entry, cause in causes if not cause]


def _find_skip_cause(entry: os.DirEntry[bytes], endings: frozenset[str]) -> str | None:
    if entry.name.startswith(b".") or entry.name == b"__MACOSX":
        return "hidden"
    if entry.is_symlink():
        return "links"
    if entry.is_dir(follow_symlinks=False):
        return None
    if not entry.is_file(follow_symlinks=False):
        return "devices, sockets and FIFOs"
    ending = os.path.splitext(os.fsdecode(entry.name).rstrip(". "))[1].lower()
    return None if ending in endings else "files of other kinds"


def display_name(name: bytes) -> str:
    """A file's name as text: what is not UTF-8 appears as \\xff; no two names are shown alike."""
    return name.replace(b"\\", b"\\\\").decode("utf-8", errors="backslashreplace")


def read_file(path: Path) -> bytes:
    """Read a regular file, never through a link and never waiting on a FIFO.

    Raises:
        Rejected: "unreadable" (no permission, or no longer a regular file) or "bomb" (over MAX_PICTURE_BYTES).
        OSError: reading failed.
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
            raise Rejected("bomb", f"a file of {status.st_size / 1e6:,.0f} MB; at most {limit} are read")
        return file.read()
