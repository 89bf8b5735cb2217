"""Sources behind a URL: s3://, gs://, https://, memory:// and every other file system of fsspec.

Archives, tables, IDX and CIFAR files are downloaded to a temporary folder (TMPDIR says where). It is removed with
the source, or, if the process is killed, by the next download or check. Images in the folders of a bucket, and
those in a table, are read one by one, some ahead. Transient errors (a dropped connection, a body cut short, 429,
500 to 504) are retried after RETRY_PAUSES_S and become a ConnectionError if no attempt succeeds; any other error
is a UserError at once. Credentials in a URL are used but never shown (imageset.utils.url_credentials).
"""

from __future__ import annotations

import posixpath
import re
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar
from urllib.parse import parse_qsl

from imageset.exceptions import UserError
from imageset.rejections import Rejected
from imageset.sources.base import Source, SourceImage, slugify
from imageset.sources.files import IMAGE_EXTENSIONS, MAX_IMAGE_BYTES, find_system_cause_of_path
from imageset.sources.folder import FolderSource
from imageset.sources.layouts.detection import LAYOUT_FILE_FOLDERS, LAYOUT_FILES
from imageset.sources.layouts.imagenet import MAX_LAYOUT_FILE_BYTES
from imageset.sources.layouts.options import NO_OPTIONS, parse_folder_options
from imageset.sources.remote.filesystem import RemotePath, explain_no_listing
from imageset.sources.remote.url import (
    is_below,
    is_document_url,
    is_idx_name,
    is_whole_file_name,
    parse_file_name,
    parse_parent,
    split_off_roles,
)
from imageset.sources.tables.image_paths import RemoteFolder as RemoteImages
from imageset.utils.progress import Progress, SilentProgress
from imageset.utils.tempdirs import ReclaimedTempDir
from imageset.utils.text import format_count
from imageset.utils.transient_errors import MissingFile
from imageset.utils.url_credentials import extract_secrets, mask_url

if TYPE_CHECKING:
    from imageset.sources.label_table import LabelTable

T = TypeVar("T")


class OpenLocal(Protocol):
    """A function that opens a local folder or file as a source."""

    def __call__(self, path: Path, query: str = "", *, require_classes: bool = True) -> Source:
        """Open `path` with the options of `query`.

        Raises:
            UserError: nothing can be learned from it, and `require_classes` is True.
        """
        ...


NUM_AHEAD, NUM_THREADS = 32, 8
MAX_DOCUMENTS = 200  # tables and annotations that are fetched one by one


def check_remote(spec: str) -> None:
    """Check that a file or folder exists behind a URL, without downloading it; transient errors are ignored.

    Raises:
        UserError: it does not exist, or cannot be a source.
    """
    spec = mask_url(spec)
    try:
        RemotePath.from_url(split_off_roles(spec)[0], extract_secrets(spec)).check_exists()
    except ConnectionError:
        return


def open_remote(
    spec: str,
    open_local: OpenLocal,
    *,
    require_classes: bool = True,
    with_labels: bool = True,
    progress: Progress | None = None,
) -> Source:
    """Open the source behind a URL.

    Args:
        spec: the URL, perhaps with roles of columns or options of folders.
        open_local: opens the downloaded files; `factory.open_path`, which this module cannot import.
        require_classes: raise UserError if nothing can be learned from the source.
        with_labels: read labels from tables and annotations beside the pictures of a folder.
        progress: reports downloads.

    Raises:
        UserError: the URL leads nowhere, permission or credentials are missing, a file system is not installed, or
            nothing can be learned from the source.
        ConnectionError: every attempt at a read failed with a transient error.
    """
    from imageset.sources.sharded import expand_braces, is_pattern

    spec = mask_url(spec)
    url, query = split_off_roles(spec)
    path, progress = RemotePath.from_url(url, extract_secrets(spec)), progress or SilentProgress()
    name = parse_file_name(path.glob_text)
    if is_pattern(path.glob_text):
        paths = path.glob() if any(sign in path.glob_text for sign in "*[") else [path]
        paths = [file.with_url(file_url) for file in paths for file_url in expand_braces(file.url)]
        return _download_files(paths, url, query, require_classes, progress, open_local)
    if is_whole_file_name(name) or is_document_url(name):
        return _download_files([path], url, query, require_classes, progress, open_local)
    return _open_folder(path, url, query, require_classes, with_labels, progress, open_local)


def open_remote_label_table(spec: str, *, progress: Progress | None = None) -> LabelTable | None:
    """Open the table behind a URL if it is a label table; the images that it names are below its own folder.

    Raises:
        UserError: the URL leads nowhere, or the table cannot be used.
        ConnectionError: every attempt at a read failed with a transient error.
    """
    from imageset.sources.label_table import LabelTable
    from imageset.sources.table import TABLE_EXTENSIONS
    from imageset.sources.tables import image_paths

    spec = mask_url(spec)
    url, query = split_off_roles(spec)
    name = parse_file_name(url)
    if not name.lower().endswith(TABLE_EXTENSIONS):
        return None
    path, folder = RemotePath.from_url(url, extract_secrets(spec)), ReclaimedTempDir()
    parent = parse_parent(path.url)
    path.download(Path(folder.name) / name, progress or SilentProgress())
    images = image_paths.RemoteFolder(
        partial(_read_below_url, path, parent),
        partial(_list_below_url, path, parent),
        dict(parse_qsl(query)).get("root", ""),
    )
    try:
        return LabelTable.open(Path(folder.name) / name, url, query, images, keep=folder)
    except UserError as error:
        raise UserError(str(error).replace(folder.name, parent)) from None


# ---- downloaded files ------------------------------------------------------------------------------------------


class DownloadedSource:
    """A source of files that were downloaded to a temporary folder, which is removed with the source.

    Args:
        inner: the source of the local files.
        folder: the temporary folder.
        parent: URL that replaces the temporary folder in texts.
        name: slug that becomes the dataset's name.
    """

    def __init__(self, inner: Source, folder: ReclaimedTempDir, parent: str, name: str) -> None:
        self._inner, self._folder, self._parent = inner, folder, parent
        self.name, self.kind, self.multi_label = name, inner.kind, inner.multi_label
        self.passed_over, self.classes, self.splits = inner.passed_over, inner.classes, inner.splits
        self.problem = inner.problem and self._restore_url(inner.problem)
        self.warnings = inner.warnings

    def __iter__(self) -> Iterator[SourceImage]:
        try:
            yield from self._inner
        except UserError as error:
            raise UserError(self._restore_url(str(error))) from None

    def __len__(self) -> int:
        return len(self._inner)

    def describe(self) -> str:
        """Return one line that describes the source as it was understood."""
        return self._restore_url(self._inner.describe())

    def _restore_url(self, text: str) -> str:
        return text.replace(self._folder.name, self._parent)


class RemoteTable(DownloadedSource):
    """A downloaded table whose images are beside it, behind the URL; some are read ahead."""

    def __iter__(self) -> Iterator[SourceImage]:
        return read_ahead(super().__iter__())


def _download_files(
    paths: Sequence[RemotePath],
    label: str,
    query: str,
    require_classes: bool,
    progress: Progress,
    open_local: OpenLocal,
) -> DownloadedSource:
    """Download files to a temporary folder and open them as one source."""
    if not paths:
        raise UserError(f"{label}: no such file")
    paths = [*paths, *_find_idx_label_files(paths)]
    parent = posixpath.commonpath([parse_parent(path.url) for path in paths]).replace(":/", "://", 1)
    names = [path.url.partition("?")[0].removeprefix(f"{parent}/") for path in paths]
    folder = ReclaimedTempDir()
    root = Path(folder.name)
    try:
        for path, name in zip(paths, names, strict=True):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            path.download(root / name, progress)
        progress.end()
        return _open_downloaded(folder, names, paths[0], parent, label, query, require_classes, open_local)
    except UserError as error:
        folder.cleanup()
        raise UserError(str(error).replace(folder.name, parent)) from None
    except BaseException:
        folder.cleanup()
        raise


def _open_downloaded(
    folder: ReclaimedTempDir,
    names: Sequence[str],
    path: RemotePath,
    parent: str,
    label: str,
    query: str,
    require_classes: bool,
    open_local: OpenLocal,
) -> DownloadedSource:
    from imageset.sources.annotations.reader import is_document_name
    from imageset.sources.sharded import open_shards
    from imageset.sources.table import TABLE_EXTENSIONS, TableSource

    root = Path(folder.name)
    stem = re.sub(r"\{[^}]*\}|\[[^]]*\]|\*", "", parse_file_name(label)).split(".")[0]
    name = slugify(stem or posixpath.basename(parent))
    if all(file_name.lower().endswith(TABLE_EXTENSIONS) for file_name in names):
        files = [root / file_name for file_name in names]
        read, list_names = partial(_read_below_url, path, parent), partial(_list_below_url, path, parent)
        table = TableSource(
            files,
            label=label,
            name=name,
            query=query,
            require_classes=require_classes,
            open_images=lambda inside: RemoteImages(read, list_names, inside),
        )
        return RemoteTable(table, folder, parent, name)
    if all(is_document_name(file_name) for file_name in names):
        return _open_downloaded_documents(folder, names, path, parent, label, query, name, require_classes)
    if len(names) == 1:
        inner = open_local(root / names[0], query, require_classes=require_classes)
        return DownloadedSource(inner, folder, parent, name)
    if all(is_idx_name(file_name) for file_name in names):
        return DownloadedSource(
            open_local(root, query, require_classes=require_classes),
            folder,
            parent,
            slugify(posixpath.basename(parent)),
        )
    shards = [(file_name, root / file_name) for file_name in names]
    inner = open_shards(shards, label, name, query, require_classes=require_classes)
    return DownloadedSource(inner, folder, parent, name)


def _open_downloaded_documents(
    folder: ReclaimedTempDir,
    names: Sequence[str],
    path: RemotePath,
    parent: str,
    label: str,
    query: str,
    name: str,
    require_classes: bool,
) -> DownloadedSource:
    """Open documents of annotations, whose pictures are below their folder behind the URL."""
    from urllib.parse import parse_qsl

    from imageset.sources.annotated import open_documents
    from imageset.sources.annotations.reader import DOCUMENT_FOLDERS

    root = dict(parse_qsl(query)).get("root", "")
    above, _, own = parent.rpartition("/")
    top, start = (above, own) if own.lower() in DOCUMENT_FOLDERS else (parent, "")
    inside = posixpath.normpath(posixpath.join(start, root)) if root else ""
    read, list_names = partial(_read_below_url, path, top), partial(_list_below_url, path, top)
    inner = open_documents(
        [Path(folder.name) / file_name for file_name in names],
        label=label,
        name=name,
        query=query,
        require_classes=require_classes,
        folder=RemoteImages(read, list_names, inside),
    )
    return RemoteTable(inner, folder, parent, name)


def _find_idx_label_files(paths: Sequence[RemotePath]) -> list[RemotePath]:
    """Return the paths of the label files of IDX image files, by their names."""
    from imageset.sources.benchmark_sets.idx import is_idx_image_name, to_label_file_name

    names = {parse_file_name(path.url) for path in paths}
    label_files = [
        (path, to_label_file_name(name)) for path in paths if is_idx_image_name(name := parse_file_name(path.url))
    ]
    return [path.with_url(f"{parse_parent(path.url)}/{name}") for path, name in label_files if name not in names]


def _list_below_url(path: RemotePath, parent: str) -> Iterable[str] | None:
    """Return the paths of the files beside a table, or None if the server, or its permissions, give no listing."""
    if path.is_http:
        return None
    try:
        return path.with_url(parent).list_files()
    except UserError:
        return None


def _read_below_url(path: RemotePath, parent: str, name: str) -> bytes:
    """Read an image of a table behind a URL, only below the table's own folder.

    Raises:
        Rejected: the path is outside the folder, or the image cannot be read.
    """
    name = name.removeprefix(f"{parent}/")
    if not is_below(name):
        raise Rejected("unreadable", "is outside the table's folder")
    try:
        return path.with_url(f"{parent}/{name}").read(MAX_IMAGE_BYTES, within=parent)
    except UserError as error:
        raise Rejected("unreadable", str(error).removeprefix(f"{parent}/{name}: ")) from None


# ---- folders of a bucket ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RemoteImage:
    """An image in a bucket.

    Attributes:
        uri: path relative to the folder of the source.
        path: where it is.
        num_bytes: its size, if the listing gives it.
    """

    uri: str
    path: RemotePath
    num_bytes: int | None

    def read(self) -> bytes:
        """Return the bytes; see SourceImage for what it raises.

        Raises:
            FileNotFoundError: the file has disappeared since the listing.
        """
        try:
            return self.path.read(MAX_IMAGE_BYTES, self.num_bytes)
        except MissingFile as error:
            raise FileNotFoundError(str(error)) from None


class RemoteFolder(FolderSource):
    """A folder of a bucket; some images are read ahead."""

    def __iter__(self) -> Iterator[SourceImage]:
        return read_ahead(super().__iter__())


def _open_folder(
    path: RemotePath,
    url: str,
    query: str,
    require_classes: bool,
    with_labels: bool,
    progress: Progress,
    open_local: OpenLocal,
) -> Source:
    if path.is_http:
        raise UserError(explain_no_listing(url))
    url = url.rstrip("/")
    num_bytes_by_name = path.list_files()
    if not num_bytes_by_name:
        raise UserError(f"{url}: holds no files; check the address")
    causes = {name: cause for name in num_bytes_by_name if (cause := find_system_cause_of_path(name))}
    num_bytes_by_name = {name: num for name, num in num_bytes_by_name.items() if name not in causes}
    images = [name for name in num_bytes_by_name if posixpath.splitext(name)[1].lower() in IMAGE_EXTENSIONS]
    if not images:
        return _open_listed_files(path, url, query, num_bytes_by_name, require_classes, progress, open_local)
    files = [
        RemoteImage(name.replace("\\", "/"), path.with_url(f"{url}/{name}"), num_bytes_by_name[name])
        for name in images
    ]
    passed_over = Counter(causes.values())
    passed_over.update({"files of other kinds": num} if (num := len(num_bytes_by_name) - len(files)) else {})
    name = slugify(posixpath.basename(url))
    layout_files = _read_layout_files(path, url, num_bytes_by_name)
    options = parse_folder_options(url, query)
    source: Source
    source = folder = RemoteFolder(
        url, name, files, passed_over, layout_files, options=options, require_classes=False
    )
    if with_labels and options == NO_OPTIONS:
        source = _open_by_labels(path, url, num_bytes_by_name, folder, progress)
    if require_classes and source.problem:
        raise UserError(source.problem)
    return source


def _open_by_labels(
    path: RemotePath,
    url: str,
    num_bytes_by_name: Mapping[str, int | None],
    source: RemoteFolder,
    progress: Progress,
) -> Source:
    """Return the folder, read through the tables or annotations in it if its folders give no classes."""
    from imageset.sources.described.contents import DESCRIBING_EXTENSIONS, Contents
    from imageset.sources.described.opening import may_be_described, open_described

    names = [name for name in num_bytes_by_name if posixpath.splitext(name)[1].lower() in DESCRIBING_EXTENSIONS]
    folders = {posixpath.dirname(name) for name in names}
    if not names or not may_be_described(source, lambda name: name in folders):
        return source
    if len(names) > MAX_DOCUMENTS:
        source.problem = (
            f"{source.problem or url}; its {len(names):,} tables and annotations are too many to fetch one by "
            "one: copy the folder to this machine, or give an archive of it"
        )
        return source
    temporary = ReclaimedTempDir()
    try:
        documents = {name: Path(temporary.name) / name for name in names}
        for name, file in documents.items():
            file.parent.mkdir(parents=True, exist_ok=True)
            path.with_url(f"{url}/{name}").download(file, progress)
        progress.end()
        images = source.list_uris()
        read = partial(_read_below_url, path, url)
        contents = Contents(
            url, source.name, images, documents, lambda inside: RemoteImages(read, lambda: images, inside)
        )
        found = open_described(contents, source)
        if not isinstance(found, str):
            return RemoteTable(found, temporary, url, source.name)
        temporary.cleanup()
        source.problem = found.replace(temporary.name, url) or None
        return source
    except BaseException:
        temporary.cleanup()
        raise


def _open_listed_files(
    path: RemotePath,
    url: str,
    query: str,
    num_bytes_by_name: Mapping[str, int | None],
    require_classes: bool,
    progress: Progress,
    open_local: OpenLocal,
) -> Source:
    """Download shards, Parquet, IDX or CIFAR files of a bucket, in the same folders, and open them."""
    names = [name for name in num_bytes_by_name if is_whole_file_name(name) or _may_be_cifar(name)]
    if not names:
        raise UserError(
            f"{url}: holds {format_count(len(num_bytes_by_name), 'file')} but no pictures; check the address"
        )
    folder = ReclaimedTempDir()
    root = Path(folder.name) / (posixpath.basename(url) or "bucket")
    try:
        for name in names:
            file = root / name
            file.parent.mkdir(parents=True, exist_ok=True)
            path.with_url(f"{url}/{name}").download(file, progress)
        progress.end()
        inner = open_local(root, query, require_classes=require_classes)
        return DownloadedSource(inner, folder, parse_parent(url), slugify(root.name))
    except UserError as error:
        folder.cleanup()
        raise UserError(str(error).replace(folder.name, parse_parent(url))) from None
    except BaseException:
        folder.cleanup()
        raise


def _read_layout_files(
    path: RemotePath, url: str, num_bytes_by_name: Mapping[str, int | None]
) -> dict[str, bytes]:
    """Read the small text files that define a layout."""
    names = {
        file: folder + file
        for file in LAYOUT_FILES
        for folder in reversed(LAYOUT_FILE_FOLDERS)
        if folder + file in num_bytes_by_name
    }
    return {
        file: path.with_url(f"{url}/{name}").read(MAX_LAYOUT_FILE_BYTES, num_bytes_by_name[name])
        for file, name in names.items()
    }


def read_ahead(images: Iterator[SourceImage]) -> Iterator[SourceImage]:
    """Yield the same images in the same order, while threads read the next NUM_AHEAD of them."""
    executor = ThreadPoolExecutor(NUM_THREADS, "read-ahead")
    pending: deque[tuple[SourceImage, Future[bytes]]] = deque()
    try:
        for image in images:
            pending.append((image, executor.submit(image.read)))
            if len(pending) > NUM_AHEAD:
                first, data = pending.popleft()
                yield replace(first, read=data.result)
        while pending:
            first, data = pending.popleft()
            yield replace(first, read=data.result)
    except BaseException:  # the consumer has stopped, or an image could not be listed
        executor.shutdown(wait=True, cancel_futures=True)
        raise
    executor.shutdown(wait=False)


def _may_be_cifar(name: str) -> bool:
    from imageset.sources.benchmark_sets.cifar import is_cifar_name

    return is_cifar_name(posixpath.basename(name))
