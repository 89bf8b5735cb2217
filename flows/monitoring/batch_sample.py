"""A batch as a sample that can be compared with a model's reference: from its pictures, or from answers alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from imageset.rejections import Rejected

if TYPE_CHECKING:
    from flows.prediction.image_stream import ImageStream
    from lightning_modules.bundle import Bundle
    from lightning_modules.features.reference_sample import ImageSample

Row = dict[str, Any]


@dataclass
class BatchImages:
    """The pictures of a sample, in its order: rows, and arrays uint8 (H, W, C) as the network takes them."""

    rows: list[Row] = field(default_factory=list)
    images: list[np.ndarray] = field(default_factory=list)


def build_prediction_sample(rows: list[Row], rejected: np.ndarray, bundle: Bundle) -> ImageSample:
    """What the answers alone say."""
    from lightning_modules.features.reference_sample import ImageSample

    position = {name: number for number, name in enumerate(bundle.info.classes)}
    return ImageSample(
        classes=np.array([position[row["top_k"][0]["label"]] for row in rows], np.int64),
        confidence=np.array([row["probability"] for row in rows], np.float32),
        rejected=rejected,
    )


def build_image_sample(
    images: ImageStream, rows: list[Row], rejected: np.ndarray, bundle: Bundle
) -> tuple[ImageSample, BatchImages]:
    """What the network sees of the rows' pictures, read once more. One that changed meanwhile is left out, one
    that cannot be decoded counts as rejected."""
    from lightning_modules.features.reference_sample import OBSERVE_BATCH_SIZE, ImageSample, observe_images

    shown = BatchImages()
    sides: list[int] = []
    undecodable: list[str] = []

    def arrays() -> Iterator[np.ndarray]:
        begun = 0
        for row, image, side in decode_rows(images, rows, bundle, undecodable):
            shown.rows.append(row)
            shown.images.append(image)
            sides.append(side)
            if len(shown.images) - begun == OBSERVE_BATCH_SIZE:
                yield np.stack(shown.images[begun:])
                begun = len(shown.images)
        if len(shown.images) > begun:
            yield np.stack(shown.images[begun:])

    seen = observe_images(bundle, arrays())
    if undecodable:  # of the sample; the share is what counts
        rejected = np.array([rejected[0] + round(len(undecodable) / len(rows) * (rejected[1] - rejected[0])),
                             rejected[1]])  # fmt: skip
    return ImageSample(rejected=rejected, short_side_px=np.array(sides, np.int64), **seen), shown


def decode_rows(
    pictures: ImageStream, rows: list[Row], bundle: Bundle, undecodable: list[str]
) -> Iterator[tuple[Row, np.ndarray, int]]:
    """(row, picture as the network takes it, short side in px as it came); the names of others go to a list."""
    from imageset.decoding.decoder import decode_with_size
    from imageset.executors.stream import map_stream

    row_of = {row["uri"]: row for row in rows}
    read = (
        (picture.uri, data)
        for picture, data in pictures.iter_selected(set(row_of))
        if picture.image_id == row_of[picture.uri]["image_id"]
    )
    for uri, found in map_stream(read, partial(decode_with_size, spec=bundle.spec)):
        if isinstance(found, Rejected):
            undecodable.append(uri)
        else:
            image, width, height = found
            yield row_of[uri], image, min(width, height)
