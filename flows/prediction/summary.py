"""Summarize a prediction as Markdown for its Prefect run: counts, labels, the least confident images."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from flows.prediction.uncertainty import compute_margin, find_least_confident
from imageset.utils.text import escape_markdown

if TYPE_CHECKING:
    import numpy as np

    from flows.prediction.image_stream import ImageStream
    from flows.prediction.table_writer import PredictionCounts
    from imageset.decoding.spec import DecodeSpec


NUM_SHOWN = 12  # images
THUMBNAIL_PX = 96
NUM_LABELS = 40  # labels in the histogram
BAR_WIDTH = 30  # characters


def render_prediction_markdown(
    title: str, counts: PredictionCounts, facts: dict[str, str], rows: Iterable[dict[str, Any]],
    images: ImageStream, spec: DecodeSpec, multi_label: bool = False,
) -> str:  # fmt: skip
    """Render the summary.

    Args:
        title: the heading.
        counts: what the table holds.
        facts: further rows of the first table, by name.
        rows: of the table of predictions.
        images: the images that were predicted.
        spec: how the thumbnails are decoded.
        multi_label: whether an image may have several labels.
    """
    lines = [f"# {escape_markdown(title)}", "", "| | |", "| --- | --- |"]
    states = {"rows": counts.num_rows, "errors": counts.num_errors, "abstained": counts.num_abstained}
    states |= {f"passed over: {cause}": num for cause, num in images.passed_over.items()}
    lines += [f"| {escape_markdown(name)} | {num:,} |" for name, num in states.items()]
    lines += [
        f"| {escape_markdown(name.replace('_', ' '))} | {escape_markdown(value)} |"
        for name, value in facts.items()
    ]
    lines += ["", *_render_histogram(counts), *_render_least_confident(rows, images, spec, multi_label)]
    return "\n".join(lines) + "\n"


def _render_histogram(counts: PredictionCounts) -> list[str]:
    shown = counts.labels.most_common(NUM_LABELS)
    if not shown:
        return []
    largest = shown[0][1]
    lines = ["## Labels", "", "| label | pictures | |", "| --- | ---: | --- |"]
    lines += [
        f"| {escape_markdown(name)} | {num:,} | {'█' * max(1, round(BAR_WIDTH * num / largest))} |"
        for name, num in shown
    ]
    num_more = len(counts.labels) - len(shown)
    return [*lines, *([f"| and {num_more:,} more | | |"] if num_more else []), ""]


def _render_least_confident(
    rows: Iterable[dict[str, Any]], images: ImageStream, spec: DecodeSpec, multi_label: bool
) -> list[str]:
    least_confident = find_least_confident(rows, NUM_SHOWN, multi_label)
    if not least_confident:
        return []
    thumbnails = _encode_thumbnails(images, {row["uri"]: row["image_id"] for row in least_confident}, spec)
    lines = ["## Least confident", "", "| | picture | best | second |", "| --- | --- | --- | --- |"]
    for row in sorted(least_confident, key=lambda row: compute_margin(row, multi_label)):
        best = [f"{escape_markdown(label['label'])} {label['probability']:.2f}" for label in row["top_k"][:2]]
        thumbnail = f"![]({thumbnails[row['uri']]})" if row["uri"] in thumbnails else ""
        lines.append(f"| {thumbnail} | {escape_markdown(row['uri'])} | {' | '.join([*best, ''][:2])} |")
    return lines


def _encode_thumbnails(images: ImageStream, image_ids: dict[str, str], spec: DecodeSpec) -> dict[str, str]:
    """Encode images as small JPEG files in data URIs, by uri; an image that has changed is left out.

    Args:
        images: the images.
        image_ids: of the wanted images, by uri.
        spec: how they are decoded.
    """
    from imageset.executors.stream import decode_stream
    from imageset.rejections import Rejected

    contents = (
        (image.uri, data)
        for image, data in images.iter_selected(set(image_ids))
        if image.image_id == image_ids[image.uri]
    )
    return {
        uri: _encode_data_uri(pixels)
        for uri, pixels in decode_stream(contents, spec, workers=1)
        if not isinstance(pixels, Rejected)
    }


def _encode_data_uri(pixels: np.ndarray) -> str:
    from PIL import Image

    image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    image.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX))
    factor = THUMBNAIL_PX // max(image.size)  # an image of 16 px would be a dot on the page
    image = image.resize((factor * image.width, factor * image.height), Image.Resampling.NEAREST)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=75)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
