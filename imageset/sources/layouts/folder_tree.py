"""The folders of a source as a tree, built from the names of its pictures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence

from imageset.sources.layouts.split_names import parse_split_name

MAX_DEPTH = 5  # deeper folders are counted with the one above them; no layout looks further down

Folders = tuple[str, ...]


class FolderNode:
    """A folder: the pictures directly in it, those at or below it, and its sub-folders that hold pictures."""

    __slots__ = ("children", "depth", "num", "total")

    def __init__(self) -> None:
        self.num = self.total = 0
        self.depth = 0  # number of levels of folders below it
        self.children: dict[str, FolderNode] = {}

    def add(self, path: Folders, num: int) -> None:
        """Count the pictures of a folder at a path below this one."""
        node = self
        for position, name in enumerate(path[:MAX_DEPTH]):
            node.total += num
            node.depth = max(node.depth, len(path) - position)
            node = node.children.setdefault(name, FolderNode())
        node.total += num
        node.num += num


class FolderTree:
    """The folders of a source without those that are ignored or around all pictures.

    Args:
        names: POSIX paths of the pictures.
        ignore: folders that are left out: names, or paths of several levels; see `find_ignored`.
        skip_common_folders: leave out the folders around all pictures, such as an archive's own top folder.

    Attributes:
        root: the top folder.
        num_common, common: the folders left out because they are around all pictures.
        ignored_by_folder: the entry of `ignore` that leaves a folder out, or None.
        ignored: by each entry of `ignore`, the number of its pictures.
    """

    def __init__(self, names: Sequence[str], ignore: Collection[str], skip_common_folders: bool) -> None:
        self._names = names
        num_by_folder = Counter(name.rpartition("/")[0] for name in names)
        self.ignored_by_folder: dict[str, str | None] = {}
        if ignore:
            self.ignored_by_folder = {folder: find_ignored(folder, ignore) for folder in num_by_folder}
        paths = {
            folder: tuple(folder.split("/")) if folder else ()
            for folder in num_by_folder
            if not self.ignored_by_folder.get(folder)
        }
        self.num_common = _count_common_folders(list(paths.values())) if skip_common_folders else 0
        self.common = next(iter(paths.values()), ())[: self.num_common]
        self.root = FolderNode()
        self.folders = {folder: path[self.num_common :] for folder, path in paths.items()}
        for folder, path in self.folders.items():
            self.root.add(path, num_by_folder[folder])
        self.ignored = Counter(dict.fromkeys(ignore, 0))
        for folder, entry in self.ignored_by_folder.items():
            self.ignored.update({entry: num_by_folder[folder]} if entry else {})

    def is_copy(self, path: Folders, classes: Collection[str]) -> bool:
        """Return whether a folder repeats, by the names of its files, whole classes that are beside it."""
        mine = {_cut_to_class(parts, classes) for parts in self._iter_files() if parts[: len(path)] == path}
        copied = {parts[0] for parts in mine}
        others = (
            _cut_to_class(parts, classes)
            for parts in self._iter_files()
            if parts[: len(path)] != path and parts[: len(path) - 1] == path[:-1]
        )
        return copied <= set(classes) and mine == {parts for parts in others if parts[0] in copied}

    def _iter_files(self) -> Iterator[Folders]:
        """Yield the path of each picture that is not ignored."""
        for name in self._names:
            folder, _, file = name.rpartition("/")
            if folder in self.folders:
                yield (*self.folders[folder], file)


def find_ignored(folder: str, ignore: Collection[str]) -> str | None:
    """Return the entry that names a folder or one above it, or None.

    An entry is a folder's name or a path of several levels, at any level; from the top if it begins with a slash.
    """
    for entry in ignore:
        if f"/{folder}/".startswith(f"{entry}/") if entry.startswith("/") else f"/{entry}/" in f"/{folder}/":
            return entry
    return None


def _cut_to_class(parts: Folders, classes: Collection[str]) -> Folders:
    """Return a path from its first folder that is a class on; the whole path if there is none."""
    start = next((position for position, part in enumerate(parts[:-1]) if part in classes), 0)
    return parts[start:]


def _count_common_folders(folders: Sequence[Folders]) -> int:
    """Return how many folders are around all images and hold no image themselves; a folder train is none."""
    num = 0
    while folders and all(len(path) > num + 1 for path in folders) and len({path[num] for path in folders}) == 1:
        split = parse_split_name(folders[0][num])
        if split and split.split == "train" and not split.affix:
            break
        num += 1
    return num
