"""The labelling tools that a review can be exported to, each with the document that it imports."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from flows.labeling.formats.cvat import write_cvat
from flows.labeling.formats.fiftyone import write_fiftyone
from flows.labeling.formats.label_studio import write_label_studio
from flows.labeling.formats.rows import ExportRow

DOCUMENTS = {"label-studio": "tasks.json", "cvat": "annotations.xml", "fiftyone": "labels.json"}


def write_document(tool: str, folder: Path, rows: Sequence[ExportRow], model: str) -> None:
    """Write the document of a labelling tool.

    Args:
        tool: a key of DOCUMENTS.
        folder: the folder of the document; the paths of the pictures are relative to it.
        rows: the pictures.
        model: name of the model that the guesses are from.
    """
    path = folder / DOCUMENTS[tool]
    if tool == "label-studio":
        write_label_studio(path, rows, model=model)
    elif tool == "cvat":
        write_cvat(path, rows)
    else:
        write_fiftyone(path, rows)
