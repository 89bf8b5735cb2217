"""The images that a model was trained and validated on, as a drift check needs them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from flows.project.project import Project
from flows.promotion.model_registry import Version
from imageset.exceptions import UserError

if TYPE_CHECKING:
    from lightning_modules.bundle import Bundle
    from lightning_modules.features.reference_sample import ImageSample


def load_reference(bundle: Bundle, version: Version, project: Project) -> ImageSample:
    """Load the sample of a model's validation images.

    Bundles of an older Convoy do not keep the groups of these images. They are read from data/normalized while
    that holds the model's data; else each image stands alone.

    Raises:
        UserError: the model was trained before references existed, or without validation images.
    """
    from lightning_modules.features.reference_sample import ImageSample

    reference = ImageSample.from_bytes(bundle.reference) if bundle.reference is not None else None
    if reference is None or not len(reference):
        raise UserError(
            f"{version} has no reference to compare pictures with; train a new one: `dvc repro -f train`, then "
            "`convoy promote`"
        )
    if reference.groups is not None or reference.image_id is None:
        return reference
    return replace(reference, groups=find_reference_groups(reference.image_id, bundle, project))


def find_reference_groups(image_ids: np.ndarray, bundle: Bundle, project: Project) -> np.ndarray | None:
    """Return the groups of validation images from data/normalized; None if that holds other data by now.

    Args:
        image_ids: uint8 (n, 32).
        bundle: the model.
        project: the project folder.
    """
    from flows.prediction.predictor import open_validation_split
    from lightning_modules.features.reference_sample import number_groups

    split = open_validation_split(bundle, project)
    if split is None:
        return None
    name_of = dict(zip(split.image_ids, split.rows["group"].to_pylist(), strict=True))
    return number_groups([name_of.get(image_id.tobytes().hex()) for image_id in image_ids])


def read_trained_ids(bundle: Bundle, reference: ImageSample, project: Project) -> np.ndarray:
    """Return the short ids of images that the model learned from or was tuned by: uint64 (N,), sorted.

    A model is surer of them than of others. They are those of the training and the validation split, if
    data/normalized still holds the model's data, else those of the reference.
    """
    from flows.prediction.predictor import open_training_store
    from imageset.utils.arrow import to_id_words

    words = [np.empty(0, np.uint64)]
    if reference.image_id is not None:
        words.append(np.ascontiguousarray(reference.image_id[:, :8]).view(">u8").ravel().astype(np.uint64))
    if (store := open_training_store(bundle, project)) is not None:
        words += [to_id_words(store.split(name).rows["image_id"]) for name in ("train", "val")]
    return np.unique(np.concatenate(words))
