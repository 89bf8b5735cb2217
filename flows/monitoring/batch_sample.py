"""Build a sample of a batch, to compare with a model's reference: from its images or from predictions alone."""

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
    """The images of a sample, in its order.

    Attributes:
        rows: the row of each image.
        images: the decoded images, uint8 (H, W, C), as the network takes them.
    """

    rows: list[Row] = field(default_factory=list)
    images: list[np.ndarray] = field(default_factory=list)


def build_prediction_sample(rows: list[Row], rejected: np.ndarray, bundle: Bundle) -> ImageSample:
    """Build a sample from the predictions of some rows.

    Args:
        rows: rows with `top_k` and `probability`.
        rejected: int (2,): unreadable images, all images.
        bundle: the model that made the predictions.
    """
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
    """Build a sample from the images of some rows, which are read again.

    An image that changed since the rows were made is left out; an image that cannot be decoded counts as rejected.

    Args:
        images: the images of the source.
        rows: the rows of the sample.
        rejected: int (2,): unreadable images, all images.
        bundle: the model that observes the images.

    Returns:
        The sample and its images.
    """
    from lightning_modules.features.reference_sample import OBSERVE_BATCH_SIZE, ImageSample, observe_images

    batch_images = BatchImages()
    sides: list[int] = []
    undecodable: list[str] = []

    def iter_batches() -> Iterator[np.ndarray]:  # uint8 (B, H, W, C)
        start = 0
        for row, image, side in decode_rows(images, rows, bundle, undecodable):
            batch_images.rows.append(row)
            batch_images.images.append(image)
            sides.append(side)
            if len(batch_images.images) - start == OBSERVE_BATCH_SIZE:
                yield np.stack(batch_images.images[start:])
                start = len(batch_images.images)
        if len(batch_images.images) > start:
            yield np.stack(batch_images.images[start:])

    columns = observe_images(bundle, iter_batches())
    if undecodable:  # images of the sample; scaled up to all images, because only the share counts
        rejected = np.array([rejected[0] + round(len(undecodable) / len(rows) * (rejected[1] - rejected[0])),
                             rejected[1]])  # fmt: skip
    return ImageSample(rejected=rejected, short_side_px=np.array(sides, np.int64), **columns), batch_images


def decode_rows(
    images: ImageStream, rows: list[Row], bundle: Bundle, undecodable: list[str]
) -> Iterator[tuple[Row, np.ndarray, int]]:
    """Decode the images of some rows; an image that changed since the rows were made is left out.

    Args:
        images: the images of the source.
        rows: the rows to decode.
        bundle: holds the decoding parameters.
        undecodable: receives the uris of the images that cannot be decoded.

    Yields:
        (row, image as the network takes it, short side in px of the original image).
    """
    from imageset.decoding.decoder import decode_with_size
    from imageset.executors.stream import map_stream

    row_of = {row["uri"]: row for row in rows}
    files = (
        (image.uri, data)
        for image, data in images.iter_selected(set(row_of))
        if image.image_id == row_of[image.uri]["image_id"]
    )
    for uri, decoded in map_stream(files, partial(decode_with_size, spec=bundle.spec)):
        if isinstance(decoded, Rejected):
            undecodable.append(uri)
        else:
            pixels, width, height = decoded
            yield row_of[uri], pixels, min(width, height)
