"""Export to CVAT: a document of "CVAT for images 1.1" with a tag for each label.

A tool's export is matched by the names of the pictures, which therefore hold the whole image_id. CVAT has no place
for guesses; they are not written, since a tag would be taken for a label.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from flows.labeling.formats.rows import ExportRow, check_file_name
from imageset.exceptions import UserError
from imageset.rejections import escape_control_characters
from imageset.utils.atomic_write import write_text

_NOT_IN_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")


def write_cvat(path: Path, rows: Iterable[ExportRow]) -> None:
    """Write the labels of some pictures as XML.

    Args:
        path: the document.
        rows: the pictures; the name of each holds its image_id.

    Raises:
        UserError: the name of a picture does not hold its image_id, or a label cannot be written.
    """
    root = Element("annotations")
    SubElement(root, "version").text = "1.1"
    images = [ExportRow(*row) for row in rows]
    for text in (text for row in images for text in (row.path, *row.labels)):
        if _NOT_IN_XML.search(text):
            raise UserError(
                f"{escape_control_characters(text)}: holds a control character, which XML cannot; rename it"
            )
    labels = SubElement(SubElement(SubElement(root, "meta"), "task"), "labels")
    for name in sorted({label for row in images for label in row.labels}):
        SubElement(SubElement(labels, "label"), "name").text = name
    for number, row in enumerate(images):
        check_file_name(row)
        image = SubElement(root, "image", {"id": str(number), "name": row.path})
        for label in sorted(row.labels):
            SubElement(image, "tag", {"label": label, "source": "manual"})
    indent(root, " ")
    write_text(path, '<?xml version="1.0" encoding="utf-8"?>\n' + tostring(root, encoding="unicode") + "\n")
