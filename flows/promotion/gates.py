"""The gates of a promotion: compare candidate and champion on the same test images, by params.yaml: promote."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from flows.notifications import console
from flows.project.exceptions import BrokenManifest
from flows.project.paths import NORMALIZED, RAW
from flows.project.project import Project
from flows.promotion.model_registry import Version
from imageset.exceptions import UserError
from imageset.utils.text import escape_markdown, format_count

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    from imageset.store.reader import ImageStore
    from lightning_modules.bundle import Bundle
    from lightning_modules.comparison.paired import ClassChange, PairedPredictions

logger = console.get_logger(__name__)

NUM_TIMED_IMAGES = 64  # test images that the speed is measured on


@dataclass(frozen=True)
class Gate:
    """One condition of a promotion, and its outcome.

    Attributes:
        name: short and fixed, such as "better".
        passes: whether the condition holds.
        message: the outcome in words.
        numbers: the outcome in numbers, by name; they become tags of the model version.
    """

    name: str
    passes: bool
    message: str
    numbers: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class GateResult:
    """The decision about a candidate: whether it should serve, the reason, and all gates."""

    passes: bool
    reason: str
    gates: tuple[Gate, ...] = ()

    @property
    def numbers(self) -> dict[str, Any]:
        """The numbers of all gates."""
        return {name: value for gate in self.gates for name, value in gate.numbers.items()}

    def to_markdown(self) -> str:
        """Format the gates as a Markdown table."""
        rows = [
            f"| {gate.name} | {'holds' if gate.passes else 'fails'} | {escape_markdown(gate.message)} |"
            for gate in self.gates
        ]
        return "\n".join(["| condition | | |", "| --- | --- | --- |", *rows]) if rows else ""


def evaluate_gates(model_uri: str, run_id: str, champion: Version, project: Project) -> GateResult:
    """Score candidate and champion on the test split of data/normalized, and evaluate all gates.

    Raises:
        UserError: the candidate was trained on other data, or a model does not load or returns probabilities that
            are not finite.
    """
    from imageset.store.reader import ImageStore
    from lightning_modules.tracking.model_download import load_bundle

    params = project.load_params("promote")
    store = ImageStore.open(project / NORMALIZED)
    candidate, champion_bundle = load_bundle(model_uri), load_bundle(champion.uri)
    _check_same_dataset(candidate, store, run_id)
    unseen = evaluate_leakage(champion, champion_bundle, store, project)
    if not unseen.passes:
        return GateResult(False, f"the comparison is void: {unseen.message}", (unseen,))
    paired = score_both_models(candidate, champion_bundle, store, project)
    gates = (
        evaluate_gain(paired, params),
        evaluate_class_recall(paired, params),
        evaluate_calibration(paired, params),
        evaluate_speed(candidate, champion_bundle, store, params, project),
        unseen,
    )
    failed = [gate.message for gate in gates[1:] if not gate.passes]
    num_images = format_count(len(paired.labels), "picture")
    gain = f"{gates[0].message} (version {champion.number}, the same {num_images})"
    return GateResult(all(gate.passes for gate in gates), "; ".join([gain, *failed]), gates)


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


def check_dataset_name(dataset_name: str, run_id: str, project: Project) -> None:
    """Raise UserError if data/normalized holds a dataset of another name, which could not test the model."""
    current = project.read_dataset_field("name")
    if current is not None and current != dataset_name:
        raise UserError(
            f"run {run_id} was trained on {dataset_name}, {NORMALIZED} holds {current}; "
            f"ingest {dataset_name} first"
        )


def read_dataset_fingerprint(project: Project) -> str | None:
    """Return the fingerprint of data/normalized, or None if there is no dataset."""
    try:
        return project.read_dataset_field("fingerprint")
    except BrokenManifest:
        return None


# ---- the gates -------------------------------------------------------------------------------------------------


def evaluate_gain(predictions: PairedPredictions, params: dict[str, Any]) -> Gate:
    """Check that the confidence interval of the paired gain lies above `min_gain`."""
    from lightning_modules.comparison import paired

    metric, confidence = params["metric"], params["confidence"]
    estimate = paired.compare_paired(predictions, metric, confidence, params["resamples"])
    passes = estimate.low > params["min_gain"]
    message = (
        f"{metric.replace('_', ' ')} {estimate.candidate:.4f} against {estimate.champion:.4f}: "
        f"gain {estimate.gain:+.4f}, {confidence:.0%} interval {estimate.low:+.4f} to {estimate.high:+.4f}, "
        f"{'above' if passes else 'not above'} {params['min_gain']:g}"
    )
    numbers = {
        metric: estimate.candidate,
        f"compared_{metric}": estimate.champion,
        "gain": estimate.gain,
        "gain_low": estimate.low,
        "gain_high": estimate.high,
        "num_test": len(predictions.labels),
    }
    return Gate("better", passes, message, numbers)


def evaluate_class_recall(predictions: PairedPredictions, params: dict[str, Any]) -> Gate:
    """Check that no class loses more recall than `max_class_drop`, beyond chance."""
    from lightning_modules.comparison.paired import compute_class_changes

    max_drop = params["max_class_drop"]
    if max_drop is None:
        return Gate("classes", True, "may fall (max_class_drop: null)")
    changes = compute_class_changes(predictions)
    fallen = [change for change in changes if change.champion - change.candidate > max_drop]
    proven = [change for change in fallen if change.p_value <= 1 - params["confidence"]]
    if not fallen:
        return Gate("classes", True, f"no class falls by more than {max_drop:g}")
    classes = "; ".join(_format_class_change(change) for change in proven or fallen)
    if proven:
        return Gate("classes", False, f"classes fall by more than {max_drop:g}: {classes}",
                     {"classes_fallen": [change.name for change in proven]})  # fmt: skip
    return Gate("classes", True, f"falls by more than {max_drop:g} may be chance: {classes}")


def _format_class_change(change: ClassChange) -> str:
    num_images = format_count(change.num_test, "picture")
    return f"{change.name} {change.champion:.3f} to {change.candidate:.3f} of {num_images}"


def evaluate_calibration(predictions: PairedPredictions, params: dict[str, Any]) -> Gate:
    """Check that the expected calibration error does not rise by more than `max_ece_rise`, beyond chance."""
    from lightning_modules.comparison import paired

    max_rise = params["max_ece_rise"]
    estimate = paired.compare_paired(predictions, "calibration_error", params["confidence"], params["resamples"])
    message = f"calibration error {estimate.candidate:.4f} against {estimate.champion:.4f}"
    numbers = {"calibration_error": estimate.candidate, "compared_calibration_error": estimate.champion}
    if max_rise is None or -estimate.gain <= max_rise:
        return Gate("calibration", True, message, numbers)
    if estimate.high >= 0:
        return Gate("calibration", True, f"{message}, which may be chance", numbers)
    return Gate("calibration", False, f"{message}: more than {max_rise:g} worse", numbers)


def evaluate_speed(
    candidate: Bundle, champion: Bundle, store: ImageStore, params: dict[str, Any], project: Project
) -> Gate:
    """Check that the candidate takes at most `max_slowdown` times as long per image; both are timed in turns."""
    from imageset.raw.shards import read_image_bytes
    from lightning_modules.inference.latency import measure_latency_ms

    images = [
        data for _, data in read_image_bytes(project / RAW, store.split("test").image_ids[:NUM_TIMED_IMAGES])
    ]
    candidate_ms, champion_ms = measure_latency_ms((candidate, champion), images)
    message = f"{candidate_ms:.2f} ms a picture against {champion_ms:.2f}"
    numbers = {"ms": candidate_ms, "compared_ms": champion_ms}
    max_slowdown = params["max_slowdown"]
    if max_slowdown is None or candidate_ms <= max_slowdown * champion_ms:
        return Gate("speed", True, message, numbers)
    return Gate("speed", False, f"{message}: more than {max_slowdown:g} times as slow", numbers)


def evaluate_leakage(champion: Version, bundle: Bundle, store: ImageStore, project: Project) -> Gate:
    """Check that the champion was not trained on a test image, on one of its group, or on its near duplicate."""
    training_images = load_training_images(champion, bundle, store, project)
    if training_images is None:
        return Gate("unseen", False, f"the training pictures of {champion} are not known; "
                     "inspect the model and promote with --override")  # fmt: skip
    leaked = find_leaked_images(store, training_images)
    if leaked:
        return Gate("unseen", False, f"{champion} was trained on {len(leaked):,} of the test pictures, "
                     f"their group or look-alikes, e.g. {leaked[0][:16]}", {"num_leaks": len(leaked)})  # fmt: skip
    return Gate("unseen", True, f"{champion} was trained on no test picture", {"num_leaks": 0})


def load_training_images(
    champion: Version, bundle: Bundle, store: ImageStore, project: Project
) -> pa.Table | None:
    """Load the table of the champion's training images from its run; use the store if it holds the same data."""
    import pyarrow.parquet as pq
    from mlflow.artifacts import download_artifacts

    from lightning_modules.tracking.model_logging import list_training_images
    from lightning_modules.tracking.tags import TRAINING_IMAGES_ARTIFACT

    if bundle.info.dataset["fingerprint"] == store.fingerprint:
        return list_training_images(store.split("train").rows)
    try:
        return pq.read_table(download_artifacts(run_id=champion.run_id, artifact_path=TRAINING_IMAGES_ARTIFACT))
    except Exception as error:  # each artifact store of MLflow raises its own kinds
        logger.info("promote: %s of run %s cannot be read: %s", TRAINING_IMAGES_ARTIFACT, champion.run_id, error)
        return None


def find_leaked_images(store: ImageStore, training_images: pa.Table) -> list[str]:
    """Return the image_ids of test images that are a training image, share its group, or look exactly like it.

    A near duplicate that is still in the store is in the group of the test image. An image that has left the store
    is known by its perceptual hash alone, so only an equal hash counts.
    """
    rows = store.split("test").rows
    in_store = {bytes.fromhex(image_id) for image_id in store.index["image_id"].to_pylist()}
    ids = set(training_images["image_id"].to_pylist())
    groups = {group for group in training_images["group"].to_pylist() if group is not None}
    pairs = zip(training_images["image_id"].to_pylist(), training_images["phash"].to_pylist(), strict=True)
    removed_phashes = {phash for image_id, phash in pairs if image_id not in in_store}
    columns = (rows[name].to_pylist() for name in ("image_id", "group", "phash"))
    return [
        image_id
        for image_id, group, phash in zip(*columns, strict=True)
        if bytes.fromhex(image_id) in ids or group in groups or phash in removed_phashes
    ]


# ---- scoring ---------------------------------------------------------------------------------------------------


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


def _check_same_dataset(bundle: Bundle, store: ImageStore, run_id: str) -> None:
    if bundle.info.dataset["fingerprint"] != store.fingerprint:
        raise UserError(
            f"run {run_id} was trained on other data than {NORMALIZED} holds now; "
            "check out its dvc.lock and run `dvc checkout`, or train again with `dvc repro`"
        )
