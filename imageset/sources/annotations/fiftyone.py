"""FiftyOne: data/ and labels.json of a FiftyOneImageClassificationDataset.

Format: https://docs.voxel51.com. The key of a label is the path of the picture below data/ without its ending; it
holds the image_id if `flows.labeling` has written it.
"""

from __future__ import annotations

from imageset.sources.annotations.annotation import Annotation, AnnotationSet, clean_labels, find_image_id
from imageset.sources.annotations.json_documents import JsonValue


def is_fiftyone(document: JsonValue) -> bool:
    """Return whether a JSON document looks like FiftyOne's labels.json."""
    data = document.data
    return isinstance(data, dict) and isinstance(data.get("labels"), dict) and not data.get("images")


def parse_fiftyone(document: JsonValue) -> AnnotationSet:
    """Parse a document.

    Raises:
        UserError: a value is missing or wrong.
    """
    listed = document.get("classes")
    classes = [] if listed.data is None else [item.to_name() for item in listed.iter_items()]
    annotations = []
    labels = document.require("labels")
    for key in labels.require_kind(dict):
        names = clean_labels(_parse_target(labels.get(key), classes))
        annotations.append(Annotation(f"data/{key}", names, find_image_id(key), other_paths=(key,)))
    return AnnotationSet("FiftyOne", "labels", annotations, has_endings=False)


def _parse_target(target: JsonValue, classes: list[str]) -> list[str]:
    """Return the names of a target: null, a class's number or name, an object with a label, or a list of these."""
    if target.data is None:
        return []
    if isinstance(target.data, list):
        return [name for item in target.iter_items() for name in _parse_target(item, classes)]
    if isinstance(target.data, dict):
        return _parse_target(target.get("label"), classes)
    if not target.is_whole or not classes:
        return [target.to_name()]
    if not 0 <= target.data < len(classes):
        raise target.fail(
            f"no class has the number {target.data} (there are {len(classes)}); export the file again"
        )
    return [classes[int(target.data)]]
