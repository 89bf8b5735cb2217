"""Export to FiftyOne: labels.json of a FiftyOneImageClassificationDataset, whose pictures are in data/ beside it.

The key of a label is the path of its picture below data/ without the ending. FiftyOne keeps it in its export, so
the names of the pictures hold the whole image_id. Guesses are in predictions.json, of the same form; labels_path=
of FiftyOne's importer loads it as a field of its own.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from flows.labeling.formats.rows import ExportRow, check_file_name
from imageset.exceptions import UserError
from imageset.utils.atomic_write import write_text

PICTURE_FOLDER, PREDICTIONS_FILE = "data", "predictions.json"


def write_fiftyone(path: Path, rows: Iterable[ExportRow]) -> None:
    """Write the labels of some pictures, and the guesses beside them.

    Args:
        path: the document, labels.json.
        rows: the pictures, in data/; the name of each holds its image_id.

    Raises:
        UserError: a picture is not in data/, or its name does not hold its image_id.
    """
    images = {_find_key(row): row for row in (ExportRow(*row) for row in rows)}
    classes = sorted({name for row in images.values() for name in row.labels})
    numbers = {name: number for number, name in enumerate(classes)}
    targets = {key: [numbers[name] for name in sorted(row.labels)] for key, row in images.items()}
    _write(path, classes, {key: named[0] if len(named) == 1 else named or None for key, named in targets.items()})
    predictions = {
        key: {"label": row.list_guesses()[0], "confidence": row.probability}
        for key, row in images.items()
        if len(row.list_guesses()) == 1  # a field of the importer holds one label
    }
    if predictions:
        _write(path.with_name(PREDICTIONS_FILE), None, predictions)


def _find_key(row: ExportRow) -> str:
    check_file_name(row)
    folder, _, name = row.path.partition("/")
    if folder != PICTURE_FOLDER or not name:
        raise UserError(
            f"{row.path}: FiftyOne looks for pictures in {PICTURE_FOLDER}/ beside labels.json; move it"
        )
    return os.path.splitext(name)[0]


def _write(path: Path, classes: list[str] | None, labels: Mapping[str, Any]) -> None:
    content = {"classes": classes, "labels": labels}
    write_text(path, json.dumps(content, ensure_ascii=False, indent=1) + "\n")
