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
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import IO, NamedTuple

from imageset.errors import UserError
from imageset.quality import Rejected
from imageset.sources import (
    MAX_PICTURE_BYTES,
    PICTURE_ENDINGS,
    SPLIT_OF_FOLDER,
    SourcePicture,
    echo,
    passed_over_text,
    slug,
)

ENDINGS = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
_DAMAGED = (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, OSError)
_NOTES = (".cls", ".json")
_MAX_NOTE_BYTES = 1 << 20


class _Member(NamedTuple):
    """A regular file in an archive; `open` gives its bytes while the archive stands at it."""

    name: str
    open: Callable[[], IO[bytes] | None]


def is_archive(path: Path) -> bool:
    """Whether the name is that of an archive."""
    return path.is_file() and path.name.lower().endswith(ENDINGS)


class ArchiveSource:
    """One archive of pictures."""

    kind = "archive"
    multi_label = False

    def __init__(self, path: Path, *, to_learn: bool = True) -> None:
        self.path = path
        self.name = slug(_stem(path.name))
        self.passed_over: Counter[str] = Counter()
        self._notes: dict[str, str] = {}
        names = [name for name in self._list() if name]
        self._layout = _Layout(names)
        places = [self._place(name) for name in names]
        self._num = len(names)
        self.classes = Counter(label for label, _ in places if label is not None)
        self.splits = Counter(split for _, split in places if split is not None)
        self.problem = self._problem()
        if to_learn and self.problem:
            raise UserError(self.problem)

    def __iter__(self) -> Iterator[SourcePicture]:
        for member in _members(self.path, Counter()):
            if _is_picture(member.name):
                label, split = self._place(member.name)
                yield SourcePicture(member.name, label, None, split, partial(_read, member))

    def __len__(self) -> int:
        return self._num

    def describe(self) -> str:
        return echo(self, str(self.path))

    def _list(self) -> Iterator[str]:
        """The names of the pictures; what notes say is kept."""
        for member in _members(self.path, self.passed_over):
            stem, ending = posixpath.splitext(member.name)
            if _is_picture(member.name):
                yield member.name
            elif ending.lower() in _NOTES:
                label = _noted(_read(member, _MAX_NOTE_BYTES), ending.lower())
                if label is not None:
                    self._notes[stem] = label
            else:
                self.passed_over["files of other kinds"] += 1

    def _place(self, name: str) -> tuple[str | None, str | None]:
        label, split = self._layout.place(name)
        return (self._notes.get(posixpath.splitext(name)[0]), split) if self._notes else (label, split)

    def _problem(self) -> str | None:
        if not self._num:
            return f"{self.path}: holds no pictures{passed_over_text(self.passed_over)}"
        if len(self.classes) < 2:
            found = f"a single class '{next(iter(self.classes))}'" if self.classes else "no class folders"
            return f"{self.path}: {found}; at least two are needed to learn a difference"
        return None


class _Layout:
    """Which folders of a list of names are classes, and which are splits."""

    def __init__(self, names: list[str]) -> None:
        folders = [name.split("/")[:-1] for name in names]
        self._skip = 0
        while (
            folders
            and all(len(one) > self._skip + 1 for one in folders)
            and len({one[self._skip] for one in folders}) == 1
        ):
            self._skip += 1
        tops = {one[self._skip].lower() for one in folders if len(one) > self._skip}
        self._is_split = "train" in {SPLIT_OF_FOLDER.get(top) for top in tops} and all(
            top in SPLIT_OF_FOLDER for top in tops
        )

    def place(self, name: str) -> tuple[str | None, str | None]:
        """(label, split) of a picture."""
        parts = name.split("/")[self._skip : -1]
        split = SPLIT_OF_FOLDER[parts[0].lower()] if self._is_split and parts else None
        parts = parts[1:] if self._is_split else parts
        return (parts[0] if parts else None), split


def _stem(name: str) -> str:
    for ending in sorted(ENDINGS, key=len, reverse=True):
        if name.lower().endswith(ending):
            return name[: -len(ending)]
    return name


def _is_picture(name: str) -> bool:
    return posixpath.splitext(name)[1].lower() in PICTURE_ENDINGS


def _members(path: Path, passed_over: Counter[str]) -> Iterator[_Member]:
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


def _zip_members(path: Path, passed_over: Counter[str]) -> Iterator[_Member]:
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            if info.flag_bits & 1:
                raise UserError(f"{path}: is encrypted; unpack it yourself and give the folder")
            if not info.is_dir() and _wanted(info.filename, passed_over):
                yield _Member(info.filename, partial(archive.open, info))


def _tar_members(path: Path, passed_over: Counter[str]) -> Iterator[_Member]:
    with tarfile.open(path) as archive:
        for info in archive:
            archive.members = []  # type: ignore[attr-defined]  # tarfile would keep every member in memory
            if info.isdir():
                continue
            if not info.isreg():
                passed_over["links, devices and FIFOs"] += 1
            elif _wanted(info.name, passed_over):
                yield _Member(info.name, partial(archive.extractfile, info))


def _wanted(name: str, passed_over: Counter[str]) -> bool:
    parts = set(name.split("/")) - {".", ".."}
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in parts)
    if hidden:
        passed_over["hidden"] += 1
    return not hidden


def _read(member: _Member, limit: int = MAX_PICTURE_BYTES) -> bytes:
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
