"""The reference sample of a bundle: statistics of images at training time, for comparison with later images.

The bundle's `reference.safetensors` holds a sample of the validation images: of each the features, the predicted
class and the confidence, brightness, contrast, size and group; and the number of the dataset's images that were
rejected. Validation images are used because a network is more confident about images that it was trained on.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np

from imageset.exceptions import UserError
from lightning_modules.bundle import REFERENCE_FILE

if TYPE_CHECKING:
    from imageset.store.reader import ImageStore
    from lightning_modules.bundle import Bundle


OBSERVE_BATCH_SIZE = 32  # images
# Reasons that concern the file, not the dataset; they occur when a model predicts, too.
FILE_REJECTION_REASONS = ("empty", "not_an_image", "truncated", "undecodable", "too_small", "bomb", "unsupported",
                          "unreadable", "crashed", "timeout")  # fmt: skip


@dataclass(frozen=True)
class ImageSample:
    """Statistics of a sample of images; row i of each array belongs to image i. None: not known.

    Attributes:
        classes: int64 (n,): the most probable class, as its position in the bundle's classes.
        confidence: float32 (n,): that class's calibrated probability; multi-label: the probability of the least
            confident decision.
        rejected: int64 (2,): the number of images that could not be read, and the number of all images.
        features: float32 (n, d): the input of the network's last layer.
        brightness: float32 (n,): mean of all pixels and channels, 0 to 1.
        contrast: float32 (n,): standard deviation of all pixels and channels, 0 to 1.
        short_side_px: int64 (n,): of the original image.
        image_id: uint8 (n, 32).
        groups: int64 (n,): equal numbers for images of a group, such as a scene; None: each image stands alone, or
            the sample is of a bundle from before groups were kept.
    """

    classes: np.ndarray
    confidence: np.ndarray
    rejected: np.ndarray
    features: np.ndarray | None = None
    brightness: np.ndarray | None = None
    contrast: np.ndarray | None = None
    short_side_px: np.ndarray | None = None
    image_id: np.ndarray | None = None
    groups: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.classes)

    def list_groups(self) -> np.ndarray:
        """Return the group of each image, int64 (n,); without groups a number of its own for each."""
        return np.arange(len(self)) if self.groups is None else self.groups

    def to_bytes(self) -> bytes:
        """Serialize the sample as a safetensors file."""
        from safetensors.numpy import save

        arrays = {field.name: getattr(self, field.name) for field in fields(self)}
        return save({name: np.ascontiguousarray(array) for name, array in arrays.items() if array is not None})

    @classmethod
    def from_bytes(cls, data: bytes) -> ImageSample:
        """Deserialize a sample; arrays that only a later version knows are ignored.

        Raises:
            UserError: the data are not such a file.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load

        try:
            arrays = load(data)
            return cls(**{field.name: arrays[field.name] for field in fields(cls) if field.name in arrays})
        except (SafetensorError, TypeError) as error:
            raise UserError(
                f"{REFERENCE_FILE}: not a reference ({error}); train again with `dvc repro -f train`"
            ) from None


def make_reference_sample(bundle: Bundle, store: ImageStore, num_images: int) -> ImageSample:
    """Make the reference sample of a bundle from at most `num_images` images of the validation split.

    They are the first by image_id, which is a hash, so the choice is as good as random.
    """
    split = store.split("val")
    chosen = np.argsort(np.array(split.rows["image_id"].to_pylist()))[:num_images]
    rows = split.rows.take(chosen)
    short_side = np.minimum(rows["width"].to_numpy(), rows["height"].to_numpy())
    starts = range(0, len(chosen), OBSERVE_BATCH_SIZE)
    observed = observe_images(bundle, (split.read_batch(chosen[i : i + OBSERVE_BATCH_SIZE]) for i in starts))
    num_rejected = sum(store.manifest["rejected"].get(reason, 0) for reason in FILE_REJECTION_REASONS)
    ids = b"".join(bytes.fromhex(hex_id) for hex_id in rows["image_id"].to_pylist())
    return ImageSample(
        rejected=np.array([num_rejected, sum(store.counts.values()) + num_rejected]),
        short_side_px=short_side.astype(np.int64),
        image_id=np.frombuffer(ids, np.uint8).reshape(-1, 32),
        groups=number_groups(rows["group"].to_pylist()),
        **observed,
    )


def number_groups(names: Sequence[str | None]) -> np.ndarray:
    """Return int64 (n,): the number of the first image with the same group name; its own if it has none."""
    first: dict[str, int] = {}
    numbers = [number if name is None else first.setdefault(name, number) for number, name in enumerate(names)]
    return np.array(numbers, np.int64)


def observe_images(bundle: Bundle, batches: Iterable[np.ndarray]) -> dict[str, np.ndarray]:
    """Return the arrays of an `ImageSample` that derive from pixels, by name.

    Args:
        bundle: predicts and extracts features.
        batches: decoded images, uint8 (B, H, W, C) each.
    """
    from lightning_modules.calibration.temperature import to_probabilities
    from lightning_modules.calibration.thresholds import apply_thresholds, compute_confidence
    from lightning_modules.features.extractor import FeatureExtractor

    network = FeatureExtractor(bundle)
    columns: dict[str, list[np.ndarray]] = {name: [] for name, _ in _iter_empty_columns(len(bundle.info.classes))}
    for images in batches:
        features, logits = network(images)
        probabilities = to_probabilities(logits, bundle.info.temperature, bundle.info.multi_label)
        pixels = images.reshape(len(images), -1)
        columns["features"].append(features)
        columns["classes"].append(probabilities.argmax(axis=1))
        thresholds = bundle.info.thresholds
        confidence = (
            probabilities.max(axis=1)
            if thresholds is None
            else compute_confidence(probabilities, apply_thresholds(probabilities, thresholds))
        )
        columns["confidence"].append(confidence)
        columns["brightness"].append(pixels.mean(axis=1, dtype=np.float64) / 255)
        columns["contrast"].append(pixels.std(axis=1, dtype=np.float64) / 255)
    empty = dict(_iter_empty_columns(len(bundle.info.classes)))
    return {
        name: np.concatenate(arrays).astype(empty[name].dtype) if arrays else empty[name]
        for name, arrays in columns.items()
    }


def _iter_empty_columns(num_features: int) -> Iterator[tuple[str, np.ndarray]]:
    yield "features", np.empty((0, num_features), np.float32)
    yield "classes", np.empty(0, np.int64)
    for name in ("confidence", "brightness", "contrast"):
        yield name, np.empty(0, np.float32)
