"""Local files: walk a folder safely, read a regular file, and the file extensions of images."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
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
        ".dcm",
        ".dicom",
    ]
)
# Folders that operating systems, network drives and cameras keep for themselves, in lower case.
SYSTEM_FOLDERS = frozenset(
    [
        *("__macosx", "@eadir", "@recycle", "@tmp", "@recently-snapshot", "#recycle", "#snapshot", "~snapshot"),
        *("$recycle.bin", "system volume information", "lost+found", "lost.dir"),
        *("found.000", "network trash folder", "temporary items", "thevolumesettingsfolder"),
        *("thmbnl", "canonmsc", "avf_info", "__pycache__"),
    ]
)
# How pictures begin, for files without an ending; imageset.decoding looks at the content of every file anyway.
_PICTURE_STARTS = (
    *(b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*"),
    b"\x00\x00\x00\x0cjP  \r\n\x87\n",
)
START_BYTES = 132
_SYSTEM_FILE = "synophoto_thumb"  # a Synology's thumbnails, where their folder was unpacked

_OTHER_KIND = "files of other kinds"

# One image must fit into one shard (see imageset.raw.shards).
MAX_IMAGE_BYTES = 255_000_000


@dataclass(slots=True)
class Links:
    """The links in a folder, which are not followed.

    Attributes:
        folders: paths of the links that lead to folders.
        pictures: number of links that are named like images, by folder.
    """

    folders: list[str] = field(default_factory=list)
    pictures: Counter[str] = field(default_factory=Counter)


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
    links: Links | None = None,
    nameless: Counter[str] | None = None,
) -> Iterator[LocalImage]:
    """Walk a folder and its sub-folders in a fixed order and yield the files with the extensions of images.

    A folder without any such file yields those without an extension whose first bytes are those of an image.
    Links are never followed or read; devices, sockets and FIFOs are never opened; hidden files and folders, and
    those of operating systems and network drives, are ignored.

    Args:
        folder: the folder to walk.
        passed_over: counts the files that are not yielded, by cause.
        extensions: lower-case extensions of the files to yield.
        links: collects the links.
        nameless: counts, by folder, the images without an extension.

    Raises:
        UserError: the folder cannot be listed.
    """
    root = os.fsencode(folder)
    counts = Counter() if passed_over is None else passed_over
    # A stack instead of recursion: a chain of folders may be very long.
    pending = [iter(_list_folder(root, b"", counts, extensions, links, nameless))]
    while pending:
        entry, name = next(pending[-1], (None, b""))
        if entry is None:
            pending.pop()
        elif entry.is_dir(follow_symlinks=False):
            pending.append(iter(_list_folder(entry.path, name + b"/", counts, extensions, links, nameless)))
        else:
            yield LocalImage(Path(os.fsdecode(entry.path)), display_name(name))


def _list_folder(
    folder: bytes,
    inside: bytes,
    passed_over: Counter[str],
    extensions: frozenset[str],
    links: Links | None,
    nameless: Counter[str] | None,
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
    if extensions is IMAGE_EXTENSIONS and any(cause == _OTHER_KIND for _, cause in causes):
        causes = _take_nameless_images(causes, inside, Counter() if nameless is None else nameless)
    passed_over.update(cause for _, cause in causes if cause)
    if links is not None:
        for entry in (entry for entry, cause in causes if cause == "links"):
            _add_link(links, entry, inside, extensions)
    return [(entry, inside + entry.name) for entry, cause in causes if not cause]


def _find_skip_cause(entry: os.DirEntry[bytes], extensions: frozenset[str]) -> str | None:
    if cause := find_system_cause(os.fsdecode(entry.name)):
        return cause
    if entry.is_symlink():
        return "links"
    if entry.is_dir(follow_symlinks=False):
        return None
    if not entry.is_file(follow_symlinks=False):
        return "devices, sockets and FIFOs"
    return None if _parse_extension(entry.name) in extensions else _OTHER_KIND


def _take_nameless_images(
    causes: list[tuple[os.DirEntry[bytes], str | None]], inside: bytes, nameless: Counter[str]
) -> list[tuple[os.DirEntry[bytes], str | None]]:
    """Return the entries of a folder; without an image by its name, images without an extension are kept, too."""
    if any(not cause and not entry.is_dir(follow_symlinks=False) for entry, cause in causes):
        return causes
    taken = [
        (entry, None if cause == _OTHER_KIND and _is_nameless_image(entry) else cause) for entry, cause in causes
    ]
    if num := sum(cause != old for (_, cause), (_, old) in zip(taken, causes, strict=True)):
        nameless[display_name(inside.rstrip(b"/"))] += num
    return taken


def _is_nameless_image(entry: os.DirEntry[bytes]) -> bool:
    """Return whether a regular file has no extension (IMG_0012, 1.2.840.113) and begins as an image does."""
    if not may_be_nameless_image(display_name(entry.name)):
        return False
    try:
        descriptor = os.open(entry.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    with os.fdopen(descriptor, "rb") as file:
        return begins_as_image(file.read(START_BYTES))


def may_be_nameless_image(name: str) -> bool:
    """Return whether a file's name has no extension, or only digits in its place."""
    extension = os.path.splitext(name)[1]
    return not extension or extension[1:].isdecimal()


def begins_as_image(start: bytes) -> bool:
    """Return whether the first START_BYTES of a file are those of an image."""
    return (
        start.startswith(_PICTURE_STARTS)
        or start[128:132] == b"DICM"
        or (start[:4] == b"RIFF" and start[8:12] == b"WEBP")
        or start[4:12] in (b"ftypheic", b"ftypmif1", b"ftypavif")
        or (start[:2] == b"BM" and start[6:10] == bytes(4))
    )


def find_system_cause(name: str) -> str | None:
    """Return the cause under which a hidden file or folder, or one of the system, is passed over, or None."""
    if name.startswith("."):
        return "hidden"
    lower = name.lower()
    if lower in SYSTEM_FOLDERS:
        return f"system folders ({name})"
    return "thumbnails of network drives" if lower.startswith(_SYSTEM_FILE) else None


def find_system_cause_of_path(path: str) -> str | None:
    """Return the cause under which a file is passed over because of its name, or that of a folder above it."""
    names = (name for name in path.split("/") if name != ".")
    cause = next(filter(None, map(find_system_cause, names)), None)
    return f"files in {cause}" if cause and cause.startswith("system folders") else cause


def _add_link(links: Links, entry: os.DirEntry[bytes], inside: bytes, extensions: frozenset[str]) -> None:
    extension = _parse_extension(entry.name)
    try:
        leads_to_folder = stat.S_ISDIR(entry.stat().st_mode)
    except OSError:  # it leads nowhere, or there is no permission to look
        leads_to_folder = not extension
    if leads_to_folder:
        links.folders.append(display_name(inside + entry.name))
    elif extension in extensions:
        links.pictures[display_name(inside.rstrip(b"/"))] += 1


def _parse_extension(name: bytes) -> str:
    return os.path.splitext(os.fsdecode(name).rstrip(". "))[1].lower()


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
