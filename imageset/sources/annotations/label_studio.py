"""Label Studio: its JSON export, a list of tasks, and the smaller JSON-MIN.

Format: https://labelstud.io/guide/export. If there are choices at all, they are the labels; otherwise the labels
of the shapes are. Each answer of an annotator is an annotation of its own; those that were skipped are none. A
task's data hold the image_id if `flows.labeling` has written it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

from imageset.sources.annotations.annotation import Annotation, AnnotationSet, clean_labels, find_image_id
from imageset.sources.annotations.json_documents import JsonValue
from imageset.sources.files import IMAGE_EXTENSIONS
from imageset.utils.timestamps import parse_time

_MIN_KEYS = frozenset({"annotation_id", "annotator", "lead_time"})
_OTHER_MIN_KEYS = frozenset(
    {"id", "annotation_id", "annotator", "lead_time", "created_at", "updated_at", "image_id"}
)
_UPLOAD = re.compile(r"^[0-9a-f]{8}-(?=.)")  # Label Studio's own prefix of an uploaded file
_SHAPE_LABELS = re.compile(r"^(rectangle|polygon|ellipse|keypoint|brush|vector|bitmask)?labels$")


class _Answer(NamedTuple):
    question: str
    kind: str  # "choices" or "boxes"
    names: list[str]


def is_label_studio(document: JsonValue) -> bool:
    """Return whether a JSON document looks like an export, or a list of tasks."""
    tasks = document.data
    if not isinstance(tasks, list) or not tasks or not isinstance(tasks[0], dict):
        return False
    return isinstance(tasks[0].get("data"), dict) or bool(_MIN_KEYS & tasks[0].keys())


def parse_label_studio(document: JsonValue, question: str | None = None) -> AnnotationSet:
    """Parse an export.

    Args:
        document: the export.
        question: name of the control (`from_name`) whose answers are the labels; None: there is only one.

    Raises:
        UserError: there are several questions and none is chosen, or a value is missing or wrong.
    """
    rows = [row for task in document.iter_items() for row in _parse_task(task)]
    answers = [answer for _, row in rows for answer in row]
    kind = "choices" if any(answer.kind == "choices" for answer in answers) else "boxes"
    questions = sorted({answer.question for answer in answers if answer.kind == kind and answer.question})
    if question is not None and question not in {answer.question for answer in answers}:
        raise document.fail(f"no question is called '{question}'; there are {', '.join(questions) or 'none'}")
    if question is None and len(questions) > 1:
        raise document.fail(
            f"several questions were asked ({', '.join(questions)}); say which gives the labels: "
            f"'{document.path}?label={questions[0]}'"
        )
    annotations = []
    for annotation, row in rows:
        chosen = [answer for answer in row if (answer.question == question if question else answer.kind == kind)]
        labels = clean_labels(name for answer in chosen for name in answer.names)
        annotations.append(annotation._replace(labels=labels))
    return AnnotationSet("Label Studio", kind, annotations)


def _parse_task(task: JsonValue) -> Iterator[tuple[Annotation, list[_Answer]]]:
    if not isinstance(task.require_kind(dict).get("data"), dict):
        yield _parse_minimal(task)
        return
    data = task.require("data")
    picture = _parse_picture(_find_picture(data, data.data))
    image_id = _find_image_id(data, task.get("meta"), picture)
    given = task.get("annotations") if task.get("annotations").data is not None else task.get("completions")
    items = [] if given.data is None else list(given.iter_items())
    items = [item for item in items if not item.get("was_cancelled").data and not item.get("skipped").data]
    if not items:
        yield picture._replace(image_id=image_id), []
    for item in items:
        results = item.get("result")
        answers = [] if results.data is None else list(_iter_answers(results.iter_items()))
        annotator, time = _parse_annotator(item.get("completed_by")), _parse_times(item)
        yield picture._replace(image_id=image_id, annotator=annotator, time=time), answers


def _iter_answers(results: Iterable[JsonValue]) -> Iterator[_Answer]:
    for result in results:
        kind, question = result.get("type").data, result.get("from_name")
        value = result.get("value")
        if kind == "relation" or not isinstance(value.data, dict):
            continue
        name = "" if question.data is None else question.to_text()
        for key in value.data:
            if key == "choices" or _SHAPE_LABELS.match(key):
                names = [item.to_name() for item in value.get(key).iter_items()]
                yield _Answer(name, "choices" if key == "choices" else "boxes", names)


def _parse_minimal(task: JsonValue) -> tuple[Annotation, list[_Answer]]:
    """Parse a task of JSON-MIN: the data and, by the name of each question, its answer, in one object."""
    value = _find_picture(task, task.data)
    answers = []
    for key in task.data:
        if key in _OTHER_MIN_KEYS or task.get(key) == value:
            continue
        answer = task.get(key)
        if isinstance(answer.data, dict) and isinstance(answer.data.get("choices"), list):
            answers.append(
                _Answer(key, "choices", [item.to_name() for item in answer.get("choices").iter_items()])
            )
        elif isinstance(answer.data, list) and all(isinstance(item, dict) for item in answer.data):
            names = [name for shape in answer.iter_items() for name in _iter_shape_names(shape)]
            answers += [_Answer(key, "boxes", names)] if names else []
        elif isinstance(answer.data, str) and answer.data and key not in _find_data_keys(task):
            answers.append(_Answer(key, "choices", [answer.to_text()]))
    picture = _parse_picture(value)
    image_id = _find_image_id(task, None, picture)
    annotator = _parse_annotator(task.get("annotator"))
    return picture._replace(image_id=image_id, annotator=annotator, time=_parse_times(task)), answers


def _iter_shape_names(shape: JsonValue) -> Iterator[str]:
    for key in shape.data:
        if _SHAPE_LABELS.match(key):
            yield from (item.to_name() for item in shape.get(key).iter_items())


def _find_data_keys(task: JsonValue) -> frozenset[str]:
    """Return the keys of texts that are data of the task: addresses and paths."""
    return frozenset(key for key, value in task.data.items() if isinstance(value, str) and _is_path(value))


def _find_picture(value: JsonValue, data: dict[str, Any]) -> JsonValue:
    """Return the text that names the picture: that of `image`, else the only one that looks like a path.

    Raises:
        UserError: there is none, or several.
    """
    for key in ("image", "img", "picture"):
        if isinstance(data.get(key), str):
            return value.get(key)
    paths = [key for key, text in data.items() if isinstance(text, str) and _is_path(text)]
    if len(paths) != 1:
        named = (
            f"several names of pictures ({', '.join(map(str, paths[:3]))})" if paths else "no name of a picture"
        )
        raise value.fail(f"holds {named}; call the picture 'image' and export the file again")
    return value.get(paths[0])


def _is_path(text: str) -> bool:
    return os.path.splitext(_extract_path(text))[1].lower() in IMAGE_EXTENSIONS


def _extract_path(text: str) -> str:
    """Return the path in an address, or in the query of Label Studio's local files, without percent signs."""
    try:
        parts = urlsplit(text)
    except ValueError:
        return text
    if parts.path.rstrip("/").endswith("local-files") and (given := parse_qs(parts.query).get("d")):
        return given[0]
    return unquote(parts.path) if parts.scheme or text.startswith("/data/") else text


def _parse_picture(value: JsonValue) -> Annotation:
    """Return an annotation without labels of the picture that an address stands for.

    Raises:
        UserError: the picture is in the document itself.
    """
    text = value.to_text()
    if text.startswith("data:"):
        raise value.fail("the picture is in the document itself; export the pictures as files and name them")
    path = _extract_path(text)
    if "/data/upload/" in f"/{path}" or _UPLOAD.match(path.rpartition("/")[2]):
        name = path.rpartition("/")[2]
        return Annotation(name, (), other_paths=(f"images/{name}", _UPLOAD.sub("", name)))
    if "://" in text:  # its first folders may be left out until one file fits
        return Annotation("/" + path.lstrip("/"), ())
    return Annotation(path, ())


def _find_image_id(data: JsonValue, meta: JsonValue | None, picture: Annotation) -> str | None:
    given = data.get("image_id")
    if given.data is None and meta is not None and isinstance(meta.data, dict):
        given = meta.get("image_id")
    return find_image_id(picture.picture or "") if given.data is None else given.to_name()


def _parse_annotator(value: JsonValue) -> str | None:
    if isinstance(value.data, dict):
        for key in ("email", "username", "id"):
            if value.get(key).data is not None:
                return value.get(key).to_name()
        return None
    return None if value.data is None else value.to_name()


def _parse_times(item: JsonValue) -> datetime | None:
    given = item.get("updated_at").data or item.get("created_at").data
    return parse_time(given) if isinstance(given, str) else None
