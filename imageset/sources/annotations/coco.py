"""COCO: one JSON document with the lists images, annotations and categories.

Format: https://cocodataset.org/#format-data. The labels of a picture are the categories of its annotations.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from imageset.sources.annotations.annotation import Annotation, AnnotationSet, clean_labels, find_image_id
from imageset.sources.annotations.json_documents import JsonValue


def is_coco(document: JsonValue) -> bool:
    """Return whether a JSON document looks like COCO's."""
    data = document.data
    return isinstance(data, dict) and isinstance(data.get("images"), list) and "labels" not in data


def parse_coco(document: JsonValue) -> AnnotationSet:
    """Parse a document.

    Raises:
        UserError: it holds no categories, or a value is missing or wrong.
    """
    if not document.get("categories").data:
        raise document.fail(
            "COCO without categories, which names no classes; give a file of boxes: instances_*.json"
        )
    names = {item.require("id").to_key(): item.require("name").to_name()
             for item in document.require("categories").iter_items()}  # fmt: skip
    labels: dict[str | int, set[str]] = {}
    images = list(document.require("images").iter_items())
    for image in images:
        key = image.require("id")
        if key.to_key() in labels:
            raise key.fail(f"two pictures have the id {key.data}; export the file again")
        labels[key.to_key()] = set()
    listed = document.require("annotations")
    for number, item in enumerate(listed.require_kind(list)):
        image_key, category = _find_keys(item)
        if image_key not in labels or category not in names:  # wrong, or of a kind that must be looked at
            image_key, category = _parse_keys(listed.get_item(number), labels, names)
        labels[image_key].add(names[category])
    annotations = []
    for image in images:
        path = image.require("file_name").to_text()
        annotations.append(
            Annotation(path, clean_labels(labels[image.require("id").to_key()]), find_image_id(path))
        )
    return AnnotationSet("COCO", "boxes", annotations)


def _find_keys(item: Any) -> tuple[Any, Any]:
    """Return the keys of an annotation's picture and category quickly; None for anything unusual."""
    if type(item) is not dict:
        return None, None
    keys = item.get("image_id"), item.get("category_id")
    return keys if type(keys[0]) in (int, str) and type(keys[1]) in (int, str) else (None, None)


def _parse_keys(
    item: JsonValue, labels: Mapping[str | int, object], names: Mapping[str | int, str]
) -> tuple[str | int, str | int]:
    """Return the keys of an annotation's picture and category.

    Raises:
        UserError: one is missing or unknown.
    """
    image_key, category = item.require("image_id"), item.require("category_id")
    if image_key.to_key() not in labels:
        raise image_key.fail(f"no picture has the id {image_key.data!r}; export the file again")
    if category.to_key() not in names:
        raise category.fail(f"no category has the id {category.data!r}; export the file again")
    return image_key.to_key(), category.to_key()
