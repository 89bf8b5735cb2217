"""Build a sample of a batch, to compare with a model's reference: from its images or from predictions alone."""

from __future__ import annotations

import hashlib
import heapq
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from flows.monitoring.batch_log import to_short_id
from imageset.rejections import Rejected

if TYPE_CHECKING:
    from flows.prediction.image_stream import ImageStream
    from lightning_modules.bundle import Bundle
    from lightning_modules.features.reference_sample import ImageSample

Row = dict[str, Any]


@dataclass(frozen=True)
class BatchSample:
    """The new images of a batch, and a sample of them.

    Attributes:
        ids: uint64 (M,), sorted: the short ids of all new images.
        rows: the rows of a sample of those that can be read.
        num_errors: the number of those that cannot be read.
        error_uris: a sample of those that cannot be read.
        num_trained: images that were left out since the model learned from them.
    """

    ids: np.ndarray
    rows: list[Row]
    num_errors: int
    error_uris: list[str]
    num_trained: int


class _Sampler:
    """A sample of rows; a hash of the seed and the image decides which are in it.

    Args:
        num: rows, at most.
        seed: of the hash.
    """

    def __init__(self, num: int, seed: int) -> None:
        self._num, self._seed = num, seed
        self._heap: list[tuple[int, int]] = []  # (minus the number drawn, short id), the largest number first
        self._ids = array("Q")
        self._rows: dict[int, Row] = {}

    def add(self, short_id: int, row: Row) -> None:
        """Count an image; equal images are counted once in `unique_ids`."""
        self._ids.append(short_id)
        if short_id in self._rows:
            return
        digest = hashlib.sha256(f"{self._seed} {short_id}".encode()).digest()
        number = int.from_bytes(digest[:8], "big")
        if len(self._heap) == self._num and -self._heap[0][0] <= number:
            return
        self._rows[short_id] = row
        heapq.heappush(self._heap, (-number, short_id))
        if len(self._heap) > self._num:
            del self._rows[heapq.heappop(self._heap)[1]]

    @property
    def unique_ids(self) -> np.ndarray:
        """The short ids of all images, uint64 (M,), sorted."""
        return np.unique(np.array(self._ids, np.uint64))

    @property
    def rows(self) -> list[Row]:
        """The rows of the sample."""
        return list(self._rows.values())


def sample_new_images(
    rows: Iterable[Row], judged: np.ndarray, trained: np.ndarray, params: dict[str, Any]
) -> BatchSample:
    """Draw a sample of the images that were not judged before and that the model did not learn from.

    Args:
        rows: rows of images; equal images count once.
        judged: uint64 (N,), sorted: short ids of the images that were judged before.
        trained: uint64 (N,), sorted: short ids of the images that the model learned from.
        params: the section `monitor` of params.yaml.
    """
    readable, unreadable = (_Sampler(params["pictures"], params["seed"]) for _ in range(2))
    num_trained = 0
    for row in rows:
        short_id = to_short_id(row["image_id"], row["uri"])
        if _contains(trained, short_id):
            num_trained += 1
        elif not _contains(judged, short_id):
            (unreadable if row["status"] == "error" else readable).add(short_id, row)
    errors = unreadable.unique_ids
    error_uris = [row["uri"] for row in unreadable.rows]
    return BatchSample(
        np.union1d(readable.unique_ids, errors), readable.rows, len(errors), error_uris, num_trained
    )


def _contains(sorted_ids: np.ndarray, short_id: int) -> bool:
    at = int(np.searchsorted(sorted_ids, np.uint64(short_id)))
    return at < len(sorted_ids) and int(sorted_ids[at]) == short_id


@dataclass
class BatchImages:
    """The images of a sample, in its order.

    Attributes:
        rows: the row of each image.
        images: the decoded images, uint8 (H, W, C), as the network takes them.
    """

    rows: list[Row] = field(default_factory=list)
    images: list[np.ndarray] = field(default_factory=list)


def build_prediction_sample(
    rows: list[Row], groups: tuple[list[str | None], np.ndarray], bundle: Bundle
) -> ImageSample:
    """Build a sample from the predictions of some rows.

    Args:
        rows: rows with `top_k` and `probability`.
        groups: the names of the rows' groups; int (2,): unreadable groups, all groups.
        bundle: the model that made the predictions.
    """
    from lightning_modules.features.reference_sample import ImageSample, number_groups

    position = {name: number for number, name in enumerate(bundle.info.classes)}
    return ImageSample(
        classes=np.array([position[row["top_k"][0]["label"]] for row in rows], np.int64),
        confidence=np.array([row["probability"] for row in rows], np.float32),
        rejected=groups[1],
        groups=number_groups(groups[0]),
    )


def build_image_sample(
    images: ImageStream,
    rows: list[Row],
    groups: tuple[list[str | None], np.ndarray],
    bundle: Bundle,
    near_duplicate_bits: int | None,
    reference: ImageSample,
) -> tuple[ImageSample, BatchImages]:
    """Build a sample from the images of some rows, which are read again.

    An image that changed since the rows were made is left out; an image that cannot be decoded counts as rejected.

    Args:
        images: the images of the source.
        rows: the rows of the sample.
        groups: the names of the rows' groups; int (2,): unreadable groups, all groups.
        bundle: the model that observes the images.
        near_duplicate_bits: near duplicates share a group, see params.yaml; None: they are not looked for.
        reference: the model's validation images.

    Returns:
        The sample and its images.
    """
    from flows.monitoring.image_groups import merge_near_duplicates, merge_neighbours
    from lightning_modules.features.reference_sample import OBSERVE_BATCH_SIZE, ImageSample, observe_images

    names, rejected = dict(zip((row["uri"] for row in rows), groups[0], strict=True)), groups[1]
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
    uris = [row["uri"] for row in batch_images.rows]
    of_images = [names[uri] for uri in uris]
    numbers = merge_near_duplicates(of_images, batch_images.images, near_duplicate_bits)
    numbers = merge_neighbours(numbers, of_images, uris, columns["features"], reference)
    sample = ImageSample(rejected=rejected, short_side_px=np.array(sides, np.int64), groups=numbers, **columns)
    return sample, batch_images


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
