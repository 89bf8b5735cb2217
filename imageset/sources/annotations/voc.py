"""Pascal VOC: Annotations/*.xml, one for each picture in JPEGImages/, and ImageSets/Main/*.txt for the splits.

Format: the development kit of http://host.robots.ox.ac.uk/pascal/VOC. Documents beside their pictures are read,
too.
"""

from __future__ import annotations

import posixpath
from collections.abc import Mapping, Sequence
from pathlib import Path

from imageset.exceptions import UserError
from imageset.sources.annotations.annotation import Annotation, AnnotationSet, clean_labels, guess_split
from imageset.sources.annotations.xml_documents import iter_children, read_root_tag

DOCUMENT_FOLDER, PICTURE_FOLDER = "annotations", "JPEGImages"
ROOT_TAG = "annotation"
_SPLIT_LISTS = {"trainval": "train", "train": "train", "val": "val", "test": "test"}  # the later ones win


def parse_voc(documents: Mapping[str, Path], names: Sequence[str]) -> AnnotationSet:
    """Parse the documents of one source.

    Args:
        documents: location by name, relative to the source, of its documents, the lists of splits included.
        names: the XML documents among them.

    Raises:
        UserError: a document is damaged.
    """
    splits = {folder: _read_splits(documents, folder) for folder in {_find_top(name) for name in names}}
    annotations = []
    for name in names:
        top, (stem, _) = _find_top(name), posixpath.splitext(posixpath.basename(name))
        file_name, labels = _parse_document(documents[name])
        folder = posixpath.join(top, *_find_inside(name))
        file_name = posixpath.basename(file_name.replace("\\", "/")) or stem
        annotations.append(
            Annotation(
                posixpath.join(folder, file_name),
                labels,
                split=splits[top].get(stem) or (None if splits[top] else guess_split(posixpath.dirname(name))),
                other_paths=(posixpath.join(folder, stem), file_name, stem),
            )
        )
    return AnnotationSet("Pascal VOC", "boxes", annotations)


def _find_top(name: str) -> str:
    """Return the folder that holds Annotations, or the document."""
    parts = posixpath.dirname(name).split("/")
    return "/".join(parts[: _find_position(parts)])


def _find_inside(name: str) -> list[str]:
    """Return the path of the folder of a document's picture below the folder that `_find_top` returns."""
    parts = posixpath.dirname(name).split("/")
    inside = parts[_find_position(parts) :]
    return [PICTURE_FOLDER, *inside[1:]] if inside else []


def _find_position(parts: list[str]) -> int:
    lower = [part.lower() for part in parts]
    return len(parts) - 1 - lower[::-1].index(DOCUMENT_FOLDER) if DOCUMENT_FOLDER in lower else len(parts)


def _parse_document(path: Path) -> tuple[str, tuple[str, ...]]:
    """Return (name of the picture or "", its labels)."""
    file_name, labels = "", []
    if (tag := read_root_tag(path)) != ROOT_TAG:
        raise UserError(f"{path}: begins with <{tag[:40]}>, not <{ROOT_TAG}> as the files beside it; move it away")
    for element in iter_children(path):
        if element.tag == "filename":
            file_name = (element.text or "").strip()
        elif element.tag == "object":
            name = (element.findtext("name") or "").strip()
            if not name:
                raise UserError(f"{path}: an object has no name; export it again")
            labels.append(name)
    return file_name, clean_labels(labels)


def _read_splits(documents: Mapping[str, Path], top: str) -> dict[str, str]:
    """Return the split by the stem of each picture that a list of ImageSets/Main names."""
    splits: dict[str, str] = {}
    for list_name, split in _SPLIT_LISTS.items():
        path = documents.get(posixpath.join(top, "ImageSets", "Main", f"{list_name}.txt"))
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path else []
        splits |= {line.split()[0]: split for line in lines if line.strip()}
    return splits
