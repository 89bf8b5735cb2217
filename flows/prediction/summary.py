"""A prediction for a person, an artifact of its Prefect run: counts, labels, what it is least sure of."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from flows.orchestration.artifacts import escape_cell
from flows.prediction.uncertainty import compute_margin, find_least_confident

if TYPE_CHECKING:
    import numpy as np

    from flows.prediction.image_stream import ImageStream
    from flows.prediction.table_writer import PredictionCounts
    from imageset.decoding.spec import DecodeSpec


NUM_SHOWN = 12  # pictures
THUMBNAIL_PX = 96
NUM_LABELS = 40  # labels in the histogram
BAR_WIDTH = 30  # characters


def render_prediction_markdown(
    title: str, counts: PredictionCounts, facts: dict[str, str], rows: Iterable[dict[str, Any]], pictures: ImageStream,
    spec: DecodeSpec, multi_label: bool = False,
) -> str:  # fmt: skip
    """The page."""
    lines = [f"# {title}", "", "| | |", "| --- | --- |"]
    states = {"rows": counts.num_rows, "errors": counts.num_errors, "abstained": counts.num_abstained}
    lines += [f"| {name} | {num:,} |" for name, num in states.items()]
    lines += [f"| {name.replace('_', ' ')} | {escape_cell(value)} |" for name, value in facts.items()]
    lines += ["", *_render_histogram(counts), *_render_least_confident(rows, pictures, spec, multi_label)]
    return "\n".join(lines) + "\n"


def _render_histogram(counts: PredictionCounts) -> list[str]:
    shown = counts.labels.most_common(NUM_LABELS)
    if not shown:
        return []
    most = shown[0][1]
    lines = ["## Labels", "", "| label | pictures | |", "| --- | ---: | --- |"]
    lines += [
        f"| {escape_cell(name)} | {num:,} | {'█' * max(1, round(BAR_WIDTH * num / most))} |" for name, num in shown
    ]
    left = len(counts.labels) - len(shown)
    return [*lines, *([f"| and {left:,} more | | |"] if left else []), ""]


def _render_least_confident(
    rows: Iterable[dict[str, Any]], pictures: ImageStream, spec: DecodeSpec, multi_label: bool
) -> list[str]:
    unsure = find_least_confident(rows, NUM_SHOWN, multi_label)
    if not unsure:
        return []
    images = _encode_thumbnails(pictures, {row["uri"]: row["image_id"] for row in unsure}, spec)
    lines = ["## Least sure", "", "| | picture | best | second |", "| --- | --- | --- | --- |"]
    for row in sorted(unsure, key=lambda row: compute_margin(row, multi_label)):
        best = [f"{escape_cell(one['label'])} {one['probability']:.2f}" for one in row["top_k"][:2]]
        image = images.get(row["uri"])
        shown = f"![]({image})" if image else ""
        lines.append(f"| {shown} | {escape_cell(row['uri'])} | {' | '.join([*best, ''][:2])} |")
    return lines


def _encode_thumbnails(pictures: ImageStream, wanted: dict[str, str], spec: DecodeSpec) -> dict[str, str]:
    """Small JPEG files as data URIs, by uri; a picture that changed meanwhile has none."""
    from imageset.executors.stream import decode_stream
    from imageset.rejections import Rejected

    found = ((p.uri, data) for p, data in pictures.iter_selected(set(wanted)) if p.image_id == wanted[p.uri])
    return {
        uri: _encode_data_uri(image)
        for uri, image in decode_stream(found, spec, workers=1)
        if not isinstance(image, Rejected)
    }


def _encode_data_uri(image: np.ndarray) -> str:
    from PIL import Image

    picture = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)
    picture.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX))
    larger = THUMBNAIL_PX // max(picture.size)  # a picture of 16 px would be a dot on the page
    picture = picture.resize((larger * picture.width, larger * picture.height), Image.Resampling.NEAREST)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=75)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
