"""Select the images most worth a person's label: the model is unsure of them, and they differ from each other.

The images that the model is least confident about form a pool. From the pool images are selected in turn, each
the farthest from all that are selected (greedy k-center), in the space of the features that the network's last
layer receives.

Sources: B. Settles, "Active Learning Literature Survey", 2009, section 3.1 (margin sampling); O. Sener, S.
Savarese, "Active Learning for Convolutional Neural Networks: A Core-Set Approach", 2018, arXiv:1708.00489.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from flows.prediction.uncertainty import compute_margin, find_least_confident
from imageset.rejections import Rejected
from imageset.sources.files import IMAGE_EXTENSIONS
from imageset.utils.atomic_write import replace_folder, write_bytes
from imageset.utils.text import escape_cell

if TYPE_CHECKING:
    from flows.prediction.image_stream import ImageStream
    from lightning_modules.bundle import Bundle


POOL_FACTOR = 10  # images in the pool for each image to select
REVIEW_COLUMNS = ("path", "label", "guess", "probability", "margin", "uri", "image_id", "model")


def write_review(
    folder: Path, images: ImageStream, rows: Iterable[dict[str, Any]], bundle: Bundle, num: int
) -> int:
    """Write copies of the images most worth labeling, and review.csv with an empty column `label` to fill in.

    Ingest takes the filled-in table without changes: it extends and corrects the project's data.

    Args:
        folder: the folder to write.
        images: the images of the source.
        rows: their predictions.
        bundle: the model that made the predictions.
        num: number of images.

    Returns:
        The number of images that were written; below `num` if there are no more.
    """
    multi_label = bundle.info.multi_label
    pool = find_least_confident(rows, POOL_FACTOR * num, multi_label)
    embedded = {row["uri"]: (row, data, vector) for row, data, vector in _embed_images(images, pool, bundle)}
    candidates = [embedded[row["uri"]] for row in pool if row["uri"] in embedded]
    with replace_folder(folder) as fresh:
        (fresh / "pictures").mkdir()
        text = io.StringIO(newline="")
        table = csv.writer(text, lineterminator="\n")
        table.writerow(REVIEW_COLUMNS)
        selected = select_k_center([vector for _, _, vector in candidates], num)
        for rank, number in enumerate(selected):
            row, data, _ = candidates[number]
            path = f"pictures/{rank:04d}-{row['image_id'][:12]}{_find_suffix(row['uri'])}"
            (fresh / path).write_bytes(data)
            best = row if multi_label and row["label"] is not None else row["top_k"][0]
            table.writerow([
                path, "", escape_cell(best["label"]), f"{best['probability']:.4f}",
                f"{compute_margin(row, multi_label):.4f}", escape_cell(row["uri"]), row["image_id"],
                escape_cell(f"{row['model_name']} version {row['model_version']}"),
            ])  # fmt: skip
        write_bytes(fresh / "review.csv", text.getvalue().encode())
    return len(selected)


def select_k_center(vectors: list[np.ndarray], num: int) -> list[int]:
    """Return the positions of `num` vectors: the first, then in turn the farthest from all that are selected."""
    if not vectors:
        return []
    points = np.stack(vectors)
    selected = [0]
    distance = np.linalg.norm(points - points[0], axis=1)
    while len(selected) < min(num, len(points)):
        distance[selected] = -1
        selected.append(int(distance.argmax()))
        distance = np.minimum(distance, np.linalg.norm(points - points[selected[-1]], axis=1))
    return selected


def _embed_images(
    images: ImageStream, rows: list[dict[str, Any]], bundle: Bundle
) -> Iterator[tuple[dict[str, Any], bytes, np.ndarray]]:
    """Yield (row, file bytes, features of length 1) of each image that did not change since it was predicted."""
    from imageset.executors.stream import decode_stream
    from lightning_modules.features.extractor import embed

    row_of = {row["uri"]: row for row in rows}
    files: dict[str, bytes] = {}

    def read_files() -> Iterator[tuple[str, bytes]]:
        for image, data in images.iter_selected(set(row_of)):
            if image.image_id == row_of[image.uri]["image_id"]:
                files[image.uri] = data
                yield image.uri, data

    for uri, pixels in decode_stream(read_files(), bundle.spec):
        if not isinstance(pixels, Rejected):
            yield row_of[uri], files.pop(uri), embed(bundle, pixels[np.newaxis])[0]


def _find_suffix(uri: str) -> str:
    extension = os.path.splitext(uri)[1].lower()
    return extension if extension in IMAGE_EXTENSIONS else ""
