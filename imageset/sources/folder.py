"""Folders of images as a source: one sub-folder per class, perhaps within train, val and test folders.

Opening a source reads it once, cheaply, and either understands it (`describe()` tells how) or raises UserError.
Iterating over it yields SourceImages, always in the same order. A source is only read, never changed.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

from imageset.exceptions import UserError
from imageset.rejections import escape_control_characters
from imageset.sources.base import (
    SourceImage,
    count_image,
    describe_nameless,
    describe_source,
    format_passed_over,
    slugify,
)
from imageset.sources.files import Links, NamedFile, display_name, find_images, find_system_cause, read_file
from imageset.sources.layouts.class_folders import MAX_FOLDERS_NAMED
from imageset.sources.layouts.detection import LAYOUT_FILE_FOLDERS, LAYOUT_FILES, detect_layout
from imageset.sources.layouts.folder_tree import MAX_DEPTH, find_ignored
from imageset.sources.layouts.imagenet import MAX_LAYOUT_FILE_BYTES
from imageset.sources.layouts.layout import Layout
from imageset.sources.layouts.options import NO_OPTIONS, FolderOptions
from imageset.sources.layouts.problems import describe_linked_class, hint_at_lower_folders
from imageset.utils.text import format_count


def open_folder(path: Path, *, require_classes: bool = True, options: FolderOptions = NO_OPTIONS) -> FolderSource:
    """Open a folder, sub-folders included, as a source."""
    passed_over: Counter[str] = Counter()
    links = Links()
    nameless: Counter[str] = Counter()
    files = list(find_images(path, passed_over, links=links, nameless=nameless))
    return FolderSource(
        str(path),
        slugify(path.resolve().name),
        files,
        passed_over,
        _read_layout_files(path),
        path=path,
        links=links,
        num_nameless=nameless.total(),
        options=options,
        require_classes=require_classes,
    )


class FolderSource:
    """Images in one sub-folder per class, or in train|val|test folders that each hold one sub-folder per class.

    Args:
        label: name of the source in messages.
        name: slug that becomes the dataset's name.
        files: the images, each with `uri` and `read`, in a fixed order.
        passed_over: number of files that are not images, by cause.
        layout_files: content by name of the small text files in `imageset.sources.layouts.LAYOUT_FILES`.
        path: the folder itself if it is a local one; its empty class folders are named.
        links: the links that are passed over; those in place of class folders are a problem.
        num_nameless: number of the images that were found by their content, since they have no ending.
        options: decisions of the user about the folders.
        require_classes: raise UserError if nothing can be learned from the source.

    Attributes:
        folders: the folders that hold pictures, relative to the source.
        is_unclear: whether the folders can be understood in several ways.
    """

    kind = "folder"
    multi_label = False

    def __init__(
        self,
        label: str,
        name: str,
        files: Sequence[NamedFile],
        passed_over: Counter[str],
        layout_files: Mapping[str, bytes],
        *,
        path: Path | None = None,
        links: Links | None = None,
        num_nameless: int = 0,
        options: FolderOptions = NO_OPTIONS,
        require_classes: bool = True,
    ) -> None:
        self.label, self.name, self.passed_over = label, name, passed_over
        self.classes: Counter[str] = Counter()
        self.splits: Counter[str] = Counter()
        links, self._num_nameless = links or Links(), num_nameless
        folders = _list_visible_folders(path) if path else []
        self._layout = detect_layout(
            label,
            [file.uri for file in files],
            layout_files,
            skip_common_folders=False,
            options=options,
            other_folders={*folders, *links.folders, *links.pictures},
        )
        parse_path, find_skip_cause = self._layout.parse_path, self._layout.find_skip_cause
        self._files = [
            file for file in files if count_image(self, parse_path(file.uri), find_skip_cause, file.uri)
        ]
        self._all_files = files
        filled = {file.uri.rpartition("/")[0] for file in files}
        self.folders: Collection[str] = filled
        self._empty = _find_empty_folders(path, filled, self._layout, options) if path else []
        self.is_unclear = self._layout.problem is not None
        self.problem = self._find_problem(path, filled, links, options)
        num = len(self._empty)
        noun = format_count(num, "folder holds", "folders hold")
        self.warnings: Sequence[str] = (
            [f"{noun} no pictures: {_join(self._empty)}"] if num and not self.problem else []
        )
        if require_classes and self.problem:
            raise UserError(self.problem)

    def __iter__(self) -> Iterator[SourceImage]:
        for file in self._files:
            label, split = self._layout.parse_path(file.uri) or (None, None)
            yield SourceImage(file.uri, label, None, split, file.read)

    def __len__(self) -> int:
        return len(self._files)

    def describe(self) -> str:
        """Return one line that describes the source as it was understood."""
        notes = [self._layout.note, *self.warnings, describe_nameless(self._num_nameless)]
        return describe_source(self, self.label, "; ".join(filter(None, notes)))

    def list_uris(self) -> list[str]:
        """Return the paths of all pictures, those that are passed over included."""
        return [file.uri for file in self._all_files]

    def _find_problem(
        self, path: Path | None, folders: Collection[str], links: Links, options: FolderOptions
    ) -> str | None:
        """Return why nothing can be learned from this folder, or None."""
        if linked := describe_linked_class(self.label, links, self._layout, folders, options):
            return linked
        if not self._files:
            return (
                f"{self.label}: holds no pictures{format_passed_over(self.passed_over)}; "
                "give a folder that holds one sub-folder per class"
            )
        if self._layout.problem:
            return self._layout.problem + _hint_at_table(path)
        if self._empty and len(self.classes) < 2:
            return (
                f"{self.label}/{self._empty[0]}: the class folder is empty: it holds no pictures; "
                "fill it or remove it"
            )
        if not self.classes and options.level:
            return f"{self.label}: no picture lies {options.level} levels of folders deep; give another level="
        if not self.classes:
            return (
                f"{self.label}: the pictures are in no class folder; move them into one sub-folder per class"
                f"{_hint_at_table(path)}{_hint_at_backslashes(self._files)}"
            )
        if len(self.classes) < 2:
            return (
                f"{self.label}: a single class '{next(iter(self.classes))}'; "
                f"at least two are needed to learn a difference"
                f"{self._hint_at_lower_folders(folders, options)}"
            )
        return None

    def _hint_at_lower_folders(self, folders: Collection[str], options: FolderOptions) -> str:
        paths = [folder.split("/") for folder in folders]
        if len({path[0] for path in paths}) == 1 and len({path[1] for path in paths if len(path) > 1}) > 1:
            return f" (did you mean {self.label}/{escape_control_characters(paths[0][0])}?)"
        return hint_at_lower_folders(self.label, folders, self._layout, options)


def _read_layout_files(path: Path) -> dict[str, bytes]:
    """Read the small text files of a folder that define its layout."""
    contents = {}
    for name in LAYOUT_FILES:
        for folder in LAYOUT_FILE_FOLDERS:
            file = path / folder / name
            if name in contents or file.is_symlink() or not file.is_file():
                continue
            if file.stat().st_size <= MAX_LAYOUT_FILE_BYTES:
                contents[name] = read_file(file)
    return contents


def _find_empty_folders(path: Path, folders: Collection[str], layout: Layout, options: FolderOptions) -> list[str]:
    """Return the folders at the level of the classes, and above it, that hold no pictures."""
    filled = {
        "/".join(parts[:num])
        for parts in (folder.split("/") for folder in folders)
        for num in range(1, min(len(parts), MAX_DEPTH) + 1)
    }
    empty, pending = [], _list_visible_folders(path)
    while pending:
        folder = pending.pop(0)
        depth = layout.find_class_depth(folder)
        if not depth or find_ignored(folder, options.ignore):
            continue
        if folder not in filled:
            empty.append(folder)
        elif folder.count("/") + 1 < depth:
            pending += [f"{folder}/{name}" for name in _list_visible_folders(path / folder)]
    return empty


def _hint_at_backslashes(files: Sequence[NamedFile]) -> str:
    if not all("\\" in file.uri for file in files):
        return ""
    return "; the names hold backslashes, as of a zip file made on Windows: give the zip file itself"


def _join(names: Sequence[str]) -> str:
    shown = ", ".join(map(escape_control_characters, names[:MAX_FOLDERS_NAMED]))
    return shown + (f" and {len(names) - MAX_FOLDERS_NAMED:,} more" if len(names) > MAX_FOLDERS_NAMED else "")


def _hint_at_table(path: Path | None) -> str:
    """Return a hint at the first table in the folder, or in a folder below it; or ""."""
    for folder in (
        [path, *(path / name for name in _list_visible_folders(path)[:MAX_FOLDERS_NAMED])] if path else ()
    ):
        tables = sorted(file for file in folder.iterdir() if file.suffix.lower() in (".csv", ".tsv", ".jsonl"))
        if tables:
            return f", or give the table that names them (did you mean {tables[0]}?)"
    return ""


def _list_visible_folders(path: Path) -> list[str]:
    try:
        with os.scandir(os.fsencode(path)) as listing:
            return sorted(
                display_name(entry.name)
                for entry in listing
                if entry.is_dir(follow_symlinks=False) and not find_system_cause(os.fsdecode(entry.name))
            )
    except OSError:  # no permission, or a name that is not UTF-8 and is shown otherwise
        return []
