"""Zip and tar archives as a source, read member by member: nothing is extracted to the disk.

The labels come from the folders inside (one per class, with or without train|val|test above and one common folder
around), or, WebDataset-style, from the `.cls` or `.json` member with the same name as an image.
"""

from __future__ import annotations

import json
import posixpath
import stat
import tarfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import IO, NamedTuple

from imageset.exceptions import UserError
from imageset.rejections import Rejected
from imageset.sources.base import (
    PathLabel,
    SourceImage,
    count_image,
    describe_nameless,
    describe_source,
    format_passed_over,
    slugify,
)
from imageset.sources.files import (
    IMAGE_EXTENSIONS,
    MAX_IMAGE_BYTES,
    START_BYTES,
    Links,
    begins_as_image,
    find_system_cause_of_path,
    may_be_nameless_image,
)
from imageset.sources.layouts.detection import LAYOUT_FILES, detect_layout
from imageset.sources.layouts.imagenet import MAX_LAYOUT_FILE_BYTES
from imageset.sources.layouts.options import NO_OPTIONS, FolderOptions
from imageset.sources.layouts.problems import describe_linked_class, hint_at_lower_folders
from imageset.sources.layouts.split_names import guess_split_from_path

ARCHIVE_EXTENSIONS = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
_DAMAGE_ERRORS = (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, OSError)
_LABEL_EXTENSIONS = (".cls", ".json")
_MAX_LABEL_BYTES = 1 << 20


class ArchiveMember(NamedTuple):
    """A regular file in an archive; `open` returns its stream while the iteration is at this member."""

    name: str
    open: Callable[[], IO[bytes] | None]


def is_archive(path: Path) -> bool:
    """Return whether the path is a file with the extension of an archive."""
    return path.is_file() and path.name.lower().endswith(ARCHIVE_EXTENSIONS)


def open_archive(
    path: Path, *, require_classes: bool = True, options: FolderOptions = NO_OPTIONS
) -> ArchiveSource:
    """Open one archive as a source."""
    return ArchiveSource(
        [(path.name, path)],
        label=str(path),
        name=slugify(_strip_extension(path.name)),
        options=options,
        require_classes=require_classes,
    )


class ArchiveSource:
    """The images of one archive, or of several that are one dataset (WebDataset's shards).

    Args:
        files: (name, path) of each archive. If there are several, an image's uri begins with the name, and the
            name gives the split if the folders inside do not: train/shard-000.tar, imagenet-val-000.tar.
        label: name of the source in messages.
        name: slug that becomes the dataset's name.
        options: decisions of the user about the folders inside.
        require_classes: raise UserError if nothing can be learned from the source.

    Attributes:
        images: names of the images, those that are passed over included.
        folders: the folders that hold images.
        is_unclear: whether the folders inside can be understood in several ways.
    """

    kind = "archive"
    multi_label = False

    def __init__(
        self,
        files: Sequence[tuple[str, Path]],
        *,
        label: str,
        name: str,
        options: FolderOptions = NO_OPTIONS,
        require_classes: bool = True,
    ) -> None:
        self.label, self.name = label, name
        self._files, self._options = list(files), options
        self.passed_over: Counter[str] = Counter()
        self.warnings: Sequence[str] = ()
        self._member_labels: dict[str, str] = {}  # label by the image's uri without its extension
        self._other_folders: set[str] = set()  # that hold files other than images
        texts: dict[str, bytes] = {}
        self._links = Links()
        self._nameless: set[tuple[str, str]] = set()  # (archive, member) of images without an extension
        names = list(self._list_images(texts))
        self._layout = detect_layout(
            label,
            [member for _, member in names],
            texts,
            skip_common_folders=True,
            options=options,
            other_folders={*self._links.folders, *self._links.pictures},
        )
        self.classes: Counter[str] = Counter()
        self.splits: Counter[str] = Counter()
        find_skip_cause = self._layout.find_skip_cause
        self._num = sum(
            count_image(self, self._parse_member_path(file, member), find_skip_cause, member)
            for file, member in names
        )
        self.images = [member for _, member in names]
        self.folders: Collection[str] = {member.rpartition("/")[0] for _, member in names}
        self.is_unclear = self._layout.problem is not None
        self.problem: str | None = self._find_problem(self.folders)
        if require_classes and self.problem:
            raise UserError(self.problem)

    def __iter__(self) -> Iterator[SourceImage]:
        for file, path in self._files:
            for member in iter_members(path, Counter()):
                is_image = _is_image(member.name) or (file, member.name) in self._nameless
                path_label = self._parse_member_path(file, member.name) if is_image else None
                if path_label is not None:
                    uri = self._build_uri(file, member.name)
                    yield SourceImage(uri, path_label.label, None, path_label.split, partial(read_member, member))

    def __len__(self) -> int:
        return self._num

    def describe(self) -> str:
        """Return one line that describes the source as it was understood."""
        archives = f"{len(self._files):,} archives" if len(self._files) > 1 else ""
        notes = (archives, self._layout.note, describe_nameless(len(self._nameless)))
        return describe_source(self, self.label, "; ".join(filter(None, notes)))

    def holds_folder(self, name: str) -> bool:
        """Return whether the archive holds a folder with files other than images."""
        return any(f"/{folder}".endswith(f"/{name}") for folder in self._other_folders)

    def _list_images(self, texts: dict[str, bytes]) -> Iterator[tuple[str, str]]:
        """Yield (archive, member) of the images; store labels in `_member_labels`, layout files in `texts`."""
        candidates: set[tuple[str, str]] = set()  # files without an extension
        has_named = False  # whether there are images with one
        for file, path in self._files:
            for member in iter_members(path, self.passed_over, self._links):
                stem, extension = posixpath.splitext(self._build_uri(file, member.name))
                if _is_image(member.name):
                    has_named = True
                    yield file, member.name
                    continue
                if may_be_nameless_image(member.name):
                    candidates.add((file, member.name))
                self._other_folders.add(posixpath.dirname(member.name))
                if extension.lower() in _LABEL_EXTENSIONS:
                    label = _read_label(member, extension.lower())
                    if label is not None:
                        self._member_labels[stem] = label
                elif (name := posixpath.basename(member.name)) in LAYOUT_FILES:
                    texts[name] = read_member(member, MAX_LAYOUT_FILE_BYTES)
                else:
                    self.passed_over["files of other kinds"] += 1
        if not has_named:  # else a README would cost a second reading of the whole archive
            yield from self._find_nameless(candidates)

    def _find_nameless(self, candidates: Collection[tuple[str, str]]) -> Iterator[tuple[str, str]]:
        """Yield the images among these (archive, member), known by their content."""
        for file, path in self._files if candidates else ():
            for member in iter_members(path, Counter()):
                if (file, member.name) in candidates and begins_as_image(_read_start(member)):
                    self._nameless.add((file, member.name))
                    self.passed_over["files of other kinds"] -= 1
                    yield file, member.name
        self.passed_over += Counter()  # without causes that no file has

    def _build_uri(self, file: str, member: str) -> str:
        return member if len(self._files) == 1 else f"{file}/{member}"

    def _parse_member_path(self, file: str, member: str) -> PathLabel | None:
        path_label = self._layout.parse_path(member)
        if self._member_labels:
            label = self._member_labels.get(posixpath.splitext(self._build_uri(file, member))[0])
            path_label = PathLabel(label, path_label.split if path_label else None)
        if path_label and path_label.split is None and len(self._files) > 1:
            path_label = path_label._replace(split=guess_split_from_path(file))
        return path_label

    def _find_problem(self, folders: Collection[str]) -> str | None:
        if not self._member_labels:
            if linked := describe_linked_class(self.label, self._links, self._layout, folders, self._options):
                return linked
            if self._num and self._layout.problem:
                return self._layout.problem
        if not self._num:
            return f"{self.label}: holds no pictures{format_passed_over(self.passed_over)}"
        if len(self.classes) < 2:
            classes = f"a single class '{next(iter(self.classes))}'" if self.classes else "no class folders"
            hint = hint_at_lower_folders(self.label, folders, self._layout, self._options) if self.classes else ""
            return f"{self.label}: {classes}; at least two are needed to learn a difference{hint}"
        return None


def _strip_extension(name: str) -> str:
    for extension in sorted(ARCHIVE_EXTENSIONS, key=len, reverse=True):
        if name.lower().endswith(extension):
            return name[: -len(extension)]
    return name


def _is_image(name: str) -> bool:
    return posixpath.splitext(name)[1].lower() in IMAGE_EXTENSIONS


def iter_members(path: Path, passed_over: Counter[str], links: Links | None = None) -> Iterator[ArchiveMember]:
    """Yield the regular files of an archive, in its order.

    Args:
        path: the archive.
        passed_over: counts the members that are not yielded, by cause.
        links: collects the links.

    Raises:
        UserError: the archive is damaged or encrypted.
    """
    try:
        if path.name.lower().endswith(".zip"):
            yield from _iter_zip_members(path, passed_over, links)
        else:
            yield from _iter_tar_members(path, passed_over, links)
    except _DAMAGE_ERRORS as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise UserError(f"{path}: damaged archive: {error}; download it again") from None


def _iter_zip_members(path: Path, passed_over: Counter[str], links: Links | None) -> Iterator[ArchiveMember]:
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            if info.flag_bits & 1:
                raise UserError(f"{path}: the archive is encrypted; unpack it yourself and give the folder")
            name = info.filename.replace("\\", "/")  # as Windows PowerShell 5 writes them
            if name.endswith("/"):
                continue
            if stat.S_ISLNK(info.external_attr >> 16):
                passed_over["links, devices and FIFOs"] += 1
                _add_link(links, name, archive.read(info)[:4096].decode(errors="replace"))
            elif _is_wanted(name, passed_over):
                yield ArchiveMember(name.lstrip("/"), partial(archive.open, info))


def _iter_tar_members(path: Path, passed_over: Counter[str], links: Links | None) -> Iterator[ArchiveMember]:
    with tarfile.open(path) as archive:
        for info in archive:
            archive.members = []  # type: ignore[attr-defined]  # else tarfile keeps every member in memory
            if info.isdir():
                continue
            if not info.isreg():
                passed_over["links, devices and FIFOs"] += 1
                if info.issym():
                    _add_link(links, info.name, info.linkname)
            elif _is_wanted(info.name, passed_over):
                yield ArchiveMember(info.name.lstrip("/"), partial(archive.extractfile, info))


def _add_link(links: Links | None, name: str, target: str) -> None:
    """Collect a link; without an ending, it is taken for one to a folder."""
    if links is None or _find_unwanted_cause(name):
        return
    if _is_image(name):
        links.pictures[posixpath.dirname(name.lstrip("/"))] += 1
    elif not posixpath.splitext(name)[1] and not posixpath.splitext(target)[1]:
        links.folders.append(name.lstrip("/"))


def _is_wanted(name: str, passed_over: Counter[str]) -> bool:
    cause = _find_unwanted_cause(name)
    if cause:
        passed_over[cause] += 1
    return cause is None


def _find_unwanted_cause(name: str) -> str | None:
    if ".." in name.split("/"):
        return "names that lead out of the archive"
    return find_system_cause_of_path(name)


def read_member(member: ArchiveMember, limit: int = MAX_IMAGE_BYTES) -> bytes:
    """Return a member's bytes, whatever size the archive announces.

    Raises:
        Rejected: "undecodable", the member is damaged; "bomb", it has more than `limit` bytes.
    """
    try:
        stream = member.open()
        data = b"" if stream is None else stream.read(limit + 1)
    except _DAMAGE_ERRORS as error:
        raise Rejected("undecodable", f"damaged in the archive: {error}") from None
    if len(data) > limit:
        raise Rejected("bomb", f"unpacks to more than {limit // 1_000_000:,} MB")
    return data


def _read_start(member: ArchiveMember) -> bytes:
    try:
        stream = member.open()
        return b"" if stream is None else stream.read(START_BYTES)
    except _DAMAGE_ERRORS:
        return b""


def _read_label(member: ArchiveMember, extension: str) -> str | None:
    try:
        return _parse_label(read_member(member, _MAX_LABEL_BYTES), extension)
    except Rejected:  # too large for the label of one image, or damaged
        return None


def _parse_label(data: bytes, extension: str) -> str | None:
    try:
        text = data.decode().strip()
        if extension == ".cls":
            return text or None
        fields = json.loads(text)
        label = next((fields[key] for key in ("label", "cls", "class") if key in fields), None)
        return None if label is None else str(label)
    except (ValueError, TypeError):
        return None
