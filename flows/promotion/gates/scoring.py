"""Probabilities of candidate and champion for the test images, and for those of the validation split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from flows.notifications import console
from flows.project.paths import NORMALIZED, RAW
from flows.project.project import Project
from flows.promotion.class_overlap import ClassOverlap
from flows.promotion.gates.leakage import find_leaked_images, load_training_images
from flows.promotion.model_registry import Version
from imageset.exceptions import UserError

if TYPE_CHECKING:
    import numpy as np

    from imageset.store.reader import ImageStore, StoreSplit
    from lightning_modules.bundle import Bundle
    from lightning_modules.comparison.paired import PairedPredictions

logger = console.get_logger(__name__)

VALIDATION = "val"  # the split, as the store and bundles name it


def check_model_predicts(model_uri: str) -> str:
    """Load a model, check its digests and predict one image; return the digest of its bundle.

    Raises:
        UserError: the model is missing or damaged, or its probabilities are not finite.
    """
    import numpy as np

    from imageset.decoding.decoder import decode
    from imageset.html.png import encode_png
    from lightning_modules.scoring import Scorer
    from lightning_modules.tracking.model_download import load_bundle

    bundle = load_bundle(model_uri)
    image = encode_png((np.arange(64 * 64, dtype=np.uint32) % 251).astype(np.uint8).reshape(64, 64))
    probabilities = Scorer(bundle).probabilities(decode(image, bundle.spec)[np.newaxis])
    if probabilities.shape != (1, len(bundle.info.classes)) or not np.isfinite(probabilities).all():
        raise UserError(f"{model_uri} returns probabilities that are not finite; it cannot be promoted")
    return bundle.digest


def score_both_models(
    candidate: Bundle,
    champion: Bundle,
    store: ImageStore,
    project: Project,
    renamed: Mapping[str, str] | None = None,
    split_name: str = "test",
) -> PairedPredictions:
    """Score both models on a split, from the images' original bytes; classes are matched by name.

    Args:
        candidate: the model that may serve.
        champion: the model that serves.
        store: the dataset.
        project: the project.
        renamed: the dataset's name of a class by the champion's name.
        split_name: "test" or "val".

    Raises:
        UserError: the split is empty, or a model returns probabilities that are not finite.
    """
    from lightning_modules.comparison.paired import PairedPredictions

    split = store.split(split_name)
    if not len(split):
        raise UserError(f"{NORMALIZED}: has no {split_name} pictures, so nothing can be compared")
    candidate_probabilities = predict_probabilities(candidate, store, project, split_name=split_name)
    champion_probabilities = predict_probabilities(champion, store, project, renamed, split_name)
    predictions = PairedPredictions(
        split.labels, candidate_probabilities, champion_probabilities, store.classes, number_groups(split)
    )
    if not store.multi_label:
        return predictions
    return replace(
        predictions,
        candidate_predicted=predict_labels(candidate, candidate_probabilities, split.labels, store),
        champion_predicted=predict_labels(champion, champion_probabilities, split.labels, store, renamed),
    )


def score_validation_split(
    candidate: Bundle,
    champion: Version,
    champion_bundle: Bundle,
    store: ImageStore,
    project: Project,
    overlap: ClassOverlap,
) -> PairedPredictions | None:
    """Score both models on the validation images that may count for a veto; None if there are none.

    Not those that only the champion has learned from, which it would recognize better than the candidate.
    """
    from lightning_modules.comparison.subsets import select_classes, select_images

    ids = store.split(VALIDATION).image_ids
    if not ids or not may_count_validation(candidate, champion_bundle):
        return None
    training_images = load_training_images(champion, champion_bundle, store, project)
    if training_images is None:
        return None
    learned = set(find_leaked_images(store, training_images, VALIDATION))
    predictions = score_both_models(candidate, champion_bundle, store, project, overlap.renamed, VALIDATION)
    selected = select_images(predictions, [image_id not in learned for image_id in ids])
    if selected is None or overlap.is_same:
        return selected
    return select_classes(selected, overlap.shared)


def may_count_validation(candidate: Bundle, champion: Bundle) -> bool:
    """Return whether no weights of the champion were fitted to validation images, or those of both were.

    A bundle of an earlier Convoy does not say what its weights were fitted to.
    """
    if champion.info.fitted_splits is None:
        return False
    return VALIDATION not in champion.info.fitted_splits or VALIDATION in (candidate.info.fitted_splits or ())


def number_groups(split: StoreSplit) -> np.ndarray:
    """Return the number of the group of each image, int64 (n,); an image without a group is one of its own."""
    import numpy as np

    groups = zip(split.rows["group"].to_pylist(), split.image_ids, strict=True)
    return np.unique([group or image_id for group, image_id in groups], return_inverse=True)[1]


def predict_labels(
    bundle: Bundle,
    probabilities: np.ndarray,
    labels: np.ndarray,
    store: ImageStore,
    renamed: Mapping[str, str] | None = None,
) -> np.ndarray:
    """Return the labels that a bundle predicts for images, bool (n, num_classes).

    Args:
        bundle: the model.
        probabilities: its probabilities, float (n, num_classes of the store). An image that it could not read, all
            zeros, counts as wrong in each label.
        labels: the true labels, 0 and 1, of the same shape.
        store: the dataset.
        renamed: the dataset's name of a class by the bundle's name.
    """
    import numpy as np

    if bundle.info.thresholds is None:  # trained when the dataset was single-label
        predicted = probabilities == probabilities.max(axis=1, keepdims=True)
    else:
        by_name = dict(zip(_rename(bundle.info.classes, renamed), bundle.info.thresholds, strict=True))
        thresholds = np.array([by_name.get(name, np.inf) for name in store.classes], probabilities.dtype)
        predicted = probabilities >= thresholds
    return np.where(probabilities.any(axis=1, keepdims=True), predicted, labels == 0)


def predict_probabilities(
    bundle: Bundle,
    store: ImageStore,
    project: Project,
    renamed: Mapping[str, str] | None = None,
    split_name: str = "test",
) -> np.ndarray:
    """Return the probabilities of the images of a split, float32 (n, num_classes of the store).

    They are zero for an image that the bundle cannot read, and for a class that it does not know.

    Args:
        bundle: the model.
        store: the dataset.
        project: the project.
        renamed: the dataset's name of a class by the bundle's name.
        split_name: "test" or "val".

    Raises:
        UserError: a probability is not finite.
    """
    import numpy as np

    from imageset.raw.shards import read_image_bytes
    from lightning_modules.inference.stream import score_stream

    ids = store.split(split_name).image_ids
    row_of = {image_id: row for row, image_id in enumerate(ids)}
    names = _rename(bundle.info.classes, renamed)
    bundle_columns = [column for column, name in enumerate(names) if name in store.classes]
    store_columns = [store.classes.index(names[column]) for column in bundle_columns]
    probabilities = np.zeros((len(ids), len(store.classes)), np.float32)
    batch_size = int(project.load_params("predict")["batch_size"])
    with console.make_progress("promote", logger) as progress:
        progress.begin(len(ids), step="scoring")
        for scored in score_stream(
            bundle, read_image_bytes(project / RAW, ids), batch_size=batch_size, num_workers=None
        ):
            progress.advance()
            if scored.probabilities is None:
                continue
            if not np.isfinite(scored.probabilities).all():
                raise UserError("the model returns probabilities that are not finite; it cannot be promoted")
            probabilities[row_of[scored.key], store_columns] = scored.probabilities[bundle_columns]
    return probabilities


def _rename(classes: Sequence[str], renamed: Mapping[str, str] | None) -> list[str]:
    return [(renamed or {}).get(name, name) for name in classes]
