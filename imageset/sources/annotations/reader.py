"""The formats of annotations: recognize a document, or the documents of a folder, and read them."""

from __future__ import annotations

import os
import posixpath
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from imageset.exceptions import UserError
from imageset.sources.annotations.annotation import AnnotationSet, guess_split
from imageset.sources.annotations.coco import is_coco, parse_coco
from imageset.sources.annotations.cvat import parse_cvat
from imageset.sources.annotations.fiftyone import is_fiftyone, parse_fiftyone
from imageset.sources.annotations.json_documents import read_json
from imageset.sources.annotations.label_studio import is_label_studio, parse_label_studio
from imageset.sources.annotations.voc import ROOT_TAG as VOC_ROOT_TAG
from imageset.sources.annotations.voc import parse_voc
from imageset.sources.annotations.xml_documents import read_root_tag
from imageset.sources.annotations.yolo import is_name_list, is_yolo_name, parse_yolo
from imageset.sources.files import find_images
from imageset.sources.layouts.split_names import group_by_split

DOCUMENT_EXTENSIONS = (".json", ".xml")
ALL_EXTENSIONS = frozenset({*DOCUMENT_EXTENSIONS, ".txt", ".yaml", ".yml", ".names", ".labels"})
KNOWN_FORMATS = "COCO, CVAT for images 1.1, FiftyOne, Label Studio, Pascal VOC or YOLO"
# Folders of documents beside that of the pictures, in lower case.
DOCUMENT_FOLDERS = frozenset({"annotations", "annotation", "labels"})
_MAX_JSON_DOCUMENTS = 100  # of one source; more of them are not one document for all pictures


@dataclass(frozen=True, slots=True)
class FoundAnnotations:
    """Documents that belong together, and their annotations.

    Attributes:
        documents: their names relative to the source; of YOLO and Pascal VOC, the folders that hold them.
        sets: their annotations.
    """

    documents: tuple[str, ...]
    sets: tuple[AnnotationSet, ...]


def is_document_name(name: str) -> bool:
    """Return whether a file is named like a document that holds the annotations of many pictures."""
    return name.lower().endswith(DOCUMENT_EXTENSIONS)


def read_annotations(
    path: str | os.PathLike[str],
    question: str | None = None,
) -> Iterator[tuple[str | None, str | None, tuple[str, ...], str | None, datetime | None]]:
    """Read the labels of pictures from a document, or a folder, of any of the formats.

    Args:
        path: the document, or the folder that holds documents of one kind.
        question: of a document, as in `read_document`.

    Yields:
        (path of the picture or None, its image_id or None, the sorted names of its labels, the annotator or None,
        the time in UTC without a zone or None), once for each picture and annotator. No labels mean that the
        picture is still to be labelled; but, with an annotator or a time, that a person found none of the labels.

    Raises:
        UserError: it is of no known format, or damaged.
    """
    path = Path(path)
    if path.is_dir():
        documents = {file.uri: file.path for file in find_images(path, extensions=ALL_EXTENSIONS)}
        pictures = [file.uri for file in find_images(path)]
        problems: list[str] = []
        found = find_annotations(str(path), documents, pictures, problems)
        if len(found) != 1:
            names = " and ".join(", ".join(entry.documents) for entry in found)
            if found:
                raise UserError(f"{path}: holds several sets of annotations ({names}); give one of them")
            nothing = f"{path}: holds no annotations of {KNOWN_FORMATS}; give the folder or the file that does"
            raise UserError(problems[0] if problems else nothing)
        sets: Sequence[AnnotationSet] = found[0].sets
    else:
        sets = [read_document(path, question)]
    for entry in sets:
        for annotation in entry.annotations:
            yield annotation.picture, annotation.image_id, annotation.labels, annotation.annotator, annotation.time


def read_document(path: Path, question: str | None = None) -> AnnotationSet:
    """Read one document with the annotations of many pictures.

    Args:
        path: the document.
        question: the question whose answers are the labels, where a format has several; None: there is only one.

    Raises:
        UserError: it is of no known format, or damaged.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; give a document of {KNOWN_FORMATS}")
    found = _read_json_document(path, question) if path.suffix.lower() == ".json" else _read_xml_document(path)
    if found is None:
        raise UserError(
            f"{path}: not a document of {KNOWN_FORMATS}; convert it to one, or to a table (CSV, JSON lines)"
        )
    return found


def _read_json_document(path: Path, question: str | None) -> AnnotationSet | None:
    document = read_json(path)
    if is_label_studio(document):
        return parse_label_studio(document, question)
    if question is not None:
        raise UserError(f"{path}: ?label= chooses a question of Label Studio; this file has none: leave it out")
    if is_coco(document):
        return parse_coco(document)
    return parse_fiftyone(document) if is_fiftyone(document) else None


def _read_xml_document(path: Path) -> AnnotationSet | None:
    tag = read_root_tag(path)
    if tag == VOC_ROOT_TAG:
        raise UserError(f"{path}: the annotation of one picture, as of Pascal VOC; give the folder {path.parent}")
    return parse_cvat(path) if tag == "annotations" else None


def find_annotations(
    label: str, documents: Mapping[str, Path], pictures: Sequence[str], problems: list[str]
) -> list[FoundAnnotations]:
    """Find the annotations among the documents of a source.

    Args:
        label: name of the source in messages.
        documents: location by name, relative to the source, of its files with ALL_EXTENSIONS.
        pictures: paths of its pictures, relative to the source.
        problems: collects why documents of a known format are not used.
    """
    found: list[FoundAnnotations] = []
    by_folder: defaultdict[str, list[str]] = defaultdict(list)  # of the XML documents
    for name in sorted(documents):
        if name.lower().endswith(".xml"):
            by_folder[posixpath.dirname(name)].append(name)
    sets: dict[str, AnnotationSet] = {}
    voc_names: list[str] = []
    for names in by_folder.values():
        tag = _try(problems, read_root_tag, documents[names[0]])
        if tag == VOC_ROOT_TAG:
            voc_names += names
        elif tag == "annotations":
            sets |= {name: entry for name in names if (entry := _try(problems, parse_cvat, documents[name]))}
    if voc_names and (voc := _try(problems, parse_voc, documents, voc_names)):
        found.append(FoundAnnotations(_list_folders(voc_names), (voc,)))
    json_names = [name for name in sorted(documents) if name.lower().endswith(".json")]
    if len(json_names) > _MAX_JSON_DOCUMENTS:
        problems.append(
            f"{len(json_names):,} JSON documents, one a picture, are of no known format; convert them to one of "
            f"{KNOWN_FORMATS}"
        )
        json_names = []
    for name in json_names:
        if entry := _try(problems, _read_json_document, documents[name], None):
            sets[name] = entry
    found += _group(sets)
    stems = frozenset(os.path.splitext(name)[0] for name in pictures)
    yolo_names = _find_yolo_names(documents, stems)
    if yolo_names and (yolo := _try(problems, parse_yolo, label, documents, stems)):
        found.append(FoundAnnotations(_list_folders(yolo_names), (yolo,)))
    return found


def _try(problems: list[str], function, *arguments):  # type: ignore[no-untyped-def]
    """Call a function; None if it raises UserError, whose message is collected."""
    try:
        return function(*arguments)
    except UserError as error:
        problems.append(str(error))
        return None


def _group(sets: Mapping[str, AnnotationSet]) -> list[FoundAnnotations]:
    """Group documents of one format that differ by the names of splits only."""
    found = []
    by_format: defaultdict[str, list[str]] = defaultdict(list)
    for name, entry in sets.items():
        by_format[entry.format].append(name)
    for format, names in by_format.items():
        groups = group_by_split(names)
        instances = [group for group in groups if posixpath.basename(group[0]).startswith("instances")]
        if format == "COCO" and len(instances) == 1:  # the others are keypoints and such of the same pictures
            groups = instances
        for group in groups:
            placed = tuple(_place(name, sets[name], len(group)) for name in group)
            found.append(FoundAnnotations(tuple(group), placed))
    return found


def _place(name: str, entry: AnnotationSet, num_documents: int) -> AnnotationSet:
    folder = posixpath.dirname(name)
    if folder.rpartition("/")[2].lower() in DOCUMENT_FOLDERS:
        folder = posixpath.dirname(folder)
    return locate(entry, name, folder, num_documents)


def locate(entry: AnnotationSet, name: str, folder: str, num_documents: int) -> AnnotationSet:
    """Return the annotations of a document with its folder and, if it is one of several, the split of its name."""
    split = guess_split(name, with_other_words=True) if num_documents > 1 else None
    return replace(entry, folder=folder, split=split)


def _list_folders(names: Sequence[str]) -> tuple[str, ...]:
    return tuple(
        dict.fromkeys(f"{posixpath.dirname(name)}/*{posixpath.splitext(name)[1]}".lstrip("/") for name in names)
    )


def _find_yolo_names(documents: Mapping[str, Path], stems: frozenset[str]) -> list[str]:
    """Return the label files of YOLO; those beside their pictures only if a file names the classes."""
    names = [name for name in sorted(documents) if is_yolo_name(name)]
    if not names and any(map(is_name_list, documents)):
        names = [name for name in sorted(documents) if name.endswith(".txt") and name[:-4] in stems]
    return names
