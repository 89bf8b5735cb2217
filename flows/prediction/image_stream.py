"""Stream the images of any source that ingest takes, labeled or not, to a prediction."""

from __future__ import annotations

import glob
import hashlib
import json
import os
import re
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import SpooledTemporaryFile
from urllib.parse import unquote

from flows.prediction.cache import ImageRef
from imageset.exceptions import UserError
from imageset.rejections import Rejected
from imageset.sources.archive import ARCHIVE_EXTENSIONS, is_archive, open_archive
from imageset.sources.base import Source, format_passed_over
from imageset.sources.factory import check_url, open_source, split_off_options
from imageset.sources.files import IMAGE_EXTENSIONS, display_name, find_images, find_system_cause, read_file
from imageset.sources.folder import open_folder
from imageset.sources.layouts.options import parse_folder_options
from imageset.sources.remote.url import is_remote
from imageset.sources.sharded import expand_braces, is_pattern
from imageset.sources.table import is_table
from imageset.utils.text import format_count

LISTING_MEMORY_BYTES = 8 << 20  # a longer listing of a folder is kept in a temporary file
LISTING_READ_BYTES = 1 << 16
FOLDER_EXTENSIONS = (*IMAGE_EXTENSIONS, *ARCHIVE_EXTENSIONS, ".parquet")  # images, or shards that hold images

MAX_KINDS_DESCRIBED = 5  # of the files in a folder without pictures

NamedReader = tuple[str, Callable[[], bytes]]  # (uri, function that reads the bytes)


class ImageStream:
    """The images of a source with their bytes, in the source's own fixed order.

    Args:
        num: number of images.
        walk: starts again at the first image and yields (uri, function that reads the bytes).
        folder: the folder that holds the files; None if the source is anything but files of a folder.
        passed_over: number of files that are not images, by cause.
        list_groups: yields (uri, the group that the source names or None) of each image; None: it names none.
    """

    def __init__(
        self,
        num: int,
        walk: Callable[[], Iterator[NamedReader]],
        folder: Path | None,
        passed_over: Mapping[str, int] | None = None,
        list_groups: Callable[[], Iterator[tuple[str, str | None]]] | None = None,
    ) -> None:
        self._num, self._walk, self.folder, self._list_groups = num, walk, folder, list_groups
        self.passed_over = dict(sorted((passed_over or {}).items()))

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

    def read_groups(self, uris: set[str]) -> dict[str, str | None]:
        """Return the groups that the source names for the images of these uris; empty if it names none."""
        if self._list_groups is None:
            return {}
        return {uri: group for uri, group in self._list_groups() if uri in uris}

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
        self.passed_over: Counter[str] = Counter()
        for image in find_images(folder, self.passed_over):
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


def open_images(source: str | Sequence[str]) -> ImageStream:
    """Open a source, or several files; a folder is listed once, here.

    Args:
        source: whatever ingest takes, an image file, a pattern of image files, or a list of files.

    Raises:
        UserError: the source does not exist, or holds no images.
    """
    if not isinstance(source, str):
        return _open_files([_require_file(name) for name in source])
    folder = Path(source).expanduser()
    if "://" not in source and folder.is_dir() and len(listing := FolderListing(folder)):
        return ImageStream(len(listing), lambda: _iter_uris(folder, listing), folder, listing.passed_over)
    if files := _find_files(source):
        return _open_files(files)
    opened = _open_all_pictures(source) or open_source(source, require_classes=False, with_labels=False)
    if not len(opened):
        contents = f": {text}" if folder.is_dir() and (text := _describe_contents(folder)) else ""
        raise UserError(f"{source}: holds no pictures (sub-folders included){contents}; name a source that does")
    return ImageStream(
        len(opened),
        lambda: ((image.uri, image.read) for image in opened),
        None,
        opened.passed_over,
        lambda: ((image.uri, image.group) for image in opened),
    )


def describe_source(source: str | Sequence[str]) -> str:
    """Return the name of a source for messages: "a.png and 2 more files" for a list of files."""
    if isinstance(source, str):
        return source
    return f"{source[0]} and {format_count(len(source) - 1, 'more file')}" if len(source) > 1 else source[0]


def _require_file(name: str) -> Path:
    path = Path(name).expanduser()
    if path.is_dir():
        raise UserError(f"{name}: a folder among several sources; give one folder, or only files")
    if not path.is_file():
        raise UserError(f"{name}: no such file; give one folder, or only files")
    return path


def _find_files(source: str) -> list[Path]:
    """Return the image file of this name, or the files of a pattern that matches image files; else nothing."""
    path = Path(source).expanduser()
    if "://" in source:
        return []
    if path.is_file() or not is_pattern(source):
        return [path] if path.is_file() and _is_image(path) else []
    files = {match for pattern in expand_braces(str(path)) for match in glob.glob(pattern, recursive=True)}
    found = [path for path in map(Path, sorted(files)) if path.is_file() or path.is_symlink()]
    return found if any(map(_is_image, found)) else []


def _is_image(path: Path) -> bool:
    return _has_extension(path.name, tuple(IMAGE_EXTENSIONS))


def _open_files(files: Sequence[Path]) -> ImageStream:
    """Open the images among files; their uris are relative to the folder that holds them all.

    Raises:
        UserError: none of them is an image.
    """
    causes = [
        "links" if path.is_symlink() else None if _is_image(path) else "files of other kinds" for path in files
    ]
    passed_over = Counter(cause for cause in causes if cause)
    images = sorted({Path(os.path.abspath(path)) for path, cause in zip(files, causes, strict=True) if not cause})
    if not images:
        kinds = format_passed_over(passed_over)
        raise UserError(f"{files[0]}: there is no picture among the given files{kinds}; name a file that is one")
    folder = Path(os.path.commonpath([path.parent for path in images]))
    uris = [display_name(os.fsencode(path.relative_to(folder))) for path in images]
    return ImageStream(len(uris), lambda: _iter_uris(folder, uris), folder, passed_over)


def _describe_contents(folder: Path) -> str:
    """Return what a folder without pictures holds: "90 links, 3 files without an ending, 2 .txt files"."""
    kinds: Counter[tuple[str, str]] = Counter()
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in [*files, *folders]:
            if os.path.islink(os.path.join(place, name)):
                kinds["link", "links"] += 1
            elif name in files:
                kinds[_name_kind(name)] += 1
    described = sorted(kinds.items(), key=lambda item: (-item[1], item[0]))[:MAX_KINDS_DESCRIBED]
    counts = [format_count(num, *kind) for kind, num in described]
    others = kinds.total() - sum(num for _, num in described)
    return ", ".join([*counts, *([format_count(others, "other file")] if others else [])])


def _name_kind(name: str) -> tuple[str, str]:
    """Return the kind of a file that is no picture, for one and for several of them."""
    extension = display_name(os.fsencode(os.path.splitext(name)[1].lower()))
    if name.startswith("."):
        return "hidden file", "hidden files"
    if len(extension) < 2 or not extension.isprintable():
        return "file without an ending", "files without an ending"
    return f"{extension} file", f"{extension} files"


def _open_all_pictures(source: str) -> Source | None:
    """Open a local archive, or folder with options, with the pictures beside its folders of splits; else None.

    They are no training pictures, and have no label; a prediction needs none.
    """
    path, query = split_off_options(source) or (Path(source).expanduser(), "")
    if not (is_archive(path) or (query and holds_images(path))) or is_table(source):
        return None
    options = replace(parse_folder_options(str(path), query), split_folders={})
    open_pictures = open_archive if is_archive(path) else open_folder
    return open_pictures(path, require_classes=False, options=options)


def check_images(source: str | Sequence[str]) -> None:
    """Raise UserError if a source plainly holds no images, without listing or reading a large one.

    A command calls this before it starts a server; `open_images` finds everything else.
    """
    if not isinstance(source, str):
        open_images(source)
    elif is_remote(source):
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
    path, _ = split_off_options(source) or (Path(source).expanduser(), "")
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
                    if find_system_cause(entry.name):
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


def _iter_uris(folder: Path, uris: FolderListing | Sequence[str]) -> Iterator[NamedReader]:
    return ((uri, partial(read_file, _to_path(folder, uri))) for uri in uris)


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
