"""Paths of images as tables hold them: of other systems, of other machines, or of another folder.

A path that exists below the folder is used as it is. Only for the others the folder is listed, once, and a path is
repaired if exactly one file fits. No file outside the folder is ever looked for.
"""

from __future__ import annotations

import errno
import os
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, Protocol
from urllib.parse import unquote

from imageset.exceptions import UserError
from imageset.rejections import Rejected, escape_control_characters
from imageset.sources.files import IMAGE_EXTENSIONS, find_system_cause, read_file
from imageset.sources.layouts.split_names import parse_split_name
from imageset.utils.text import format_count, unescape_cell
from imageset.utils.url_credentials import MASK, mask_url

BLANKS, BACKSLASHES = "blanks around them removed", "backslashes read as slashes"
PERCENT_SIGNS, CASE = "percent signs decoded", "found in another case or Unicode form"
APOSTROPHE = "an apostrophe before a sign of formulas left out"
ENDING, FOLDER, BEGINNING = "an ending added", "found by name in a folder below", "their beginning left out"
# Errors that depend on the path alone, so that trying again does not help.
_NO_FILE = {
    errno.ENOENT: "no such file",
    errno.ENOTDIR: "no such file",
    errno.EISDIR: "no such file",
    errno.ENXIO: "no such file",
    errno.EINVAL: "no such file",
    errno.ENAMETOOLONG: "no such file; the name is longer than the disk allows",
    errno.ELOOP: "links lead in a circle",
}
_MAX_PATH_LENGTH = 4096  # of Linux; the search for a part of a path takes long for a very long one
_MAX_FOLDERS = 2000  # that are compared for one document
_ABSOLUTE = re.compile(r"^(?:[A-Za-z]:)?/")


class FoundPath(NamedTuple):
    """A file that a path of a table stands for.

    Attributes:
        name: its path relative to the folder, with slashes.
        repairs: the repairs that were needed, of the constants above.
    """

    name: str
    repairs: tuple[str, ...]


class ImageFolder(Protocol):
    """The folder that a table's paths are relative to."""

    def exists(self, name: str) -> bool:
        """Return whether there is a file of this path, inside the folder."""
        ...

    def list_names(self) -> list[str]:
        """Return the paths of all files, with slashes; empty if they cannot be listed."""
        ...

    def read(self, name: str) -> bytes:
        """Read a file; see SourceImage for what it raises."""
        ...


class LocalFolder:
    """A folder on this machine."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._root = folder, os.path.join(folder, "")
        self._real_root = os.path.realpath(folder)
        self._names_by_folder: dict[str, frozenset[str]] = {}  # of the folders that were asked for
        self._real_folders: dict[str, str] = {}  # likewise; "" for one outside

    def exists(self, name: str) -> bool:
        """Return whether there is a file of this path, inside the folder; each folder is listed only once."""
        folder, slash, base = name.rpartition("/")
        folder = folder or slash
        names = self._names_by_folder.get(folder)
        if names is None:
            names = self._names_by_folder[folder] = self._list_files(folder)
        return base in names

    def _list_files(self, folder: str) -> frozenset[str]:
        try:
            real_folder = self._find_real_folder(folder) if folder[:1] == "/" or ".." in folder else "inside"
            if not real_folder:
                return frozenset()
            with os.scandir(os.path.join(self._root, folder)) as listing:
                return frozenset(entry.name for entry in listing if not _is_folder(entry))
        except (OSError, ValueError):  # ValueError: a null character
            return frozenset()

    def list_names(self) -> list[str]:
        """Return the paths of all files but hidden ones, with slashes."""
        names = []
        for folder, folders, files in os.walk(self._root):
            folders[:] = sorted(name for name in folders if not find_system_cause(name))
            inside = os.path.join(folder, "")[len(self._root) :]
            names += [inside + file for file in sorted(files) if not file.startswith(".")]
        return names

    def read(self, name: str) -> bytes:
        """Read a file below the folder.

        Raises:
            Rejected: the path is outside the folder, or does not exist.
        """
        try:
            path = self._find_real_path(name)
            if not path:
                raise Rejected("unreadable", "is outside the table's folder")
            return read_file(Path(path))
        except ValueError:  # a null character
            raise Rejected("unreadable", "no such file") from None
        except OSError as error:
            if error.errno in _NO_FILE:
                raise Rejected("unreadable", _NO_FILE[error.errno]) from None
            raise

    def _find_real_path(self, name: str) -> str:
        """Return a path without links, or "" if it is outside."""
        folder, slash, base = name.rpartition("/")
        real_folder = self._find_real_folder(folder or slash)
        path = os.path.join(real_folder, base)
        if real_folder and (base in ("", ".", "..") or os.path.islink(path)):
            return self._keep_inside(os.path.realpath(path))
        return real_folder and path

    def _find_real_folder(self, folder: str) -> str:
        """Return a folder without links, or "" if it is outside; each folder is looked at only once."""
        real_folder = self._real_folders.get(folder)
        if real_folder is None:
            real_folder = self._keep_inside(os.path.realpath(os.path.join(self._root, folder)))
            self._real_folders[folder] = real_folder
        return real_folder

    def _keep_inside(self, path: str) -> str:
        """Return a path without links if it is inside the folder, else ""."""
        is_inside = path == self._real_root or path.startswith(os.path.join(self._real_root, ""))
        return path if is_inside else ""


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # links that lead in a circle
        return False


class RemoteFolder:
    """A folder behind a URL.

    Args:
        read: reads a file by its path relative to the folder, or by a URL below it.
        list_names: lists the files; None, or a function that returns None, if they cannot be listed.
        root: folder below it that the paths are relative to.
    """

    def __init__(
        self,
        read: Callable[[str], bytes],
        list_names: Callable[[], Iterable[str] | None] | None = None,
        root: str = "",
    ) -> None:
        self._read, self._list_names = read, list_names
        root = root.strip("/")
        self._prefix = f"{root}/" if root not in ("", ".") else ""

    def exists(self, name: str) -> bool:
        """Return whether there is a file of this path; where that is not known, True unless the path looks odd."""
        if self._listed is None or "://" in name:
            return "\\" not in name and name == name.strip() and not name.startswith("./")
        return name in self._listed

    def list_names(self) -> list[str]:
        """Return the paths of all files, or an empty list if they cannot be listed."""
        return list(self._listed or ())

    def read(self, name: str) -> bytes:
        """Read a file."""
        return self._read(name if "://" in name else self._prefix + name)

    @cached_property
    def _listed(self) -> dict[str, None] | None:
        names = self._list_names() if self._list_names else None
        if names is None:
            return None
        return {name[len(self._prefix) :]: None for name in names if name.startswith(self._prefix)}


class ImagePaths:
    """The files of one folder, as the paths of a table name them.

    Args:
        folder: the folder; no file outside it is found.
        ending: an ending that is added to paths without one, such as ".png"; "" adds none.
        is_root_given: whether the user named the folder; then paths upwards from another folder are cut, too.

    Attributes:
        may_cut: whether the first folders of a path may be left out.
    """

    def __init__(self, folder: ImageFolder, ending: str = "", *, is_root_given: bool = False) -> None:
        self.read = folder.read
        self._is_root_given = is_root_given
        self.may_cut = True
        self._exists, self._list_names, self._ending = folder.exists, folder.list_names, ending

    def find(self, name: str) -> FoundPath | None:
        """Return the file that a path stands for, or None if there is none, or more than one."""
        name = self._add_ending(name) if self._ending else name
        if len(name) > _MAX_PATH_LENGTH:
            return None
        if self._exists(name):
            return FoundPath(name, ())
        if "://" in name:
            return None
        readings = list(_iter_readings(name))
        for find in (self._find_whole, self._find_end, self._find_bare):
            for text, repairs in readings:
                if found := find(text, repairs):
                    return found
        return None

    def explain(self, name: str) -> str:
        """Return why no file was found for a path, and what would help."""
        if "://" in name:
            return "a URL: only files below the table's folder are read"
        text = _simplify(self._add_ending(name))
        base = text.rpartition("/")[2]
        hint = f"?root=FOLDER names {'another' if self._is_root_given else 'the'} folder of the pictures"
        matches = self._find_by_base(base)
        if len(matches) > 1:
            return f"no such file; {len(matches)} files have that name, such as {matches[0]} and {matches[1]}"
        near = f"; {escape_control_characters(matches[0])} has that name" if matches else ""
        if matches and not self.may_cut:
            near += ", but paths of several folders end so"
        if _ABSOLUTE.match(text):
            return f"is outside the table's folder, as if from another machine or folder{near}; {hint}"
        if ".." in text.split("/"):
            return f"is outside the table's folder, in a folder above it{near}; {hint}"
        if not os.path.splitext(base)[1]:
            return f"no such file, and the path has no ending{near}; ?ending=.png adds one, {hint}"
        return f"no such file{near}; {hint}"

    def _add_ending(self, name: str) -> str:
        has_ending = os.path.splitext(name.strip())[1].lower() in IMAGE_EXTENSIONS
        return name if has_ending else name.strip() + self._ending

    def _find_whole(self, text: str, repairs: tuple[str, ...]) -> FoundPath | None:
        return None if _ABSOLUTE.match(text) else self._find_relative("/".join(_split(text)), repairs)

    def _find_end(self, text: str, repairs: tuple[str, ...]) -> FoundPath | None:
        """Find a path without its first folders; of a relative path, at least one folder must be left."""
        parts = _split(text)
        num_upwards = parts.count("..")  # all of them are at the beginning
        is_absolute = _ABSOLUTE.match(text) is not None
        if not self.may_cut or (num_upwards and not self._is_root_given):
            return None
        first = num_upwards or (0 if text[:1] == "/" else 1)
        ends = range(first, len(parts) - (0 if is_absolute or num_upwards == len(parts) - 1 else 1))
        found = (self._find_relative("/".join(parts[start:]), (*repairs, BEGINNING)) for start in ends)
        return next(filter(None, found), None)

    def _find_bare(self, text: str, repairs: tuple[str, ...]) -> FoundPath | None:
        """Find a path that is only a name in the folders below."""
        parts = _split(text)
        matches = self._find_by_base(parts[0]) if len(parts) == 1 and not _ABSOLUTE.match(text) else []
        if len(matches) != 1:
            return None
        has_ending = _fold(matches[0].rpartition("/")[2]) == _fold(parts[0])
        return FoundPath(matches[0], (*repairs, *(() if has_ending else (ENDING,)), FOLDER))

    def _find_relative(self, text: str, repairs: tuple[str, ...]) -> FoundPath | None:
        if self._exists(text):
            return FoundPath(text, repairs)
        matches = self._names.get(_fold(text), [])
        if len(matches) == 1:
            return FoundPath(matches[0], (*repairs, CASE))
        matches = [] if matches else self._names_by_stem.get(_fold(text), [])
        return FoundPath(matches[0], (*repairs, ENDING)) if len(matches) == 1 else None

    def _find_by_base(self, base: str) -> list[str]:
        """Return the files of a name in any folder; if there is none, those of the name with an ending."""
        return self._names_by_base.get(_fold(base), []) or self._names_by_base_stem.get(_fold(base), [])

    # The listing, and the indices over it, are made when the first path needs them.

    @cached_property
    def listing(self) -> list[str]:
        """The paths of all files; empty if they cannot be listed."""
        return self._list_names()

    @cached_property
    def _images(self) -> list[str]:
        return [name for name in self.listing if os.path.splitext(name)[1].lower() in IMAGE_EXTENSIONS]

    @cached_property
    def _names(self) -> dict[str, list[str]]:
        return _index(self.listing, str)

    @cached_property
    def _names_by_stem(self) -> dict[str, list[str]]:
        return _index(self._images, lambda name: os.path.splitext(name)[0])

    @cached_property
    def _names_by_base(self) -> dict[str, list[str]]:
        return _index(self.listing, lambda name: name.rpartition("/")[2])

    @cached_property
    def _names_by_base_stem(self) -> dict[str, list[str]]:
        return _index(self._images, lambda name: os.path.splitext(name.rpartition("/")[2])[0])


class PathSurvey:
    """The repairs that a table's paths need, for the description of the source.

    Args:
        iter_paths: starts again at the first path and yields (files of its folder, path).
        usual: repairs that are not worth a word in this kind of source.

    Attributes:
        num_paths, num_missing: number of all paths, and of those without a file.
        missing_example: the first path without a file, and why there is none; or "".
    """

    def __init__(
        self, iter_paths: Callable[[], Iterable[tuple[ImagePaths, str]]], usual: Collection[str] = ()
    ) -> None:
        self._iter_paths, self._usual = iter_paths, frozenset(usual)
        self._count()
        if self._texts_by_cut_path and self._is_cut_ambiguous():
            for paths, _ in iter_paths():
                paths.may_cut = False
            self._count()

    def _count(self) -> None:
        self.num_paths = self.num_missing = self._num_repaired = 0
        self._repairs: Counter[str] = Counter()
        self._example = self.missing_example = ""
        self._texts_by_cut_path: dict[str, set[int]] = {}  # file -> hashes of the paths that stand for it
        for paths, name in self._iter_paths():
            found = paths.find(name)
            self.num_paths += 1
            if found is None:
                self.num_missing += 1
                self.missing_example = self.missing_example or f"'{show_path(name)}': {paths.explain(name)}"
            elif repairs := [repair for repair in found.repairs if repair not in self._usual]:
                self._num_repaired += 1
                self._repairs.update(repairs)
                self._example = self._example or f"'{show_path(name)}' is {escape_control_characters(found.name)}"
                if BEGINNING in found.repairs:
                    self._texts_by_cut_path.setdefault(found.name, set()).add(hash(_simplify(name)))

    def _is_cut_ambiguous(self) -> bool:
        """Return whether several paths stand for one file once their first folders are left out."""
        if any(len(texts) > 1 for texts in self._texts_by_cut_path.values()):
            return True
        found = (paths.find(name) for paths, name in self._iter_paths())
        return any(
            path is not None and BEGINNING not in path.repairs and path.name in self._texts_by_cut_path
            for path in found
        )

    def describe(self) -> str:
        """Return the repairs, and the paths without a file, in one clause each, or ""."""
        clauses = []
        if self._num_repaired:
            repairs = ", ".join(f"{repair} {num:,}" for repair, num in self._repairs.items())
            clauses.append(f"{format_count(self._num_repaired, 'path')} repaired ({repairs}): {self._example}")
        if self.num_missing:
            clauses.append(
                f"{self.num_missing:,} of {format_count(self.num_paths, 'path has', 'paths have')} no file: "
                f"{self.missing_example}"
            )
        return "; ".join(clauses)


def choose_folder(files: Sequence[str], paths: Collection[str], own: str, split: str | None) -> str:
    """Return the folder that a document's paths are relative to: its own, or another in which they exist.

    Another one is chosen only if no second folder holds half as many of the paths; that of the document's split
    takes precedence. For a document in a folder without pictures, its own is the next one above that has some.

    Args:
        files: paths of all files, relative to the source.
        paths: some paths of the document, with or without endings.
        own: the folder of the document, relative to the source.
        split: the split that the document's name gives, or None.
    """
    known = {*files, *(os.path.splitext(name)[0] for name in files)}
    if any(f"{own}/{path}".lstrip("/") in known for path in paths):
        return own
    counts = Counter(
        {
            folder: sum(f"{folder}/{path}".lstrip("/") in known for path in paths)
            for folder in _list_folders(files)[:_MAX_FOLDERS]
        }
    )
    of_split = [folder for folder in counts if counts[folder] and split and guess_split_of_folder(folder) == split]
    best = max(of_split or counts, key=counts.__getitem__, default=own)
    others = max((num for folder, num in counts.items() if folder != best), default=0)
    is_clear = bool(of_split) or 2 * others < counts[best]
    if counts[best] and is_clear:
        return best
    while own and not any(name.startswith(f"{own}/") for name in files):  # a folder of tables alone
        own = own.rpartition("/")[0]
    return own


def _list_folders(files: Iterable[str]) -> list[str]:
    """Return the folders of files, and those above them, the upper ones first."""
    folders = set()
    for folder in {name.rpartition("/")[0] for name in files}:
        parts = folder.split("/")
        folders |= {"/".join(parts[:num]) for num in range(len(parts) + 1)}
    return sorted(folders, key=lambda folder: (folder.count("/"), folder))


def guess_split_of_folder(folder: str) -> str | None:
    """Return the split that the last part of a folder's path that is named like one gives, or None."""
    return next((split.split for part in reversed(folder.split("/")) if (split := parse_split_name(part))), None)


def guess_split_of_image(name: str) -> str | None:
    """Return the split that the last folder named like one in an image's path gives, or None."""
    return guess_split_of_folder(name.rpartition("/")[0])


def are_splits(splits: Collection[str | None]) -> bool:
    """Return whether the splits of some images' folders divide them: all are in one, and some are for training."""
    return None not in splits and "train" in splits and len(splits) > 1


def show_path(name: str) -> str:
    """Return a path for a terminal; a URL without its credentials."""
    try:
        return escape_control_characters(mask_url(name))
    except UserError:
        return MASK


def _iter_readings(name: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield (path, repairs): without blanks, with slashes for backslashes, and with percent signs decoded."""
    text, repairs = name.strip(), (() if name == name.strip() else (BLANKS,))
    if "\\" in text:
        text, repairs = text.replace("\\", "/"), (*repairs, BACKSLASHES)
    yield text, repairs
    if (unescaped := unescape_cell(text)) != text:
        yield unescaped, (*repairs, APOSTROPHE)
    if "%" in text and (decoded := unquote(text)) != text:
        yield decoded, (*repairs, PERCENT_SIGNS)


def _simplify(name: str) -> str:
    """Return a path without blanks around it and with slashes."""
    return name.strip().replace("\\", "/")


def _split(text: str) -> list[str]:
    """Return the folders and the name in a path, with "a/../b" read as "b"."""
    parts: list[str] = []
    for part in text.split("/"):
        if part == ".." and parts and parts[-1] != "..":
            parts.pop()
        elif part not in ("", "."):
            parts.append(part)
    return parts


def _index(names: Iterable[str], key: Callable[[str], str]) -> dict[str, list[str]]:
    index: defaultdict[str, list[str]] = defaultdict(list)
    for name in names:
        index[_fold(key(name))].append(name)
    return dict(index)


def _fold(text: str) -> str:
    return text.casefold() if text.isascii() else unicodedata.normalize("NFC", text).casefold()
