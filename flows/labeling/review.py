"""Which pictures are most worth a person's label: the model is unsure of them, and they differ among themselves.

The least sure ones are a pool; from it, pictures are picked one by one, each the farthest from all that are
picked (greedy k-center) in the space that the network's last layer sees.

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

if TYPE_CHECKING:
    from flows.prediction.image_stream import ImageStream
    from lightning_modules.bundle import Bundle


POOL_FACTOR = 10  # pictures in the pool for each one wanted
REVIEW_COLUMNS = ("path", "label", "guess", "probability", "margin", "uri", "image_id")


def write_review(
    folder: Path, images: ImageStream, rows: Iterable[dict[str, Any]], bundle: Bundle, num: int
) -> int:
    """Write copies of the `num` pictures most worth labelling and review.csv, its column `label` to be filled in
    by a person; ingest takes that table as it is. Returns how many there are: fewer where there are no more.
    """
    multi_label = bundle.info.multi_label
    pool = find_least_confident(rows, POOL_FACTOR * num, multi_label)
    found = {row["uri"]: (row, data, vector) for row, data, vector in _embed_images(images, pool, bundle)}
    kept = [found[row["uri"]] for row in pool if row["uri"] in found]
    with replace_folder(folder) as fresh:
        (fresh / "pictures").mkdir()
        text = io.StringIO(newline="")
        table = csv.writer(text, lineterminator="\n")
        table.writerow(REVIEW_COLUMNS)
        picked = select_k_center([vector for _, _, vector in kept], num)
        for place, number in enumerate(picked):
            row, data, _ = kept[number]
            path = f"pictures/{place:04d}-{row['image_id'][:12]}{_find_suffix(row['uri'])}"
            (fresh / path).write_bytes(data)
            best = row if multi_label and row["label"] is not None else row["top_k"][0]
            table.writerow([
                path, "", best["label"], f"{best['probability']:.4f}", f"{compute_margin(row, multi_label):.4f}",
                row["uri"], row["image_id"],
            ])  # fmt: skip
        write_bytes(fresh / "review.csv", text.getvalue().encode())
    return len(picked)


def select_k_center(vectors: list[np.ndarray], num: int) -> list[int]:
    """Positions of `num` vectors: the first, then each time the one farthest from all that are picked."""
    if not vectors:
        return []
    points = np.stack(vectors)
    picked = [0]
    distance = np.linalg.norm(points - points[0], axis=1)
    while len(picked) < min(num, len(points)):
        distance[picked] = -1
        picked.append(int(distance.argmax()))
        distance = np.minimum(distance, np.linalg.norm(points - points[picked[-1]], axis=1))
    return picked


def _embed_images(
    pictures: ImageStream, rows: list[dict[str, Any]], bundle: Bundle
) -> Iterator[tuple[dict[str, Any], bytes, np.ndarray]]:
    """(row, file bytes, what the last layer sees of it, length 1) of each picture that is still as it was."""
    from imageset.executors.stream import decode_stream
    from lightning_modules.features.extractor import embed

    row_of = {row["uri"]: row for row in rows}
    files: dict[str, bytes] = {}

    def read() -> Iterator[tuple[str, bytes]]:
        for picture, data in pictures.iter_selected(set(row_of)):
            if picture.image_id == row_of[picture.uri]["image_id"]:
                files[picture.uri] = data
                yield picture.uri, data

    for uri, image in decode_stream(read(), bundle.spec):
        if not isinstance(image, Rejected):
            yield row_of[uri], files.pop(uri), embed(bundle, image[np.newaxis])[0]


def _find_suffix(uri: str) -> str:
    ending = os.path.splitext(uri)[1].lower()
    return ending if ending in IMAGE_EXTENSIONS else ""
