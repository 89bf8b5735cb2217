"""Export to Label Studio: a list of tasks, with the labels as annotations and the guesses as predictions.

Pictures are served from local files: Label Studio's local storage must lead to the folder of the document, with
LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT set to it. The image_id is in a task's data and meta, which every export
keeps. The labelling interface needs Choices called `label` for an Image called `image`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from flows.labeling.formats.rows import ExportRow
from imageset.utils.atomic_write import write_text

QUESTION, PICTURE = "label", "image"


def write_label_studio(path: Path, rows: Iterable[ExportRow], *, model: str = "") -> None:
    """Write the tasks of some pictures as JSON.

    Args:
        path: the document.
        rows: the pictures.
        model: name of the model that the guesses are from.
    """
    tasks = [_build_task(ExportRow(*row), model) for row in rows]
    write_text(path, json.dumps(tasks, ensure_ascii=False, indent=1) + "\n")


def _build_task(row: ExportRow, model: str) -> dict[str, Any]:
    task: dict[str, Any] = {
        "data": {PICTURE: f"/data/local-files/?d={quote(row.path)}", "image_id": row.image_id},
        "meta": {"image_id": row.image_id},
    }
    if row.labels:
        task["annotations"] = [{"result": _build_result(sorted(row.labels))}]
    if guesses := row.list_guesses():
        prediction: dict[str, Any] = {"model_version": model, "result": _build_result(guesses)}
        task["predictions"] = [prediction | ({} if row.probability is None else {"score": row.probability})]
    return task


def _build_result(labels: Sequence[str]) -> list[dict[str, Any]]:
    return [{"from_name": QUESTION, "to_name": PICTURE, "type": "choices", "value": {"choices": list(labels)}}]
