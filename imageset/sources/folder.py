"""Folders of images as a source: one sub-folder per class, perhaps within train, val and test folders.

Opening a source reads it once, cheaply, and either understands it (`describe()` tells how) or raises UserError.
Iterating over it yields SourceImages, always in the same order. A source is only read, never changed.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from imageset.exceptions import UserError
from imageset.sources.base import SourceImage, count_image, describe_source, format_passed_over, slugify
from imageset.sources.files import NamedFile, display_name, find_images, read_file
from imageset.sources.layouts import (
    LAYOUT_FILE_FOLDERS,
    LAYOUT_FILES,
    MAX_LAYOUT_FILE_BYTES,
    SPLIT_BY_FOLDER,
    detect_layout,
)


def open_folder(path: Path, *, require_classes: bool = True) -> FolderSource:
    """Open a folder, sub-folders included, as a source."""
    passed_over: Counter[str] = Counter()
    files = list(find_images(path, passed_over))
    name = slugify(path.resolve().name)
    return FolderSource(
        str(path), name, files, passed_over, _read_layout_files(path), path=path, require_classes=require_classes
    )


class FolderSource:
    """Images in one sub-folder per class, or in train|val|test folders that each hold one sub-folder per class.

    Args:
        label: name of the source in messages.
        name: slug that becomes the dataset's name.
        files: the images, each with `uri` and `read`, in a fixed order.
        passed_over: number of files that are not images, by cause.
        layout_files: content by name of the small text files in `imageset.sources.layouts.LAYOUT_FILES`.
        path: the folder itself if it is a local one; then empty class folders are a problem.
        require_classes: raise UserError if nothing can be learned from the source.
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
        require_classes: bool = True,
    ) -> None:
        self.label, self.name, self.passed_over = label, name, passed_over
        self.classes: Counter[str] = Counter()
        self.splits: Counter[str] = Counter()
        self._layout = detect_layout(label, [file.uri for file in files], layout_files, skip_common_folders=False)
        skip_cause = self._layout.skip_cause
        self._files = [file for file in files if count_image(self, self._layout.parse_path(file.uri), skip_cause)]
        self.problem = self._find_problem(path)
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
        return describe_source(self, self.label, self._layout.note)

    def _find_problem(self, path: Path | None) -> str | None:
        """Return why nothing can be learned from this folder, or None."""
        if not self._files:
            return (
                f"{self.label}: holds no pictures{format_passed_over(self.passed_over)}; "
                "give a folder that holds one sub-folder per class"
            )
        folders = _list_visible_folders(path) if path else []
        top = {file.uri.split("/")[0] for file in self._files}
        empty = [folder for folder in folders if folder not in top and not self._is_known(folder)]
        if empty:
            return (
                f"{self.label}/{empty[0]}: the class folder is empty: it holds no pictures; fill it or remove it"
            )
        if not self.classes:
            return (
                f"{self.label}: the pictures are in no class folder; move them into one sub-folder per class"
                f"{_hint_at_table(path)}"
            )
        if len(self.classes) < 2:
            return (
                f"{self.label}: a single class '{next(iter(self.classes))}'; "
                f"at least two are needed to learn a difference{_hint_at_nested_folder(path, folders)}"
            )
        return None

    def _is_known(self, folder: str) -> bool:
        """Return whether a folder without images is no class: it holds ImageNet's text files or skipped images."""
        passed_over = folder.lower() in SPLIT_BY_FOLDER and self.passed_over[self._layout.skip_cause]
        return bool(self._layout.note or passed_over)


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


def _hint_at_nested_folder(path: Path | None, folders: list[str]) -> str:
    inner = path / folders[0] if path and len(folders) == 1 else None
    return f" (did you mean {inner}?)" if inner and len(_list_visible_folders(inner)) > 1 else ""


def _hint_at_table(path: Path | None) -> str:
    extensions = (".csv", ".tsv", ".jsonl")
    tables = sorted(file for file in path.iterdir() if file.suffix.lower() in extensions) if path else []
    return f", or give the table that names them (did you mean {tables[0]}?)" if tables else ""


def _list_visible_folders(path: Path) -> list[str]:
    with os.scandir(os.fsencode(path)) as listing:
        return sorted(
            display_name(entry.name)
            for entry in listing
            if entry.is_dir(follow_symlinks=False)
            and not entry.name.startswith(b".")
            and entry.name != b"__MACOSX"
        )
