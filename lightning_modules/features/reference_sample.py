"""What a model saw when it was trained, number by number: what later pictures are compared with.

`reference.safetensors` lies in the bundle and holds a sample of the validation pictures: what the network's head
sees of each, the class it says and how sure it is, how bright and how large the picture is; and how many of the
dataset's pictures were refused. Validation pictures, because a network is surer of those it has learnt from.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np

from imageset.exceptions import UserError
from lightning_modules.bundle import REFERENCE_FILE

if TYPE_CHECKING:
    from imageset.store.reader import ImageStore
    from lightning_modules.bundle import Bundle


OBSERVE_BATCH_SIZE = 32  # pictures
# Reasons that an answer may have too: what is wrong with the file, not with the dataset.
FILE_REJECTION_REASONS = ("empty", "not_an_image", "truncated", "undecodable", "too_small", "bomb", "unsupported",
               "unreadable", "crashed", "timeout")  # fmt: skip


@dataclass(frozen=True)
class ImageSample:
    """Some pictures as numbers; row i of each array is picture i. None: not known.

    Attributes:
        classes: int64 (n,): the likeliest class, as its position in the bundle's classes.
        confidence: float32 (n,): that class's probability, calibrated; of several labels a picture the probability
            of its least sure decision.
        features: float32 (n, d): what the network's head sees.
        brightness, contrast: float32 (n,): mean and deviation of all pixels and channels, 0 to 1.
        short_side_px: int64 (n,): of the picture as it came.
        image_id: uint8 (n, 32).
        rejected: int64 (2,): pictures that could not be read, and all there were.
    """

    classes: np.ndarray
    confidence: np.ndarray
    rejected: np.ndarray
    features: np.ndarray | None = None
    brightness: np.ndarray | None = None
    contrast: np.ndarray | None = None
    short_side_px: np.ndarray | None = None
    image_id: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.classes)

    def to_bytes(self) -> bytes:
        """As a safetensors file."""
        from safetensors.numpy import save

        there = {field.name: getattr(self, field.name) for field in fields(self)}
        return save({name: np.ascontiguousarray(value) for name, value in there.items() if value is not None})

    @classmethod
    def from_bytes(cls, data: bytes) -> ImageSample:
        """The inverse of `to_bytes`; what a later version keeps beside it is passed over.

        Raises:
            UserError: it is no such file.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load

        try:
            found = load(data)
            return cls(**{field.name: found[field.name] for field in fields(cls) if field.name in found})
        except (SafetensorError, TypeError) as error:
            raise UserError(
                f"{REFERENCE_FILE}: not a reference ({error}); train again with `dvc repro -f train`"
            ) from None


def make_reference_sample(bundle: Bundle, store: ImageStore, num_images: int) -> ImageSample:
    """The reference of a bundle, from at most `num_pictures` pictures of the validation split.

    They are the first by image_id, a hash, so as good as drawn by lot.
    """
    split = store.split("val")
    chosen = np.argsort(np.array(split.rows["image_id"].to_pylist()))[:num_images]
    rows = split.rows.take(chosen)
    short_side = np.minimum(rows["width"].to_numpy(), rows["height"].to_numpy())
    starts = range(0, len(chosen), OBSERVE_BATCH_SIZE)
    seen = observe_images(bundle, (split.read_batch(chosen[i : i + OBSERVE_BATCH_SIZE]) for i in starts))
    refused = sum(store.manifest["rejected"].get(reason, 0) for reason in FILE_REJECTION_REASONS)
    ids = b"".join(bytes.fromhex(one) for one in rows["image_id"].to_pylist())
    return ImageSample(
        rejected=np.array([refused, sum(store.counts.values()) + refused]),
        short_side_px=short_side.astype(np.int64),
        image_id=np.frombuffer(ids, np.uint8).reshape(-1, 32),
        **seen,
    )


def observe_images(bundle: Bundle, batches: Iterable[np.ndarray]) -> dict[str, np.ndarray]:
    """What is seen of decoded pictures, uint8 (B, H, W, C) at a time: the arrays of a Sample that pixels give."""
    from lightning_modules.calibration.temperature import to_probabilities
    from lightning_modules.calibration.thresholds import apply_thresholds, compute_confidence
    from lightning_modules.features.extractor import FeatureExtractor

    network = FeatureExtractor(bundle)
    columns: dict[str, list[np.ndarray]] = {name: [] for name, _ in _iter_empty_columns(len(bundle.info.classes))}
    for images in batches:
        features, logits = network(images)
        sure = to_probabilities(logits, bundle.info.temperature, bundle.info.multi_label)
        pixels = images.reshape(len(images), -1)
        columns["features"].append(features)
        columns["classes"].append(sure.argmax(axis=1))
        thresholds = bundle.info.thresholds
        best = (
            sure.max(axis=1)
            if thresholds is None
            else compute_confidence(sure, apply_thresholds(sure, thresholds))
        )
        columns["confidence"].append(best)
        columns["brightness"].append(pixels.mean(axis=1, dtype=np.float64) / 255)
        columns["contrast"].append(pixels.std(axis=1, dtype=np.float64) / 255)
    empty = dict(_iter_empty_columns(len(bundle.info.classes)))
    return {
        name: np.concatenate(parts).astype(empty[name].dtype) if parts else empty[name]
        for name, parts in columns.items()
    }


def _iter_empty_columns(num_features: int) -> Iterator[tuple[str, np.ndarray]]:
    yield "features", np.empty((0, num_features), np.float32)
    yield "classes", np.empty(0, np.int64)
    for name in ("confidence", "brightness", "contrast"):
        yield name, np.empty(0, np.float32)
