"""Probabilities of candidate and champion for the test images."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from flows.notifications import console
from flows.project.paths import NORMALIZED, RAW
from flows.project.project import Project
from imageset.exceptions import UserError

if TYPE_CHECKING:
    import numpy as np

    from imageset.store.reader import ImageStore
    from lightning_modules.bundle import Bundle
    from lightning_modules.comparison.paired import PairedPredictions

logger = console.get_logger(__name__)


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
    candidate: Bundle, champion: Bundle, store: ImageStore, project: Project
) -> PairedPredictions:
    """Score both models on the test split, from the images' original bytes; classes are matched by name.

    Raises:
        UserError: the test split is empty, or a model returns probabilities that are not finite.
    """
    import numpy as np

    from lightning_modules.comparison.paired import PairedPredictions

    split = store.split("test")
    if not len(split):
        raise UserError(f"{NORMALIZED}: has no test pictures, so nothing can be compared")
    groups = [group or image_id for group, image_id in
              zip(split.rows["group"].to_pylist(), split.image_ids, strict=True)]  # fmt: skip
    candidate_probabilities = predict_probabilities(candidate, store, project)
    champion_probabilities = predict_probabilities(champion, store, project)
    group_numbers = np.unique(groups, return_inverse=True)[1]
    predictions = PairedPredictions(
        split.labels, candidate_probabilities, champion_probabilities, store.classes, group_numbers
    )
    if not store.multi_label:
        return predictions
    return replace(
        predictions,
        candidate_predicted=predict_labels(candidate, candidate_probabilities, split.labels, store),
        champion_predicted=predict_labels(champion, champion_probabilities, split.labels, store),
    )


def predict_labels(bundle: Bundle, probabilities: np.ndarray, labels: np.ndarray, store: ImageStore) -> np.ndarray:
    """Return the labels that a bundle predicts for the test images, bool (num_test, num_classes).

    Args:
        bundle: the model.
        probabilities: its probabilities, float (num_test, num_classes of the store). An image that it could not
            read, all zeros, counts as wrong in each label.
        labels: the true labels, 0 and 1, of the same shape.
        store: the dataset.
    """
    import numpy as np

    if bundle.info.thresholds is None:  # trained when the dataset was single-label
        predicted = probabilities == probabilities.max(axis=1, keepdims=True)
    else:
        by_name = dict(zip(bundle.info.classes, bundle.info.thresholds, strict=True))
        thresholds = np.array([by_name.get(name, np.inf) for name in store.classes], probabilities.dtype)
        predicted = probabilities >= thresholds
    return np.where(probabilities.any(axis=1, keepdims=True), predicted, labels == 0)


def predict_probabilities(bundle: Bundle, store: ImageStore, project: Project) -> np.ndarray:
    """Return the probabilities of the test images, float32 (num_test, num_classes of the store).

    They are zero for an image that the bundle cannot read, and for a class that it does not know.

    Raises:
        UserError: a probability is not finite.
    """
    import numpy as np

    from imageset.raw.shards import read_image_bytes
    from lightning_modules.inference.stream import score_stream

    ids = store.split("test").image_ids
    row_of = {image_id: row for row, image_id in enumerate(ids)}
    known = [name for name in bundle.info.classes if name in store.classes]
    bundle_columns = [bundle.info.classes.index(name) for name in known]
    store_columns = [store.classes.index(name) for name in known]
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
