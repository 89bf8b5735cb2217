"""Pictures inside zip and tar archives, read member by member: nothing is ever extracted.

The labels come from the folders inside (one a class, with or without train|val|test above and one common folder
around), or, WebDataset-style, from the `.cls` or `.json` member that shares a picture's name.
"""

from __future__ import annotations

import json
import posixpath
import tarfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import IO, NamedTuple

from imageset.exceptions import UserError
from imageset.rejections import Rejected
from imageset.sources.base import PathLabel, SourceImage, count_image, describe_source, format_passed_over, slugify
from imageset.sources.files import IMAGE_EXTENSIONS, MAX_IMAGE_BYTES
from imageset.sources.layouts import LAYOUT_FILES as LAYOUT_NOTES
from imageset.sources.layouts import MAX_LAYOUT_FILE_BYTES, detect_layout, guess_split_from_path

ARCHIVE_EXTENSIONS = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
_DAMAGE_ERRORS = (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, OSError)
_LABEL_EXTENSIONS = (".cls", ".json")
_MAX_LABEL_BYTES = 1 << 20


class ArchiveMember(NamedTuple):
    """A regular file in an archive; `open` gives its bytes while the archive stands at it."""

    name: str
    open: Callable[[], IO[bytes] | None]


def is_archive(path: Path) -> bool:
    """Whether the name is that of an archive."""
    return path.is_file() and path.name.lower().endswith(ARCHIVE_EXTENSIONS)


def open_archive(path: Path, *, require_classes: bool = True) -> ArchiveSource:
    """The source of one archive."""
    return ArchiveSource(
        [(path.name, path)], label=str(path), name=slugify(_strip_extension(path.name)), require_classes=require_classes
    )


class ArchiveSource:
    """The pictures of one archive, or of several that are one dataset (WebDataset's shards).

    Args:
        files: (name among the others, where it lies). Of several, a picture's uri begins with the name, and the
            name tells the split where the folders inside do not: train/shard-000.tar, imagenet-val-000.tar.
        shown: what messages call them.
    """

    kind = "archive"
    multi_label = False

    def __init__(self, files: Sequence[tuple[str, Path]], *, label: str, name: str, require_classes: bool = True) -> None:
        self.label, self.name = label, name
        self._files = list(files)
        self.passed_over: Counter[str] = Counter()
        self._notes: dict[str, str] = {}  # label by the picture's uri without its ending
        texts: dict[str, bytes] = {}
        names = list(self._list(texts))
        self._layout = detect_layout(label, [member for _, member in names], texts, skip_common_folders=True)
        self.classes: Counter[str] = Counter()
        self.splits: Counter[str] = Counter()
        unplaced = self._layout.skip_cause
        self._num = sum(count_image(self, self._place(file, member), unplaced) for file, member in names)
        self.problem = self._problem()
        if require_classes and self.problem:
            raise UserError(self.problem)

    def __iter__(self) -> Iterator[SourceImage]:
        for file, path in self._files:
            for member in iter_members(path, Counter()):
                place = self._place(file, member.name) if _is_image(member.name) else None
                if place is not None:
                    uri = self._uri(file, member.name)
                    yield SourceImage(uri, place.label, None, place.split, partial(read_member, member))

    def __len__(self) -> int:
        return self._num

    def describe(self) -> str:
        archives = f"{len(self._files):,} archives" if len(self._files) > 1 else ""
        return describe_source(self, self.label, "; ".join(filter(None, (archives, self._layout.note))))

    def _list(self, texts: dict[str, bytes]) -> Iterator[tuple[str, str]]:
        """The (archive, name) of the pictures; what notes say is kept, and what texts a layout is told by."""
        for file, path in self._files:
            for member in iter_members(path, self.passed_over):
                stem, ending = posixpath.splitext(self._uri(file, member.name))
                if _is_image(member.name):
                    yield file, member.name
                elif ending.lower() in _LABEL_EXTENSIONS:
                    label = _parse_label(read_member(member, _MAX_LABEL_BYTES), ending.lower())
                    if label is not None:
                        self._notes[stem] = label
                elif (text := posixpath.basename(member.name)) in LAYOUT_NOTES:
                    texts[text] = read_member(member, MAX_LAYOUT_FILE_BYTES)
                else:
                    self.passed_over["files of other kinds"] += 1

    def _uri(self, file: str, member: str) -> str:
        return member if len(self._files) == 1 else f"{file}/{member}"

    def _place(self, file: str, member: str) -> PathLabel | None:
        place = self._layout.parse_path(member)
        if self._notes:
            label = self._notes.get(posixpath.splitext(self._uri(file, member))[0])
            place = PathLabel(label, place.split if place else None)
        if place and place.split is None and len(self._files) > 1:
            place = place._replace(split=guess_split_from_path(file))
        return place

    def _problem(self) -> str | None:
        if not self._num:
            return f"{self.label}: holds no pictures{format_passed_over(self.passed_over)}"
        if len(self.classes) < 2:
            found = f"a single class '{next(iter(self.classes))}'" if self.classes else "no class folders"
            return f"{self.label}: {found}; at least two are needed to learn a difference"
        return None


def _strip_extension(name: str) -> str:
    for ending in sorted(ARCHIVE_EXTENSIONS, key=len, reverse=True):
        if name.lower().endswith(ending):
            return name[: -len(ending)]
    return name


def _is_image(name: str) -> bool:
    return posixpath.splitext(name)[1].lower() in IMAGE_EXTENSIONS


def iter_members(path: Path, passed_over: Counter[str]) -> Iterator[ArchiveMember]:
    """Every regular file of an archive, in its order; UserError where the archive is damaged."""
    try:
        if path.name.lower().endswith(".zip"):
            yield from _iter_zip_members(path, passed_over)
        else:
            yield from _iter_tar_members(path, passed_over)
    except _DAMAGE_ERRORS as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise UserError(f"{path}: damaged archive: {error}; fetch it again") from None


def _iter_zip_members(path: Path, passed_over: Counter[str]) -> Iterator[ArchiveMember]:
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            if info.flag_bits & 1:
                raise UserError(f"{path}: is encrypted; unpack it yourself and give the folder")
            if not info.is_dir() and _is_wanted(info.filename, passed_over):
                yield ArchiveMember(info.filename.lstrip("/"), partial(archive.open, info))


def _iter_tar_members(path: Path, passed_over: Counter[str]) -> Iterator[ArchiveMember]:
    with tarfile.open(path) as archive:
        for info in archive:
            archive.members = []  # type: ignore[attr-defined]  # tarfile would keep every member in memory
            if info.isdir():
                continue
            if not info.isreg():
                passed_over["links, devices and FIFOs"] += 1
            elif _is_wanted(info.name, passed_over):
                yield ArchiveMember(info.name.lstrip("/"), partial(archive.extractfile, info))


def _is_wanted(name: str, passed_over: Counter[str]) -> bool:
    parts = set(name.split("/")) - {"."}
    if ".." in parts:
        passed_over["names that lead out of the archive"] += 1
        return False
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in parts)
    if hidden:
        passed_over["hidden"] += 1
    return not hidden


def read_member(member: ArchiveMember, limit: int = MAX_IMAGE_BYTES) -> bytes:
    """The member's bytes, never more than the limit whatever the archive announces."""
    try:
        stream = member.open()
        data = b"" if stream is None else stream.read(limit + 1)
    except _DAMAGE_ERRORS as error:
        raise Rejected("undecodable", f"damaged in the archive: {error}") from None
    if len(data) > limit:
        raise Rejected("bomb", f"unpacks to more than {limit // 1_000_000:,} MB")
    return data


def _parse_label(data: bytes, ending: str) -> str | None:
    try:
        text = data.decode().strip()
        if ending == ".cls":
            return text or None
        note = json.loads(text)
        found = next((note[key] for key in ("label", "cls", "class") if key in note), None)
        return None if found is None else str(found)
    except (ValueError, TypeError):
        return None
