"""CVAT for images 1.1: one XML document, an element <image> for each picture with its tags and shapes below.

Format: https://docs.cvat.ai/docs/other/xml_format. If there are tags at all, they are the labels; otherwise the
labels of the shapes are. The name of a picture holds the image_id if `flows.labeling` has written it.
"""

from __future__ import annotations

from pathlib import Path

from imageset.exceptions import UserError
from imageset.sources.annotations.annotation import (
    Annotation,
    AnnotationSet,
    clean_labels,
    find_image_id,
    guess_split,
)
from imageset.sources.annotations.xml_documents import iter_children


def parse_cvat(path: Path) -> AnnotationSet:
    """Parse a document.

    Raises:
        UserError: it is for video, or a name is missing.
    """
    found: list[tuple[str, str, set[str], set[str]]] = []  # name, subset, tags, labels of shapes
    for element in iter_children(path):
        if element.tag == "track":
            raise UserError(f"{path}: a CVAT export for video; export it as 'CVAT for images 1.1'")
        if element.tag != "image":
            continue
        name = element.get("name", "")
        if not name.strip():
            raise UserError(f"{path}: image number {len(found)} has no name; export it again")
        tags: set[str] = set()
        shapes: set[str] = set()
        for child in element:
            label = child.get("label")
            if label is None:
                raise UserError(f"{path}: image '{name}': a {child.tag} has no label; export it again")
            (tags if child.tag == "tag" else shapes).add(label)
        found.append((name, element.get("subset", ""), tags, shapes))
    has_tags = any(tags for _, _, tags, _ in found)
    annotations = [
        Annotation(
            name,
            clean_labels(tags if has_tags else shapes),
            find_image_id(name),
            split=guess_split(subset),
            other_paths=(f"images/{name}", f"images/{subset}/{name}"),
        )
        for name, subset, tags, shapes in found
    ]
    num_shapes = sum(bool(shapes) for _, _, _, shapes in found) if has_tags else 0
    notes = (f"the shapes in {num_shapes:,} pictures are not read, as there are tags",) if num_shapes else ()
    return AnnotationSet("CVAT", "tags" if has_tags else "boxes", annotations, notes=notes)
