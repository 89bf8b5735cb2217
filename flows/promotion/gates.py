"""What speaks for a candidate: both models on the same test pictures, judged by params.yaml: promote."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.notifications import console
from flows.project.exceptions import BrokenManifest
from flows.project.params import load_promotion_params, load_stage_params
from flows.project.paths import NORMALIZED, RAW, read_dataset_field
from flows.promotion.model_registry import Version
from imageset.exceptions import UserError
from imageset.utils.text import format_count

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    from imageset.store.reader import ImageStore
    from lightning_modules.bundle import Bundle
    from lightning_modules.comparison.paired import ClassChange, PairedPredictions

logger = console.get_logger(__name__)

NUM_TIMED_IMAGES = 64  # pictures that the speed is measured on


@dataclass(frozen=True)
class Gate:
    """One condition of a promotion: whether it holds, in words and in numbers."""

    name: str
    passes: bool
    message: str
    numbers: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class GateResult:
    """Whether a candidate should serve, why, and all numbers."""

    passes: bool
    reason: str
    gates: tuple[Gate, ...] = ()

    @property
    def numbers(self) -> dict[str, Any]:
        """The numbers of all checks."""
        return {name: value for check in self.gates for name, value in check.numbers.items()}

    def to_markdown(self) -> str:
        """The checks as a Markdown table."""
        rows = [f"| {one.name} | {'holds' if one.passes else 'fails'} | {one.message} |" for one in self.gates]
        return "\n".join(["| condition | | |", "| --- | --- | --- |", *rows]) if rows else ""


def evaluate_gates(model_uri: str, run_id: str, champion: Version, project: Path) -> GateResult:
    """Score candidate and champion on the test split of data/normalized and judge.

    Raises:
        UserError: the candidate was trained on other data, or a model does not load or gives no numbers.
    """
    from imageset.store.reader import ImageStore
    from lightning_modules.tracking.model_download import load_bundle

    params = load_promotion_params(project)
    store = ImageStore.open(project / NORMALIZED)
    candidate, old = load_bundle(model_uri), load_bundle(champion.uri)
    _check_same_dataset(candidate, store, run_id)
    unseen = evaluate_leakage(champion, old, store, project)
    if not unseen.passes:
        return GateResult(False, f"the comparison is void: {unseen.message}", (unseen,))
    trial = score_both_models(candidate, old, store, project)
    checks = (evaluate_gain(trial, params), evaluate_class_recall(trial, params), evaluate_calibration(trial, params),
              evaluate_speed(candidate, old, store, params, project), unseen)  # fmt: skip
    failed = [check.message for check in checks[1:] if not check.passes]
    against = (
        f"{checks[0].message} (version {champion.number}, the same {format_count(len(trial.labels), 'picture')})"
    )
    return GateResult(all(check.passes for check in checks), "; ".join([against, *failed]), checks)


def check_model_predicts(model_uri: str) -> str:
    """Load a model, check its digests and let it name one picture; returns the bundle's digest.

    Raises:
        UserError: it is not there, not whole, or gives no probabilities.
    """
    import numpy as np

    from imageset.decoding.decoder import decode
    from imageset.html.png import encode_png
    from lightning_modules.scoring import Scorer
    from lightning_modules.tracking.model_download import load_bundle

    bundle = load_bundle(model_uri)
    picture = encode_png((np.arange(64 * 64, dtype=np.uint32) % 251).astype(np.uint8).reshape(64, 64))
    probabilities = Scorer(bundle).probabilities(decode(picture, bundle.spec)[np.newaxis])
    if probabilities.shape != (1, len(bundle.info.classes)) or not np.isfinite(probabilities).all():
        raise UserError(f"{model_uri} gives probabilities that are no numbers; it cannot be promoted")
    return bundle.digest


def check_dataset_name(dataset_name: str, run_id: str, project: Path) -> None:
    """Raise UserError if data/normalized holds a dataset of another name: nothing here could judge the model."""
    here = read_dataset_field(project, "name")
    if here is not None and here != dataset_name:
        raise UserError(f"run {run_id} was trained on {dataset_name}, {NORMALIZED} holds {here}; ingest {dataset_name} first")


def read_dataset_fingerprint(project: Path) -> str | None:
    """The fingerprint of data/normalized, or None where there is no dataset."""
    try:
        return read_dataset_field(project, "fingerprint")
    except BrokenManifest:
        return None


# ---- the conditions --------------------------------------------------------------------------------------------


def evaluate_gain(trial: PairedPredictions, params: dict[str, Any]) -> Gate:
    """The interval of the paired gain lies above `min_gain`."""
    from lightning_modules.comparison import paired

    metric, confidence = params["metric"], params["confidence"]
    found = paired.compare_paired(trial, metric, confidence, params["resamples"])
    holds = found.low > params["min_gain"]
    said = (
        f"{metric.replace('_', ' ')} {found.candidate:.4f} against {found.champion:.4f}: gain {found.gain:+.4f}, "
        f"{confidence:.0%} interval {found.low:+.4f} to {found.high:+.4f}, "
        f"{'above' if holds else 'not above'} {params['min_gain']:g}"
    )
    numbers = {metric: found.candidate, f"compared_{metric}": found.champion, "gain": found.gain,
               "gain_low": found.low, "gain_high": found.high, "num_test": len(trial.labels)}  # fmt: skip
    return Gate("better", holds, said, numbers)


def evaluate_class_recall(trial: PairedPredictions, params: dict[str, Any]) -> Gate:
    """No class loses more recall than `max_class_drop`, and more than chance would take."""
    from lightning_modules.comparison.paired import compute_class_changes

    most = params["max_class_drop"]
    if most is None:
        return Gate("classes", True, "may fall (max_class_drop: null)")
    fallen = [one for one in compute_class_changes(trial) if one.champion - one.candidate > most]
    proven = [one for one in fallen if one.p_value <= 1 - params["confidence"]]
    if not fallen:
        return Gate("classes", True, f"no class falls by more than {most:g}")
    named = "; ".join(_format_class_change(one) for one in proven or fallen)
    if proven:
        return Gate("classes", False, f"classes fall by more than {most:g}: {named}",
                     {"classes_fallen": [one.name for one in proven]})  # fmt: skip
    return Gate("classes", True, f"what falls by more than {most:g} may be chance: {named}")


def _format_class_change(one: ClassChange) -> str:
    return f"{one.name} {one.champion:.3f} to {one.candidate:.3f} of {format_count(one.num_test, 'picture')}"


def evaluate_calibration(trial: PairedPredictions, params: dict[str, Any]) -> Gate:
    """The expected calibration error does not rise by more than `max_ece_rise`, and more than chance would."""
    from lightning_modules.comparison import paired

    most = params["max_ece_rise"]
    found = paired.compare_paired(trial, "calibration_error", params["confidence"], params["resamples"])
    said = f"calibration error {found.candidate:.4f} against {found.champion:.4f}"
    numbers = {"calibration_error": found.candidate, "compared_calibration_error": found.champion}
    if most is None or -found.gain <= most:
        return Gate("calibration", True, said, numbers)
    if found.high >= 0:
        return Gate("calibration", True, f"{said}, which may be chance", numbers)
    return Gate("calibration", False, f"{said}: more than {most:g} worse", numbers)


def evaluate_speed(
    candidate: Bundle, champion: Bundle, store: ImageStore, params: dict[str, Any], project: Path
) -> Gate:
    """The candidate takes at most `max_slowdown` times as long a picture, both measured now, turn by turn."""
    from imageset.raw.shards import read_image_bytes
    from lightning_modules.inference.latency import measure_latency_ms

    pictures = [
        data for _, data in read_image_bytes(project / RAW, store.split("test").image_ids[:NUM_TIMED_IMAGES])
    ]
    new, old = measure_latency_ms((candidate, champion), pictures)
    said, numbers = f"{new:.2f} ms a picture against {old:.2f}", {"ms": new, "compared_ms": old}
    most = params["max_slowdown"]
    if most is None or new <= most * old:
        return Gate("speed", True, said, numbers)
    return Gate("speed", False, f"{said}: more than {most:g} times as slow", numbers)


def evaluate_leakage(champion: Version, bundle: Bundle, store: ImageStore, project: Path) -> Gate:
    """The champion has not learnt from a test picture, from one of its group, or from its look-alike."""
    learnt = load_training_images(champion, bundle, store, project)
    if learnt is None:
        return Gate("unseen", False, f"which pictures {champion} was trained on is not known; "
                     f"promote with --override, after a look at it")  # fmt: skip
    shared = find_leaked_images(store, learnt)
    if shared:
        return Gate("unseen", False, f"{champion} was trained on {len(shared):,} of the test pictures, "
                     f"their group or look-alikes, e.g. {shared[0][:16]}", {"num_leaks": len(shared)})  # fmt: skip
    return Gate("unseen", True, f"no test picture was learnt by {champion}", {"num_leaks": 0})


def load_training_images(champion: Version, bundle: Bundle, store: ImageStore, project: Path) -> pa.Table | None:
    """What the champion was trained on, as its run noted it; that of the store if it is of the same data."""
    import pyarrow.parquet as pq
    from mlflow.artifacts import download_artifacts

    from lightning_modules.tracking.model_logging import list_training_images
    from lightning_modules.tracking.tags import TRAINING_IMAGES_ARTIFACT

    if bundle.info.dataset["fingerprint"] == store.fingerprint:
        return list_training_images(store)
    try:
        return pq.read_table(download_artifacts(run_id=champion.run_id, artifact_path=TRAINING_IMAGES_ARTIFACT))
    except Exception as error:  # MLflow raises as many kinds as it has stores
        logger.info("promote: %s of run %s cannot be read: %s", TRAINING_IMAGES_ARTIFACT, champion.run_id, error)
        return None


def find_leaked_images(store: ImageStore, learnt: pa.Table) -> list[str]:
    """The image_ids of test pictures that are, belong with, or look exactly like one that was learnt from.

    A look-alike that is still in the store is in the group of the test picture; what has left it is known by its
    perceptual hash alone, so only an equal one counts.
    """
    rows = store.split("test").rows
    here = {bytes.fromhex(one) for one in store.index["image_id"].to_pylist()}
    ids = set(learnt["image_id"].to_pylist())
    groups = {one for one in learnt["group"].to_pylist() if one is not None}
    pairs = zip(learnt["image_id"].to_pylist(), learnt["phash"].to_pylist(), strict=True)
    gone = {phash for image_id, phash in pairs if image_id not in here}
    columns = (rows[name].to_pylist() for name in ("image_id", "group", "phash"))
    return [
        image_id
        for image_id, group, phash in zip(*columns, strict=True)
        if bytes.fromhex(image_id) in ids or group in groups or phash in gone
    ]


# ---- scoring ---------------------------------------------------------------------------------------------------


def score_both_models(candidate: Bundle, champion: Bundle, store: ImageStore, project: Path) -> PairedPredictions:
    """Both models on the test split, from the pictures' own bytes; classes are matched by name."""
    import numpy as np

    from lightning_modules.comparison.paired import PairedPredictions

    split = store.split("test")
    if not len(split):
        raise UserError(f"{NORMALIZED}: has no test pictures, so nothing can be compared")
    groups = [group or image_id for group, image_id in
              zip(split.rows["group"].to_pylist(), split.image_ids, strict=True)]  # fmt: skip
    new, old = (predict_probabilities(bundle, store, project) for bundle in (candidate, champion))
    numbers = np.unique(groups, return_inverse=True)[1]
    if not store.multi_label:
        return PairedPredictions(split.labels, new, old, store.classes, numbers)
    said = [predict_labels(candidate, new, split.labels, store), predict_labels(champion, old, split.labels, store)]
    return PairedPredictions(split.labels, new, old, store.classes, numbers, *said)


def predict_labels(bundle: Bundle, found: np.ndarray, labels: np.ndarray, store: ImageStore) -> np.ndarray:
    """Which of the store's labels a bundle says of the test pictures, bool (num_test, num_classes).

    Args:
        found: its probabilities; a picture that it could not read, all zeros, counts as wrong in each label.
        labels: 0 and 1, what is so.
    """
    import numpy as np

    if bundle.info.thresholds is None:  # it was trained when the pictures had one label each
        said = found == found.max(axis=1, keepdims=True)
    else:
        own = dict(zip(bundle.info.classes, bundle.info.thresholds, strict=True))
        said = found >= np.array([own.get(name, np.inf) for name in store.classes], found.dtype)
    return np.where(found.any(axis=1, keepdims=True), said, labels == 0)


def predict_probabilities(bundle: Bundle, store: ImageStore, project: Path) -> np.ndarray:
    """float32 (num_test, num_classes of the store).

    Zeros for a picture that the bundle cannot read and for a class that it does not know.

    Raises:
        UserError: a probability is not a number.
    """
    import numpy as np

    from imageset.raw.shards import read_image_bytes
    from lightning_modules.inference.stream import score_stream

    ids = store.split("test").image_ids
    row_of = {image_id: row for row, image_id in enumerate(ids)}
    known = [name for name in bundle.info.classes if name in store.classes]
    mine, theirs = [bundle.info.classes.index(n) for n in known], [store.classes.index(n) for n in known]
    found = np.zeros((len(ids), len(store.classes)), np.float32)
    batch_size = int(load_stage_params(project, "predict")["batch_size"])
    with console.make_progress("promote", logger) as progress:
        progress.begin(len(ids), step="scoring")
        for scored in score_stream(
            bundle, read_image_bytes(project / RAW, ids), batch_size=batch_size, num_workers=None
        ):
            progress.advance()
            if scored.probabilities is None:
                continue
            if not np.isfinite(scored.probabilities).all():
                raise UserError("the model gives probabilities that are no numbers; it cannot be promoted")
            found[row_of[scored.key], theirs] = scored.probabilities[mine]
    return found


def _check_same_dataset(bundle: Bundle, store: ImageStore, run_id: str) -> None:
    if bundle.info.dataset["fingerprint"] != store.fingerprint:
        raise UserError(
            f"run {run_id} was trained on other data than {NORMALIZED} holds now; "
            "check out its dvc.lock and run `dvc checkout`, or train again with `dvc repro`"
        )
