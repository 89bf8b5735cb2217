"""YOLO's labels of boxes: labels/*.txt beside images/, a line for each box that begins with the number of a class.

Format: https://docs.ultralytics.com/datasets/detect. The names of the classes are in data.yaml, or one a line in
classes.txt. Label files beside their pictures, as Darknet wants them, are read, too.
"""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from imageset.exceptions import UserError
from imageset.sources.annotations.annotation import Annotation, AnnotationSet, clean_labels, guess_split

_NAME_LISTS = ("classes.txt", "obj.names", "_darknet.labels")
_MAX_BYTES = 10_000_000  # of one text file


def is_yolo_name(name: str) -> bool:
    """Return whether a file is named like one of YOLO's label files: a text in a folder labels."""
    folder, _, base = name.rpartition("/")
    return base.endswith(".txt") and base not in _NAME_LISTS and "labels" in folder.split("/")


def is_name_list(name: str) -> bool:
    """Return whether a file is named like a list of classes."""
    return posixpath.basename(name) in _NAME_LISTS or name.lower().endswith((".yaml", ".yml"))


def parse_yolo(label: str, documents: Mapping[str, Path], pictures: frozenset[str]) -> AnnotationSet:
    """Parse the label files of a source.

    Args:
        label: name of the source in messages.
        documents: location by name, relative to the source, of its text and YAML files.
        pictures: paths of the pictures, relative to the source and without their endings.

    Raises:
        UserError: no file names the classes, or a label file is wrong.
    """
    names, splits = _read_names(label, documents)
    annotations = []
    for name in sorted(documents):
        picture = _find_picture(name, pictures)
        if picture is None:
            continue
        labels = clean_labels(_parse_labels(documents[name], names))
        split = splits.get(picture) or guess_split(posixpath.dirname(name))
        annotations.append(Annotation(picture, labels, split=split))
    return AnnotationSet("YOLO", "boxes", annotations, has_endings=False)


def _find_picture(name: str, pictures: frozenset[str]) -> str | None:
    """Return the path without an ending of the picture of a label file, or None if the file is no label file."""
    stem = name.removesuffix(".txt")
    if is_yolo_name(name):
        parts = stem.split("/")
        last = len(parts) - 1 - parts[::-1].index("labels")
        return "/".join([*parts[:last], "images", *parts[last + 1 :]])
    return stem if name.endswith(".txt") and stem in pictures else None


def _parse_labels(path: Path, names: Mapping[int, str]) -> list[str]:
    labels = []
    for number, line in enumerate(_read_text(path).splitlines(), start=1):
        words = line.split()
        if not words:
            continue
        if len(words) < 5 or not words[0].isdigit():
            raise UserError(f"{path}: line {number} is no box: a class's number and at least 4 numbers; "
                            "write it as YOLO does, or remove it")  # fmt: skip
        if len(words[0]) > 9 or int(words[0]) not in names:
            raise UserError(f"{path}: line {number}: no class has the number {words[0][:20]} (there are "
                            f"{len(names)}); add its name to data.yaml or classes.txt")  # fmt: skip
        labels.append(names[int(words[0])])
    return labels


def _read_names(label: str, documents: Mapping[str, Path]) -> tuple[dict[int, str], dict[str, str]]:
    """Return (class name by number, split by picture without an ending)."""
    for name in sorted(documents, key=lambda name: (name.count("/"), name)):
        path = documents[name]
        if name.lower().endswith((".yaml", ".yml")) and (fields := _read_yaml(path)).get("names"):
            splits = _read_split_lists(fields, name, documents)
            return _parse_names(path, fields["names"]), splits
    for name in sorted(documents, key=lambda name: (name.count("/"), name)):
        if posixpath.basename(name) in _NAME_LISTS:
            lines = [line.strip() for line in _read_text(documents[name]).splitlines()]
            return {number: line for number, line in enumerate(lines) if line}, {}
    raise UserError(
        f"{label}: label files as of YOLO, but no data.yaml and no classes.txt that names the classes; "
        "write classes.txt with one class a line"
    )


def _parse_names(path: Path, names: Any) -> dict[int, str]:
    pairs = (
        list(enumerate(names))
        if isinstance(names, list)
        else list(names.items())
        if isinstance(names, dict)
        else []
    )
    if not pairs or not all(
        isinstance(number, int) and isinstance(name, (str, int)) and not isinstance(name, bool)
        for number, name in pairs
    ):
        raise UserError(
            f"{path}: names must be a list of classes, or their names by number; write names: [cat, dog]"
        )
    return {number: str(name) for number, name in pairs}


def _read_split_lists(fields: Mapping[str, Any], name: str, documents: Mapping[str, Path]) -> dict[str, str]:
    """Return the split by picture, without an ending, of the lists of pictures that a data.yaml names."""
    folder, splits = posixpath.dirname(name), {}
    for split in ("train", "val", "test"):
        value = fields.get(split)
        list_name = posixpath.normpath(posixpath.join(folder, value)) if isinstance(value, str) else ""
        if not list_name.endswith(".txt") or list_name not in documents:
            continue
        for line in _read_text(documents[list_name]).splitlines():
            path = line.strip().replace("\\", "/")
            if path.startswith("/") and "/images/" in path:
                path = "images/" + path.rpartition("/images/")[2]
            splits[posixpath.splitext(posixpath.normpath(posixpath.join(folder, path)))[0]] = split
    return splits


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(_read_text(path))
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise UserError(f"{path}: not readable as YAML: {' '.join(str(error).split())[:200]}; mend it") from None
    return content if isinstance(content, dict) else {}


def _read_text(path: Path) -> str:
    try:
        if path.stat().st_size > _MAX_BYTES:
            limit = _MAX_BYTES // 1_000_000
            raise UserError(f"{path}: more than {limit} MB, too much for a file of labels or classes; remove it")
        return path.read_text(encoding="utf-8-sig", errors="replace")
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
