"""Where labelled pictures come from: folders, archives, tables, IDX files, scikit-learn's digits.

`open_source` looks at a source once, cheaply, and either understands it (`describe()` echoes what was understood)
or raises UserError. Iterating then yields one SourcePicture after another, always in the same order. A source is
only ever read.
"""

from __future__ import annotations

import os
import re
import stat
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from imageset.errors import UserError
from imageset.quality import Rejected, plain

# What is picked up from a folder; the last line only to be refused by name, not passed over in silence.
PICTURE_ENDINGS = frozenset(
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
SPLIT_OF_FOLDER = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}
CLASSES_ECHOED = 12  # no more are named one by one
# One picture must fit into one shard (see imageset.raw).
MAX_PICTURE_BYTES = 255_000_000


@dataclass(frozen=True, slots=True)
class SourcePicture:
    """One picture of a source, its bytes not yet read.

    `read()` returns the bytes; it raises Rejected("unreadable" | "bomb") when the file may not be read or is far
    too large, and OSError when reading fails in a way that trying again may cure.
    """

    uri: str
    label: str | None
    group: str | None
    split: str | None
    read: Callable[[], bytes] = field(repr=False, compare=False)


class Source(Protocol):
    """What ingest needs to know about a source.

    Attributes:
        name: slug of the folder's (or the set's) name; becomes the dataset's name.
        kind: "folder", "archive", "table", "idx" or "digits".
        multi_label: whether a picture's label is a set of names (imageset.labels).
        passed_over: how many files were not taken for pictures, by cause.
        classes: number of pictures of each class (of each label name).
        splits: number of pictures of each split that the source itself makes.
        problem: why nothing can be learned from it, or None.
    """

    name: str
    kind: str
    multi_label: bool
    passed_over: Counter[str]
    classes: Counter[str]
    splits: Counter[str]
    problem: str | None

    def __iter__(self) -> Iterator[SourcePicture]: ...

    def __len__(self) -> int: ...

    def describe(self) -> str:
        """One line: what was understood."""
        ...


def open_source(spec: str | os.PathLike[str], *, to_learn: bool = True) -> Source:
    """Understand a source: a folder, an archive, a table, IDX files (by path), or "sklearn://digits".

    `to_learn=False` also takes what nothing can be learned from, such as a single class, in order to look at it.

    Raises:
        UserError: it does not exist, or nothing to learn from is in it.
    """
    text = os.fspath(spec)
    if text.startswith("sklearn://"):
        from imageset.digits import open_digits

        return open_digits(text)
    from imageset.tables import is_table, open_table

    if is_table(text):
        return open_table(text, to_learn=to_learn)
    path = Path(text).expanduser()
    if not path.exists():
        raise UserError(f"{text}: no such folder; give a folder that holds one sub-folder a class")
    from imageset.idx import IdxSource, is_idx

    if is_idx(path):
        return IdxSource(path)
    from imageset.archives import ArchiveSource, is_archive

    if is_archive(path):
        return ArchiveSource(path, to_learn=to_learn)
    if not path.is_dir():
        raise UserError(
            f"{text}: not a folder; give a folder that holds one sub-folder a class, a zip or tar "
            "archive, a table (CSV, TSV, JSON lines, Parquet), or IDX files"
        )
    return FolderSource(path, to_learn=to_learn)


def slug(name: str) -> str:
    """A name for a dataset or a model: lower case, digits and dashes ("My Flowers" -> "my-flowers")."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "dataset"


def split_of_name(name: str) -> str | None:
    """The split that a file's name tells of: "train-00000-of-00002" -> "train", "imagenet_val.001" -> "val"."""
    found = {SPLIT_OF_FOLDER.get(part) for part in re.split(r"[-_. ]+", name.lower())} - {None}
    return found.pop() if len(found) == 1 else None


def echo(source: Source, shown: str, extra: str = "") -> str:
    """One line: what was understood of a source."""
    what = "labels" if source.multi_label else "classes"
    text = f"{shown}: {len(source):,} pictures in {len(source.classes)} {what}"
    if len(source.classes) <= CLASSES_ECHOED:
        text += " (" + ", ".join(f"{plain(name)} {num:,}" for name, num in sorted(source.classes.items())) + ")"
    if source.splits:
        text += "; splits " + ", ".join(f"{split} {num:,}" for split, num in sorted(source.splits.items()))
    return text + (f"; {extra}" if extra else "") + passed_over_text(source.passed_over)


# ---- files ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PictureFile:
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


def find_pictures(
    folder: str | os.PathLike[str], passed_over: Counter[str] | None = None
) -> Iterator[PictureFile]:
    """Walk a folder, sub-folders included, in a fixed order, and yield what is named like a picture.

    Links are never followed (nor read), devices, sockets and FIFOs never opened, hidden files and folders left
    alone; `passed_over` counts them by cause.
    """
    root = os.fsencode(folder)
    counts = Counter() if passed_over is None else passed_over
    waiting = [iter(_listed(root, b"", counts))]  # a stack, not recursion: a chain of folders may be very long
    while waiting:
        entry, name = next(waiting[-1], (None, b""))
        if entry is None:
            waiting.pop()
        elif entry.is_dir(follow_symlinks=False):
            waiting.append(iter(_listed(entry.path, name + b"/", counts)))
        else:
            yield PictureFile(Path(os.fsdecode(entry.path)), shown(name))


def _listed(folder: bytes, inside: bytes, passed_over: Counter[str]) -> list[tuple[os.DirEntry[bytes], bytes]]:
    """The sub-folders and pictures of one folder with their names relative to the root, sorted."""
    try:
        with os.scandir(folder) as listing:
            entries = sorted(listing, key=lambda entry: entry.name)
    except OSError as error:
        if not inside:
            raise UserError(f"{os.fsdecode(folder)}: cannot be listed: {error.strerror}") from None
        passed_over[f"folders that cannot be listed ({error.strerror})"] += 1
        return []
    causes = [(entry, _cause_to_pass_over(entry)) for entry in entries]
    passed_over.update(cause for _, cause in causes if cause)
    return [(entry, inside + entry.name) for entry, cause in causes if not cause]


def _cause_to_pass_over(entry: os.DirEntry[bytes]) -> str | None:
    if entry.name.startswith(b".") or entry.name == b"__MACOSX":
        return "hidden"
    if entry.is_symlink():
        return "links"
    if entry.is_dir(follow_symlinks=False):
        return None
    if not entry.is_file(follow_symlinks=False):
        return "devices, sockets and FIFOs"
    ending = os.path.splitext(os.fsdecode(entry.name).rstrip(". "))[1].lower()
    return None if ending in PICTURE_ENDINGS else "files of other kinds"


def shown(name: bytes) -> str:
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
        if status.st_size > MAX_PICTURE_BYTES:
            limit = MAX_PICTURE_BYTES // 1_000_000
            raise Rejected("bomb", f"a file of {status.st_size / 1e6:,.0f} MB; at most {limit} are read")
        return file.read()


# ---- one sub-folder a class ------------------------------------------------------------------------------------


class FolderSource:
    """A folder with one sub-folder a class, or train|val|test folders that each hold one sub-folder a class."""

    kind = "folder"
    multi_label = False

    def __init__(self, path: Path, *, to_learn: bool = True) -> None:
        self.path = path
        self.name = slug(path.resolve().name)
        self.passed_over: Counter[str] = Counter()
        self._files = list(find_pictures(path, self.passed_over))
        self.classes: Counter[str] = Counter()
        self.splits: Counter[str] = Counter()
        folders = _visible_folders(path)
        self._is_split = _are_splits(path, folders)
        for file in self._files:
            label, split = self._place(file.uri)
            self.classes.update([label] if label is not None else [])
            self.splits.update([split] if split is not None else [])
        self.problem = self._problem(folders)
        if to_learn and self.problem:
            raise UserError(self.problem)

    def __iter__(self) -> Iterator[SourcePicture]:
        for file in self._files:
            label, split = self._place(file.uri)
            yield SourcePicture(file.uri, label, None, split, file.read)

    def __len__(self) -> int:
        return len(self._files)

    def describe(self) -> str:
        return echo(self, str(self.path))

    def _place(self, uri: str) -> tuple[str | None, str | None]:
        """(label, split) of a picture by the folders above it."""
        parts = uri.split("/")[:-1]
        if not self._is_split:
            return (parts[0] if parts else None), None
        split = SPLIT_OF_FOLDER[parts[0].lower()] if parts else None
        return (parts[1] if len(parts) > 1 else None), split

    def _problem(self, folders: list[str]) -> str | None:
        """Why nothing can be learned from this folder, or None."""
        if not self._files:
            return (
                f"{self.path}: holds no pictures{passed_over_text(self.passed_over)}; "
                "give a folder that holds one sub-folder a class"
            )
        top = {file.uri.split("/")[0] for file in self._files}
        empty = [folder for folder in folders if folder not in top]
        if empty:
            return f"{self.path / empty[0]}: the class folder is empty: it holds no pictures; fill it or remove it"
        if not self.classes:
            return f"{self.path}: the pictures lie in no class folder; move them into one sub-folder a class"
        if len(self.classes) < 2:
            return (
                f"{self.path}: a single class '{next(iter(self.classes))}'; "
                f"at least two are needed to learn a difference{self._nested_hint(folders)}"
            )
        return None

    def _nested_hint(self, folders: list[str]) -> str:
        inner = self.path / folders[0] if len(folders) == 1 else None
        return f" (did you mean {inner}?)" if inner and len(_visible_folders(inner)) > 1 else ""


def _visible_folders(path: Path) -> list[str]:
    with os.scandir(os.fsencode(path)) as listing:
        return sorted(
            shown(entry.name)
            for entry in listing
            if entry.is_dir(follow_symlinks=False)
            and not entry.name.startswith(b".")
            and entry.name != b"__MACOSX"
        )


def _are_splits(path: Path, folders: list[str]) -> bool:
    """Whether every top folder is named like a split, one of them train, and holds folders itself."""
    splits = [SPLIT_OF_FOLDER.get(folder.lower()) for folder in folders]
    return "train" in splits and None not in splits and all(_visible_folders(path / folder) for folder in folders)


def passed_over_text(passed_over: Mapping[str, int]) -> str:
    """ ", passed over: ..." or nothing."""
    if not passed_over:
        return ""
    return "; passed over: " + ", ".join(f"{num:,} {cause}" for cause, num in sorted(passed_over.items()))
