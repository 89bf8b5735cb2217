"""Pictures that lie in no class folder, but have tables or documents of annotations beside them.

A source is read through them if exactly one table, or one for each split, clearly describes its pictures:
metadata.csv, _classes.csv, labels.csv, train.csv ..., or annotations of a known format. Otherwise the problem of
the source names what was found, and what to give instead.
"""

from __future__ import annotations

import posixpath
import shlex
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from imageset.rejections import escape_control_characters
from imageset.sources.annotated import AnnotatedSource, find_base
from imageset.sources.annotations.reader import FoundAnnotations, find_annotations, is_document_name
from imageset.sources.base import Source, slugify
from imageset.sources.described.contents import (
    Contents,
    Description,
    join_names,
    join_patterns,
    list_local_contents,
)
from imageset.sources.described.tables import find_tables
from imageset.sources.files import find_images
from imageset.sources.layouts.split_names import parse_split_name

# Folders that hold all pictures of a set, or of a split, and are no class.
_PICTURE_FOLDERS = frozenset(
    [
        *("images", "image", "imgs", "img", "pictures", "pics", "photos", "data", "jpegimages"),
        *("jpg", "jpeg", "png", "files", "media", "raw", "all", "dataset"),
    ]
)


class ClassFolders(Protocol):
    """A source of class folders: imageset.sources.folder or imageset.sources.archive."""

    problem: str | None
    classes: Counter[str]
    folders: Collection[str]
    is_unclear: bool


def may_be_described(source: ClassFolders, exists: Callable[[str], bool]) -> bool:
    """Return whether the pictures of a source may have their labels elsewhere than in the names of folders.

    Args:
        source: the source.
        exists: returns whether there is a folder of this name, relative to the source.
    """
    has_no_classes = source.problem is not None and bool(source.folders) and len(source.classes) < 2
    return has_no_classes or has_annotation_folders(source.folders, exists)


def open_described(contents: Contents, source: ClassFolders) -> Source | str:
    """Open pictures through the tables or annotations beside them.

    Args:
        contents: the files of the source.
        source: the same pictures as class folders.

    Returns:
        The source; or, if they are not clearly described, the problem with the way to go, or "".
    """
    only_annotations = not source.problem
    problem = source.problem or f"{contents.label}: the annotations in it cannot be read"
    problems: list[str] = []
    found = _find_descriptions(contents, problems, only_annotations=only_annotations)
    if not found and not problems:
        return source.problem or ""
    if "the class folder is empty" in problem:  # it holds the documents
        problem = f"{contents.label}: the pictures are in no class folder"
    if not found:
        problem = problem.partition(", or give the table that names them")[0]
        return f"{problem}; {problems[0].removeprefix(f'{contents.label}/')}"
    if len(found) == 1 and (not source.is_unclear or is_flat(contents.images)):
        return found[0].open()
    specs = " or ".join(shlex.quote(escape_control_characters(entry.spec)) for entry in found[:3])
    if len(found) > 1 and (only_annotations or is_flat(contents.images)):
        names = " and ".join(join_names(entry.documents) for entry in found[:3])
        return f"{contents.label}: {names} each describe the pictures; give one of them: {specs}"
    return f"{problem}; to take the labels from {join_names(found[0].documents)}: {specs}"


def open_table_by_images(path: Path) -> Source | None:
    """Open a table whose columns are not told by their names, by the images below its folder.

    Returns:
        The source; None if the values of no column, or of several, name these images.
    """
    images = [file.uri for file in find_images(path.parent)]
    contents = list_local_contents(path.parent, slugify(path.stem), images)
    documents = {name: file for name, file in contents.documents.items() if name == path.name}
    found = find_tables(replace(contents, documents=documents), [])
    return found[0].open() if len(found) == 1 else None


def _find_descriptions(
    contents: Contents, problems: list[str], *, only_annotations: bool = False
) -> list[Description]:
    found = [] if only_annotations else find_tables(contents, problems)
    sets = find_annotations(contents.label, contents.documents, contents.images, problems)
    opened = (_open_annotations(contents, entry, problems) for entry in sets)
    return [*found, *filter(None, opened)]


def hint_at_documents_beside(contents: Contents) -> str:
    """Return a hint at the table or document beside a folder that describes its pictures; "" if none does."""
    if not contents.documents or not is_flat(contents.images):
        return ""
    found = _find_descriptions(contents, [])
    if len(found) != 1:
        return ""
    spec = shlex.quote(escape_control_characters(found[0].spec))
    return f"; to take the labels from {join_names(found[0].documents)}: {spec}"


def is_flat(images: Sequence[str]) -> bool:
    """Return whether pictures lie in folders of splits, in folders for all pictures, or in a single folder."""
    kinds = set()
    for folder in {name.rpartition("/")[0] for name in images}:
        parts = [part for part in folder.split("/") if part and part.lower() not in _PICTURE_FOLDERS]
        kinds.add(tuple(part for part in parts if not parse_split_name(part)))
    return len(kinds) == 1


def has_annotation_folders(folders: Collection[str], exists: Callable[[str], bool]) -> bool:
    """Return whether folders are those of Pascal VOC or YOLO, which look like class folders but are none.

    Args:
        folders: the folders that hold pictures, relative to the source.
        exists: returns whether there is a folder of this name, relative to the source.
    """
    for folder in folders:
        above, _, name = folder.rpartition("/")
        if name == "JPEGImages" and exists(posixpath.join(above, "Annotations")):
            return True
        if folder.split("/")[0] == "images" and exists("labels"):
            return True
    return False


def open_document_folder(path: Path) -> Source | str | None:
    """Open a folder of documents, such as Annotations or labels, or a data.yaml, with the pictures beside it.

    Returns:
        The source; the problem; or None if it holds no documents of a known format.
    """
    base = find_base(path / "any") if path.is_dir() else path.parent
    inside = "" if base == path or not path.is_dir() else f"{path.name}/"
    images = [file.uri for file in find_images(base)]
    contents = list_local_contents(base, slugify(base.resolve().name), images)
    documents = {
        name: file
        for name, file in contents.documents.items()
        if name.startswith(inside) or not is_document_name(name)
    }
    problems: list[str] = []
    contents = replace(contents, documents=documents)
    found = [entry for entry in find_annotations(str(path), documents, images, problems)
             if path.is_dir() or entry.sets[0].format == "YOLO"]  # fmt: skip
    if len(found) > 1:
        names = " and ".join(join_names(entry.documents) for entry in found)
        return f"{path}: {names} each describe pictures; give one of them"
    opened = _open_annotations(contents, found[0], problems) if found else None
    if opened:
        return opened.open()
    return problems[0] if problems else None


def _open_annotations(contents: Contents, found: FoundAnnotations, problems: list[str]) -> Description | None:
    formats = ", ".join(dict.fromkeys(entry.format for entry in found.sets))
    source = AnnotatedSource(
        found.sets,
        contents.open_images(""),
        label=contents.label,
        name=contents.name,
        note=f"{formats}, labels from {join_names(found.documents)}",
        num_pictures=len(contents.images),
        require_classes=False,
    )
    if not source.num_found:
        problems.append(source.problem or "")
        return None
    first = found.documents[0]
    spec = join_patterns(found.documents) if is_document_name(first) else posixpath.dirname(first)
    return Description(found.documents, f"{contents.label}/{spec}", lambda: source)
