"""Sources behind a URL: s3://, gs://, https://, memory:// and whatever else fsspec has a file system for.

Archives, tables, IDX and CIFAR files are fetched to a temporary folder (TMPDIR says where) that goes with the
source, or, where the process is killed, with the next fetch or check; pictures in a bucket's folders, and those
that a table names below itself, are read one by one, some ahead. What may pass by itself (a dropped connection, a
body cut short, 429, 500 to 504) is tried again after RETRY_PAUSES_S, and is a ConnectionError if it does not pass;
anything else is a UserError at once. Credentials in a URL are used and never shown (imageset.utils.url_credentials).
"""

from __future__ import annotations

import posixpath
import re
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar

from imageset.exceptions import UserError
from imageset.rejections import Rejected
from imageset.sources.base import Source, SourceImage, slugify
from imageset.sources.files import IMAGE_EXTENSIONS, MAX_IMAGE_BYTES
from imageset.sources.folder import FolderSource
from imageset.sources.layouts import LAYOUT_FILE_FOLDERS, LAYOUT_FILES, MAX_LAYOUT_FILE_BYTES
from imageset.sources.remote.filesystem import RemotePath, explain_no_listing
from imageset.sources.remote.url import (
    is_idx_name,
    is_whole_file_name,
    parse_file_name,
    parse_parent,
    split_off_roles,
)
from imageset.utils.progress import Progress, SilentProgress
from imageset.utils.tempdirs import ReclaimedTempDir
from imageset.utils.text import format_count
from imageset.utils.transient_errors import MissingFile
from imageset.utils.url_credentials import extract_secrets, mask_url

T = TypeVar("T")


class OpenLocal(Protocol):
    """Open a folder or a file of this machine as a source."""

    def __call__(self, path: Path, *, require_classes: bool = True) -> Source: ...


NUM_AHEAD, NUM_THREADS = 32, 8


def check_remote(spec: str) -> None:
    """Raise UserError for a URL that is plainly wrong, without fetching what it leads to.

    What may pass by itself is left for the attempt that counts.
    """
    spec = mask_url(spec)
    try:
        RemotePath.from_url(split_off_roles(spec)[0], extract_secrets(spec)).check_exists()
    except ConnectionError:
        return


def open_remote(
    spec: str, open_local: OpenLocal, *, require_classes: bool = True, progress: Progress | None = None
) -> Source:
    """Open the source behind a URL.

    Args:
        open_local: opens the fetched files where they lie; `factory.open_path`, which this module cannot import.

    Raises:
        UserError: no such place, no permission, no credentials, a file system that is not installed, or nothing
            that can be learned from.
        ConnectionError: the attempts at a read were used up.
    """
    from imageset.sources.sharded import expand_braces, is_pattern

    spec = mask_url(spec)
    url, said = split_off_roles(spec)
    place, progress = RemotePath.from_url(url, extract_secrets(spec)), progress or SilentProgress()
    name = parse_file_name(place.glob_text)
    if is_pattern(place.glob_text):
        places = place.glob() if any(sign in place.glob_text for sign in "*[") else [place]
        places = [one.with_url(each) for one in places for each in expand_braces(one.url)]
        return _fetch_files(places, url, said, require_classes, progress, open_local)
    if is_whole_file_name(name):
        return _fetch_files([place], url, said, require_classes, progress, open_local)
    return _open_folder(place, url, require_classes, progress, open_local)


# ---- files that are fetched ------------------------------------------------------------------------------------


class FetchedSource:
    """A source over files that were fetched to a temporary folder, which goes when the source does."""

    def __init__(self, inner: Source, folder: ReclaimedTempDir, parent: str, name: str) -> None:
        self._inner, self._folder, self._parent = inner, folder, parent
        self.name, self.kind, self.multi_label = name, inner.kind, inner.multi_label
        self.passed_over, self.classes, self.splits = inner.passed_over, inner.classes, inner.splits
        self.problem = inner.problem and self._restore_url(inner.problem)

    def __iter__(self) -> Iterator[SourceImage]:
        try:
            yield from self._inner
        except UserError as error:
            raise UserError(self._restore_url(str(error))) from None

    def __len__(self) -> int:
        return len(self._inner)

    def describe(self) -> str:
        return self._restore_url(self._inner.describe())

    def _restore_url(self, text: str) -> str:
        return text.replace(self._folder.name, self._parent)


class RemoteTable(FetchedSource):
    """A fetched table whose pictures lie beside it, behind the URL; some are read ahead."""

    def __iter__(self) -> Iterator[SourceImage]:
        return read_ahead(super().__iter__())


def _fetch_files(
    places: Sequence[RemotePath], shown: str, said: str, require_classes: bool, progress: Progress, open_local: OpenLocal
) -> FetchedSource:
    """Fetch files and open them where they lie then."""
    if not places:
        raise UserError(f"{shown}: no such file")
    places = [*places, *_find_idx_label_files(places)]
    parent = posixpath.commonpath([parse_parent(place.url) for place in places]).replace(":/", "://", 1)
    names = [place.url.partition("?")[0].removeprefix(f"{parent}/") for place in places]
    folder = ReclaimedTempDir()
    root = Path(folder.name)
    try:
        for place, name in zip(places, names, strict=True):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            place.download(root / name, progress)
        progress.end()
        return _open_fetched(folder, names, places[0], parent, shown, said, require_classes, open_local)
    except UserError as error:
        folder.cleanup()
        raise UserError(str(error).replace(folder.name, parent)) from None
    except BaseException:
        folder.cleanup()
        raise


def _open_fetched(
    folder: ReclaimedTempDir,
    names: Sequence[str],
    place: RemotePath,
    parent: str,
    shown: str,
    said: str,
    require_classes: bool,
    open_local: OpenLocal,
) -> FetchedSource:
    from imageset.sources.sharded import open_shards
    from imageset.sources.table import TABLE_EXTENSIONS as TABLES
    from imageset.sources.table import TableSource

    root = Path(folder.name)
    stem = re.sub(r"\{[^}]*\}|\[[^]]*\]|\*", "", parse_file_name(shown)).split(".")[0]
    name = slugify(stem or posixpath.basename(parent))
    if all(one.lower().endswith(TABLES) for one in names):
        below = partial(_read_below_url, place, parent)
        files = [root / one for one in names]
        table = TableSource(files, label=shown, name=name, query=said, require_classes=require_classes, read_image=below)
        return RemoteTable(table, folder, parent, name)
    if len(names) == 1:
        return FetchedSource(open_local(root / names[0], require_classes=require_classes), folder, parent, name)
    if all(is_idx_name(one) for one in names):
        return FetchedSource(
            open_local(root, require_classes=require_classes), folder, parent, slugify(posixpath.basename(parent))
        )
    inner = open_shards([(one, root / one) for one in names], shown, name, said, require_classes=require_classes)
    return FetchedSource(inner, folder, parent, name)


def _find_idx_label_files(places: Sequence[RemotePath]) -> list[RemotePath]:
    """The files of labels that belong to IDX files of pictures, as they are called (imageset.sources.benchmark_sets.idx)."""
    from imageset.sources.benchmark_sets.idx import is_idx_image_name, to_label_file_name

    named = {parse_file_name(place.url) for place in places}
    wanted = [
        (place, to_label_file_name(name))
        for place in places
        if is_idx_image_name(name := parse_file_name(place.url))
    ]
    return [place.with_url(f"{parse_parent(place.url)}/{name}") for place, name in wanted if name not in named]


def _read_below_url(place: RemotePath, parent: str, name: str) -> bytes:
    """Read a picture that a table behind a URL names: below the table, whoever wrote it."""
    name = name.removeprefix(f"{parent}/")
    if "://" in name or name.startswith("/") or ".." in name.split("/"):
        raise Rejected("unreadable", "lies outside the table's folder")
    try:
        return place.with_url(f"{parent}/{name}").read(MAX_IMAGE_BYTES)
    except UserError as error:
        raise Rejected("unreadable", str(error).removeprefix(f"{parent}/{name}: ")) from None


# ---- folders of a bucket ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RemoteImage:
    """A picture in a bucket."""

    uri: str
    path: RemotePath
    num_bytes: int | None

    def read(self) -> bytes:
        """The bytes; FileNotFoundError where it has gone since the listing."""
        try:
            return self.path.read(MAX_IMAGE_BYTES, self.num_bytes)
        except MissingFile as error:
            raise FileNotFoundError(str(error)) from None


class RemoteFolder(FolderSource):
    """A folder of a bucket; some pictures are read ahead."""

    def __iter__(self) -> Iterator[SourceImage]:
        return read_ahead(super().__iter__())


def _open_folder(place: RemotePath, url: str, require_classes: bool, progress: Progress, open_local: OpenLocal) -> Source:
    if place.is_http:
        raise UserError(explain_no_listing(url))
    url = url.rstrip("/")
    listed = place.list_files()
    if not listed:
        raise UserError(f"{url}: holds no files; check the address")
    pictures = [name for name in listed if posixpath.splitext(name)[1].lower() in IMAGE_EXTENSIONS]
    if not pictures:
        return _open_listed_files(place, url, listed, require_classes, progress, open_local)
    files = [RemoteImage(name, place.with_url(f"{url}/{name}"), listed[name]) for name in pictures]
    passed_over = Counter({"files of other kinds": len(listed) - len(files)} if len(listed) > len(files) else {})
    name = slugify(posixpath.basename(url))
    return RemoteFolder(url, name, files, passed_over, _read_layout_files(place, url, listed), require_classes=require_classes)


def _open_listed_files(
    place: RemotePath,
    url: str,
    listed: Mapping[str, int | None],
    require_classes: bool,
    progress: Progress,
    open_local: OpenLocal,
) -> Source:
    """Shards, Parquet, IDX or CIFAR files of a bucket: fetched, in folders as they lie there."""
    wanted = [name for name in listed if is_whole_file_name(name) or _may_be_cifar(name)]
    if not wanted:
        raise UserError(f"{url}: holds {format_count(len(listed), 'file')} and no pictures; check the address")
    folder = ReclaimedTempDir()
    root = Path(folder.name) / (posixpath.basename(url) or "bucket")
    try:
        for name in wanted:
            file = root / name
            file.parent.mkdir(parents=True, exist_ok=True)
            place.with_url(f"{url}/{name}").download(file, progress)
        progress.end()
        return FetchedSource(open_local(root, require_classes=require_classes), folder, parse_parent(url), slugify(root.name))
    except UserError as error:
        folder.cleanup()
        raise UserError(str(error).replace(folder.name, parse_parent(url))) from None
    except BaseException:
        folder.cleanup()
        raise


def _read_layout_files(place: RemotePath, url: str, listed: Mapping[str, int | None]) -> dict[str, bytes]:
    """The small text files that tell a layout."""
    found = {
        note: folder + note
        for note in LAYOUT_FILES
        for folder in reversed(LAYOUT_FILE_FOLDERS)
        if folder + note in listed
    }
    return {
        note: place.with_url(f"{url}/{name}").read(MAX_LAYOUT_FILE_BYTES, listed[name])
        for note, name in found.items()
    }


def read_ahead(pictures: Iterator[SourceImage]) -> Iterator[SourceImage]:
    """The same pictures in the same order, the next NUM_AHEAD of them being read already."""
    pool = ThreadPoolExecutor(NUM_THREADS, "read-ahead")
    waiting: deque[tuple[SourceImage, Future[bytes]]] = deque()
    try:
        for picture in pictures:
            waiting.append((picture, pool.submit(picture.read)))
            if len(waiting) > NUM_AHEAD:
                first, data = waiting.popleft()
                yield replace(first, read=data.result)
        while waiting:
            first, data = waiting.popleft()
            yield replace(first, read=data.result)
    except BaseException:  # nobody reads on
        pool.shutdown(wait=True, cancel_futures=True)
        raise
    pool.shutdown(wait=False)


def _may_be_cifar(name: str) -> bool:
    from imageset.sources.benchmark_sets.cifar import is_cifar_name

    return is_cifar_name(posixpath.basename(name))
