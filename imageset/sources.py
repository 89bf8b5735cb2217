"""Where labelled pictures come from: folders, archives, tables, IDX and CIFAR files, by path, URL or name.

`open_source` looks at a source once, cheaply, and either understands it (`describe()` echoes what was understood)
or raises UserError. Iterating then yields one SourcePicture after another, always in the same order. A source is
only ever read.
"""

from __future__ import annotations

import os
import re
import stat
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote

from imageset.errors import UserError
from imageset.layouts import MAX_NOTE_BYTES, NOTE_FOLDERS, NOTES, SPLIT_OF_FOLDER, Place, understand
from imageset.progress import Progress
from imageset.quality import Rejected, plain
from imageset.words import count, count_kinds

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
ONE = {"files of other kinds": "file of another kind"}  # of what is passed over
CLASSES_ECHOED = 12  # no more are named one by one
# One picture must fit into one shard (see imageset.raw).
MAX_PICTURE_BYTES = 255_000_000


@dataclass(frozen=True, slots=True)
class SourcePicture:
    """One picture of a source, its bytes not yet read; `time` is when it was taken, UTC without a zone.

    `read()` returns the bytes; it raises Rejected("unreadable" | "bomb") when the file may not be read or is far
    too large, and OSError when reading fails in a way that trying again may cure.
    """

    uri: str
    label: str | None
    group: str | None
    split: str | None
    read: Callable[[], bytes] = field(repr=False, compare=False)
    time: datetime | None = None


class Source(Protocol):
    """What ingest needs to know about a source.

    Attributes:
        name: slug of the folder's (or the set's) name; becomes the dataset's name.
        kind: "folder", "archive", "table", "idx", "cifar", "public" or "digits".
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


def open_source(
    spec: str | os.PathLike[str], *, to_learn: bool = True, progress: Progress | None = None
) -> Source:
    """Understand a source by its path, its URL, or its name ("sklearn://digits", "torchvision://FashionMNIST").

    `to_learn=False` also takes what nothing can be learned from, such as a single class, in order to look at it.
    `progress` hears of what has to be fetched first.

    Raises:
        UserError: it does not exist, or nothing to learn from is in it.
        ConnectionError: a remote one does not answer, or breaks off again and again.
    """
    text = os.fspath(spec)
    if "://" in text:
        return _open_url(text, to_learn, progress)
    from imageset.tables import is_table, open_table

    if is_table(text):
        return open_table(text, to_learn=to_learn)
    path = Path(text).expanduser()
    if not path.exists():
        from imageset.several import is_pattern, open_pattern

        if is_pattern(text):
            return open_pattern(text, to_learn=to_learn)
        raise UserError(f"{text}: no such folder; give a folder that holds one sub-folder a class")
    return open_path(path, to_learn=to_learn)


def _open_url(text: str, to_learn: bool, progress: Progress | None) -> Source:
    if text.startswith("sklearn://"):
        from imageset.digits import open_digits

        return open_digits(text)
    if text.startswith("torchvision://"):
        from imageset.public import open_public

        return open_public(text)
    if text.startswith("file://"):
        path, _, said = text.removeprefix("file://").removeprefix("localhost").partition("?")
        if not path.startswith("/"):
            raise UserError(f"{text}: names another machine; a file here is file:///folder/name")
        return open_source(unquote(path) + (f"?{said}" if said else ""), to_learn=to_learn)
    from imageset.remote import open_remote

    return open_remote(text, to_learn=to_learn, progress=progress)


def open_path(path: Path, *, to_learn: bool = True) -> Source:
    """Understand a folder or a file of this machine that is no table."""
    from imageset.archives import is_archive, open_archive
    from imageset.cifar import find_cifar
    from imageset.idx import IdxSource, is_idx
    from imageset.several import open_several

    if is_idx(path):
        return IdxSource(path)
    if cifar := find_cifar(path):
        return cifar
    if is_archive(path):
        return open_archive(path, to_learn=to_learn)
    if not path.is_dir():
        raise UserError(
            f"{path}: not a folder; give a folder that holds one sub-folder a class, a zip or tar "
            "archive, a table (CSV, TSV, JSON lines, Parquet), or IDX or CIFAR files"
        )
    if not any(find_pictures(path)) and (several := open_several(path, to_learn=to_learn)):
        return several
    return open_folder(path, to_learn=to_learn)


def slug(name: str) -> str:
    """A name for a dataset or a model: lower case, digits and dashes ("My Flowers" -> "my-flowers")."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "dataset"


def counted(source: Source, place: Place | None, unplaced: str) -> bool:
    """Count a picture by its place; False where it is passed over."""
    if place is None:
        source.passed_over[unplaced] += 1
        return False
    source.classes.update([place.label] if place.label is not None else [])
    source.splits.update([place.split] if place.split is not None else [])
    return True


def echo(source: Source, shown: str, extra: str = "") -> str:
    """One line: what was understood of a source."""
    kinds = count_kinds(len(source.classes), source.multi_label)
    text = f"{shown}: {count(len(source), 'picture')} in {kinds}"
    if 0 < len(source.classes) <= CLASSES_ECHOED:
        text += " (" + ", ".join(f"{plain(name)} {num:,}" for name, num in sorted(source.classes.items())) + ")"
    if source.splits:
        text += "; splits " + ", ".join(f"{split} {num:,}" for split, num in sorted(source.splits.items()))
    return text + (f"; {extra}" if extra else "") + passed_over_text(source.passed_over)


# ---- files ----------------------------------------------------------------------------------------------------


class NamedFile(Protocol):
    """A file with its path relative to the source; `read()` gives its bytes and raises as SourcePicture says."""

    @property
    def uri(self) -> str: ...

    def read(self) -> bytes: ...


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
    folder: str | os.PathLike[str],
    passed_over: Counter[str] | None = None,
    endings: frozenset[str] = PICTURE_ENDINGS,
) -> Iterator[PictureFile]:
    """Walk a folder, sub-folders included, in a fixed order, and yield what is named like a picture.

    `endings` are those of pictures unless other files are looked for. Links are never followed (nor read),
    devices, sockets and FIFOs never opened, hidden files and folders left alone; `passed_over` counts them by
    cause.
    """
    root = os.fsencode(folder)
    counts = Counter() if passed_over is None else passed_over
    waiting = [
        iter(_listed(root, b"", counts, endings))
    ]  # a stack, not recursion: a chain of folders may be very long
    while waiting:
        entry, name = next(waiting[-1], (None, b""))
        if entry is None:
            waiting.pop()
        elif entry.is_dir(follow_symlinks=False):
            waiting.append(iter(_listed(entry.path, name + b"/", counts, endings)))
        else:
            yield PictureFile(Path(os.fsdecode(entry.path)), shown(name))


def _listed(
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
    causes = [(entry, _cause_to_pass_over(entry, endings)) for entry in entries]
    passed_over.update(cause for _, cause in causes if cause)
    return [(entry, inside + entry.name) for entry, cause in causes if not cause]


def _cause_to_pass_over(entry: os.DirEntry[bytes], endings: frozenset[str]) -> str | None:
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


def open_folder(path: Path, *, to_learn: bool = True) -> FolderSource:
    """The pictures of a folder, sub-folders included."""
    passed_over: Counter[str] = Counter()
    files = list(find_pictures(path, passed_over))
    name = slug(path.resolve().name)
    return FolderSource(str(path), name, files, passed_over, _notes(path), path=path, to_learn=to_learn)


class FolderSource:
    """Pictures in one sub-folder a class, or in train|val|test folders that each hold one sub-folder a class.

    Args:
        shown: what messages call it.
        files: its pictures, each with `uri` and `read`, in a fixed order.
        notes: small text files of it (imageset.layouts.NOTES).
        path: the folder itself where it is one of this machine; then empty class folders are complained about.
    """

    kind = "folder"
    multi_label = False

    def __init__(
        self,
        shown: str,
        name: str,
        files: Sequence[NamedFile],
        passed_over: Counter[str],
        notes: Mapping[str, bytes],
        *,
        path: Path | None = None,
        to_learn: bool = True,
    ) -> None:
        self.shown, self.name, self.passed_over = shown, name, passed_over
        self.classes: Counter[str] = Counter()
        self.splits: Counter[str] = Counter()
        self._layout = understand(shown, [file.uri for file in files], notes, skip_common=False)
        unplaced = self._layout.unplaced
        self._files = [file for file in files if counted(self, self._layout.place(file.uri), unplaced)]
        self.problem = self._problem(path)
        if to_learn and self.problem:
            raise UserError(self.problem)

    def __iter__(self) -> Iterator[SourcePicture]:
        for file in self._files:
            label, split = self._layout.place(file.uri) or (None, None)
            yield SourcePicture(file.uri, label, None, split, file.read)

    def __len__(self) -> int:
        return len(self._files)

    def describe(self) -> str:
        return echo(self, self.shown, self._layout.note)

    def _problem(self, path: Path | None) -> str | None:
        """Why nothing can be learned from this folder, or None."""
        if not self._files:
            return (
                f"{self.shown}: holds no pictures{passed_over_text(self.passed_over)}; "
                "give a folder that holds one sub-folder a class"
            )
        folders = _visible_folders(path) if path else []
        top = {file.uri.split("/")[0] for file in self._files}
        empty = [folder for folder in folders if folder not in top and not self._is_known(folder)]
        if empty:
            return (
                f"{self.shown}/{empty[0]}: the class folder is empty: it holds no pictures; fill it or remove it"
            )
        if not self.classes:
            return (
                f"{self.shown}: the pictures lie in no class folder; move them into one sub-folder a class"
                f"{_table_hint(path)}"
            )
        if len(self.classes) < 2:
            return (
                f"{self.shown}: a single class '{next(iter(self.classes))}'; "
                f"at least two are needed to learn a difference{_nested_hint(path, folders)}"
            )
        return None

    def _is_known(self, folder: str) -> bool:
        """Whether a folder without pictures is no class: ImageNet's notes lie in it, or pictures passed over."""
        passed_over = folder.lower() in SPLIT_OF_FOLDER and self.passed_over[self._layout.unplaced]
        return bool(self._layout.note or passed_over)


def _notes(path: Path) -> dict[str, bytes]:
    """The small text files of a folder that tell its layout."""
    notes = {}
    for note in NOTES:
        for folder in NOTE_FOLDERS:
            file = path / folder / note
            if note in notes or file.is_symlink() or not file.is_file():
                continue
            if file.stat().st_size <= MAX_NOTE_BYTES:
                notes[note] = read_file(file)
    return notes


def _nested_hint(path: Path | None, folders: list[str]) -> str:
    inner = path / folders[0] if path and len(folders) == 1 else None
    return f" (did you mean {inner}?)" if inner and len(_visible_folders(inner)) > 1 else ""


def _table_hint(path: Path | None) -> str:
    endings = (".csv", ".tsv", ".jsonl")
    tables = sorted(file for file in path.iterdir() if file.suffix.lower() in endings) if path else []
    return f", or give the table that names them (did you mean {tables[0]}?)" if tables else ""


def _visible_folders(path: Path) -> list[str]:
    with os.scandir(os.fsencode(path)) as listing:
        return sorted(
            shown(entry.name)
            for entry in listing
            if entry.is_dir(follow_symlinks=False)
            and not entry.name.startswith(b".")
            and entry.name != b"__MACOSX"
        )


def passed_over_text(passed_over: Mapping[str, int]) -> str:
    """ ", passed over: ..." or nothing."""
    if not passed_over:
        return ""
    said = (count(num, ONE.get(cause, cause), cause) for cause, num in sorted(passed_over.items()))
    return "; passed over: " + ", ".join(said)
