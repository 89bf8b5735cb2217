"""COCO: one JSON document with the lists images, annotations and categories.

Format: https://cocodataset.org/#format-data. The labels of a picture are the categories of its annotations.
"""

from __future__ import annotations

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
    for item in document.require("annotations").iter_items():
        image_key, category = item.require("image_id"), item.require("category_id")
        if image_key.to_key() not in labels:
            raise image_key.fail(f"no picture has the id {image_key.data!r}; export the file again")
        if category.to_key() not in names:
            raise category.fail(f"no category has the id {category.data!r}; export the file again")
        labels[image_key.to_key()].add(names[category.to_key()])
    annotations = []
    for image in images:
        path = image.require("file_name").to_text()
        annotations.append(
            Annotation(path, clean_labels(labels[image.require("id").to_key()]), find_image_id(path))
        )
    return AnnotationSet("COCO", "boxes", annotations)
