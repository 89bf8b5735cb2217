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

from imageset.errors import UserError
from imageset.layouts import MAX_NOTE_BYTES, Place, split_of_path, understand
from imageset.layouts import NOTES as LAYOUT_NOTES
from imageset.quality import Rejected
from imageset.sources import (
    MAX_PICTURE_BYTES,
    PICTURE_ENDINGS,
    SourcePicture,
    counted,
    echo,
    passed_over_text,
    slug,
)

ENDINGS = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
_DAMAGED = (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, OSError)
_NOTES = (".cls", ".json")
_MAX_NOTE_BYTES = 1 << 20


class Member(NamedTuple):
    """A regular file in an archive; `open` gives its bytes while the archive stands at it."""

    name: str
    open: Callable[[], IO[bytes] | None]


def is_archive(path: Path) -> bool:
    """Whether the name is that of an archive."""
    return path.is_file() and path.name.lower().endswith(ENDINGS)


def open_archive(path: Path, *, to_learn: bool = True) -> ArchiveSource:
    """The source of one archive."""
    return ArchiveSource([(path.name, path)], shown=str(path), name=slug(_stem(path.name)), to_learn=to_learn)


class ArchiveSource:
    """The pictures of one archive, or of several that are one dataset (WebDataset's shards).

    Args:
        files: (name among the others, where it lies). Of several, a picture's uri begins with the name, and the
            name tells the split where the folders inside do not: train/shard-000.tar, imagenet-val-000.tar.
        shown: what messages call them.
    """

    kind = "archive"
    multi_label = False

    def __init__(self, files: Sequence[tuple[str, Path]], *, shown: str, name: str, to_learn: bool = True) -> None:
        self.shown, self.name = shown, name
        self._files = list(files)
        self.passed_over: Counter[str] = Counter()
        self._notes: dict[str, str] = {}  # label by the picture's uri without its ending
        texts: dict[str, bytes] = {}
        names = list(self._list(texts))
        self._layout = understand(shown, [member for _, member in names], texts, skip_common=True)
        self.classes: Counter[str] = Counter()
        self.splits: Counter[str] = Counter()
        unplaced = self._layout.unplaced
        self._num = sum(counted(self, self._place(file, member), unplaced) for file, member in names)
        self.problem = self._problem()
        if to_learn and self.problem:
            raise UserError(self.problem)

    def __iter__(self) -> Iterator[SourcePicture]:
        for file, path in self._files:
            for member in members(path, Counter()):
                place = self._place(file, member.name) if _is_picture(member.name) else None
                if place is not None:
                    uri = self._uri(file, member.name)
                    yield SourcePicture(uri, place.label, None, place.split, partial(read_member, member))

    def __len__(self) -> int:
        return self._num

    def describe(self) -> str:
        archives = f"{len(self._files):,} archives" if len(self._files) > 1 else ""
        return echo(self, self.shown, "; ".join(filter(None, (archives, self._layout.note))))

    def _list(self, texts: dict[str, bytes]) -> Iterator[tuple[str, str]]:
        """The (archive, name) of the pictures; what notes say is kept, and what texts a layout is told by."""
        for file, path in self._files:
            for member in members(path, self.passed_over):
                stem, ending = posixpath.splitext(self._uri(file, member.name))
                if _is_picture(member.name):
                    yield file, member.name
                elif ending.lower() in _NOTES:
                    label = _noted(read_member(member, _MAX_NOTE_BYTES), ending.lower())
                    if label is not None:
                        self._notes[stem] = label
                elif (text := posixpath.basename(member.name)) in LAYOUT_NOTES:
                    texts[text] = read_member(member, MAX_NOTE_BYTES)
                else:
                    self.passed_over["files of other kinds"] += 1

    def _uri(self, file: str, member: str) -> str:
        return member if len(self._files) == 1 else f"{file}/{member}"

    def _place(self, file: str, member: str) -> Place | None:
        place = self._layout.place(member)
        if self._notes:
            label = self._notes.get(posixpath.splitext(self._uri(file, member))[0])
            place = Place(label, place.split if place else None)
        if place and place.split is None and len(self._files) > 1:
            place = place._replace(split=split_of_path(file))
        return place

    def _problem(self) -> str | None:
        if not self._num:
            return f"{self.shown}: holds no pictures{passed_over_text(self.passed_over)}"
        if len(self.classes) < 2:
            found = f"a single class '{next(iter(self.classes))}'" if self.classes else "no class folders"
            return f"{self.shown}: {found}; at least two are needed to learn a difference"
        return None


def _stem(name: str) -> str:
    for ending in sorted(ENDINGS, key=len, reverse=True):
        if name.lower().endswith(ending):
            return name[: -len(ending)]
    return name


def _is_picture(name: str) -> bool:
    return posixpath.splitext(name)[1].lower() in PICTURE_ENDINGS


def members(path: Path, passed_over: Counter[str]) -> Iterator[Member]:
    """Every regular file of an archive, in its order; UserError where the archive is damaged."""
    try:
        if path.name.lower().endswith(".zip"):
            yield from _zip_members(path, passed_over)
        else:
            yield from _tar_members(path, passed_over)
    except _DAMAGED as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise UserError(f"{path}: damaged archive: {error}; fetch it again") from None


def _zip_members(path: Path, passed_over: Counter[str]) -> Iterator[Member]:
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            if info.flag_bits & 1:
                raise UserError(f"{path}: is encrypted; unpack it yourself and give the folder")
            if not info.is_dir() and _wanted(info.filename, passed_over):
                yield Member(info.filename.lstrip("/"), partial(archive.open, info))


def _tar_members(path: Path, passed_over: Counter[str]) -> Iterator[Member]:
    with tarfile.open(path) as archive:
        for info in archive:
            archive.members = []  # type: ignore[attr-defined]  # tarfile would keep every member in memory
            if info.isdir():
                continue
            if not info.isreg():
                passed_over["links, devices and FIFOs"] += 1
            elif _wanted(info.name, passed_over):
                yield Member(info.name.lstrip("/"), partial(archive.extractfile, info))


def _wanted(name: str, passed_over: Counter[str]) -> bool:
    parts = set(name.split("/")) - {"."}
    if ".." in parts:
        passed_over["names that lead out of the archive"] += 1
        return False
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in parts)
    if hidden:
        passed_over["hidden"] += 1
    return not hidden


def read_member(member: Member, limit: int = MAX_PICTURE_BYTES) -> bytes:
    """The member's bytes, never more than the limit whatever the archive announces."""
    try:
        stream = member.open()
        data = b"" if stream is None else stream.read(limit + 1)
    except _DAMAGED as error:
        raise Rejected("undecodable", f"damaged in the archive: {error}") from None
    if len(data) > limit:
        raise Rejected("bomb", f"unpacks to more than {limit // 1_000_000:,} MB")
    return data


def _noted(data: bytes, ending: str) -> str | None:
    try:
        text = data.decode().strip()
        if ending == ".cls":
            return text or None
        note = json.loads(text)
        found = next((note[key] for key in ("label", "cls", "class") if key in note), None)
        return None if found is None else str(found)
    except (ValueError, TypeError):
        return None
