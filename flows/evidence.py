"""What speaks for a newcomer: both models on the same test pictures, judged by params.yaml: promote."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows import console
from flows.project import (
    NORMALIZED,
    RAW,
    BrokenManifest,
    promotion_params,
    said_of_dataset,
    stage_params,
)
from flows.registry import Version
from imageset.errors import UserError
from imageset.words import count

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    from imageset.store import ImageStore
    from lightning_modules.bundle import Bundle
    from lightning_modules.comparison import ClassChange, Trial

logger = console.get_logger(__name__)

NUM_TIMED = 64  # pictures that the speed is measured on


@dataclass(frozen=True)
class Check:
    """One condition of a promotion: whether it holds, in words and in numbers."""

    name: str
    holds: bool
    said: str
    numbers: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Verdict:
    """Whether a newcomer should serve, why, and all numbers."""

    wins: bool
    reason: str
    checks: tuple[Check, ...] = ()

    @property
    def numbers(self) -> dict[str, Any]:
        """The numbers of all checks."""
        return {name: value for check in self.checks for name, value in check.numbers.items()}

    def table(self) -> str:
        """The checks as a Markdown table."""
        rows = [f"| {one.name} | {'holds' if one.holds else 'fails'} | {one.said} |" for one in self.checks]
        return "\n".join(["| condition | | |", "| --- | --- | --- |", *rows]) if rows else ""


def compare(model_uri: str, run_id: str, champion: Version, project: Path) -> Verdict:
    """Score newcomer and champion on the test split of data/normalized and judge.

    Raises:
        UserError: the newcomer was trained on other data, or a model does not load or gives no numbers.
    """
    from imageset.store import ImageStore
    from lightning_modules.bundle import load_bundle

    params = promotion_params(project)
    store = ImageStore.open(project / NORMALIZED)
    newcomer, old = load_bundle(model_uri), load_bundle(champion.uri)
    _check_same_data(newcomer, store, run_id)
    unseen = nothing_learnt_by(champion, old, store, project)
    if not unseen.holds:
        return Verdict(False, f"the comparison is void: {unseen.said}", (unseen,))
    trial = score_both(newcomer, old, store, project)
    checks = (gain(trial, params), classes(trial, params), calibration(trial, params),
              speed(newcomer, old, store, params, project), unseen)  # fmt: skip
    failed = [check.said for check in checks[1:] if not check.holds]
    against = f"{checks[0].said} (version {champion.number}, the same {count(len(trial.labels), 'picture')})"
    return Verdict(all(check.holds for check in checks), "; ".join([against, *failed]), checks)


def check_that_it_predicts(model_uri: str) -> str:
    """Load a model, check its digests and let it name one picture; returns the bundle's digest.

    Raises:
        UserError: it is not there, not whole, or gives no probabilities.
    """
    import numpy as np

    from imageset.decode import decode
    from imageset.png import encode_png
    from lightning_modules.bundle import load_bundle
    from lightning_modules.scoring import Scorer

    bundle = load_bundle(model_uri)
    picture = encode_png((np.arange(64 * 64, dtype=np.uint32) % 251).astype(np.uint8).reshape(64, 64))
    probabilities = Scorer(bundle).probabilities(decode(picture, bundle.spec)[np.newaxis])
    if probabilities.shape != (1, len(bundle.info.classes)) or not np.isfinite(probabilities).all():
        raise UserError(f"{model_uri} gives probabilities that are no numbers; it cannot be promoted")
    return bundle.digest


def check_name(name: str, run_id: str, project: Path) -> None:
    """Raise UserError if data/normalized holds a dataset of another name: nothing here could judge the model."""
    here = said_of_dataset(project, "name")
    if here is not None and here != name:
        raise UserError(f"run {run_id} was trained on {name}, {NORMALIZED} holds {here}; ingest {name} first")


def fingerprint(project: Path) -> str | None:
    """The fingerprint of data/normalized, or None where there is no dataset."""
    try:
        return said_of_dataset(project, "fingerprint")
    except BrokenManifest:
        return None


# ---- the conditions --------------------------------------------------------------------------------------------


def gain(trial: Trial, params: dict[str, Any]) -> Check:
    """The interval of the paired gain lies above `min_gain`."""
    from lightning_modules import comparison

    metric, confidence = params["metric"], params["confidence"]
    found = comparison.compare(trial, metric, confidence, params["resamples"])
    holds = found.low > params["min_gain"]
    said = (
        f"{metric.replace('_', ' ')} {found.newcomer:.4f} against {found.champion:.4f}: gain {found.gain:+.4f}, "
        f"{confidence:.0%} interval {found.low:+.4f} to {found.high:+.4f}, "
        f"{'above' if holds else 'not above'} {params['min_gain']:g}"
    )
    numbers = {metric: found.newcomer, f"compared_{metric}": found.champion, "gain": found.gain,
               "gain_low": found.low, "gain_high": found.high, "num_test": len(trial.labels)}  # fmt: skip
    return Check("better", holds, said, numbers)


def classes(trial: Trial, params: dict[str, Any]) -> Check:
    """No class loses more recall than `max_class_drop`, and more than chance would take."""
    from lightning_modules.comparison import changes_by_class

    most = params["max_class_drop"]
    if most is None:
        return Check("classes", True, "may fall (max_class_drop: null)")
    fallen = [one for one in changes_by_class(trial) if one.champion - one.newcomer > most]
    proven = [one for one in fallen if one.chance <= 1 - params["confidence"]]
    if not fallen:
        return Check("classes", True, f"no class falls by more than {most:g}")
    named = "; ".join(_change(one) for one in proven or fallen)
    if proven:
        return Check("classes", False, f"classes fall by more than {most:g}: {named}",
                     {"classes_fallen": [one.name for one in proven]})  # fmt: skip
    return Check("classes", True, f"what falls by more than {most:g} may be chance: {named}")


def _change(one: ClassChange) -> str:
    return f"{one.name} {one.champion:.3f} to {one.newcomer:.3f} of {count(one.num_test, 'picture')}"


def calibration(trial: Trial, params: dict[str, Any]) -> Check:
    """The expected calibration error does not rise by more than `max_ece_rise`, and more than chance would."""
    from lightning_modules import comparison

    most = params["max_ece_rise"]
    found = comparison.compare(trial, "calibration_error", params["confidence"], params["resamples"])
    said = f"calibration error {found.newcomer:.4f} against {found.champion:.4f}"
    numbers = {"calibration_error": found.newcomer, "compared_calibration_error": found.champion}
    if most is None or -found.gain <= most:
        return Check("calibration", True, said, numbers)
    if found.high >= 0:
        return Check("calibration", True, f"{said}, which may be chance", numbers)
    return Check("calibration", False, f"{said}: more than {most:g} worse", numbers)


def speed(newcomer: Bundle, champion: Bundle, store: ImageStore, params: dict[str, Any], project: Path) -> Check:
    """The newcomer takes at most `max_slowdown` times as long a picture, both measured now, turn by turn."""
    from imageset.raw import read_bytes
    from lightning_modules.speed import ms_per_picture

    pictures = [data for _, data in read_bytes(project / RAW, store.split("test").image_ids[:NUM_TIMED])]
    new, old = ms_per_picture((newcomer, champion), pictures)
    said, numbers = f"{new:.2f} ms a picture against {old:.2f}", {"ms": new, "compared_ms": old}
    most = params["max_slowdown"]
    if most is None or new <= most * old:
        return Check("speed", True, said, numbers)
    return Check("speed", False, f"{said}: more than {most:g} times as slow", numbers)


def nothing_learnt_by(champion: Version, bundle: Bundle, store: ImageStore, project: Path) -> Check:
    """The champion has not learnt from a test picture, from one of its group, or from its look-alike."""
    learnt = learnt_pictures(champion, bundle, store, project)
    if learnt is None:
        return Check("unseen", False, f"which pictures {champion} was trained on is not known; "
                     f"promote with --override, after a look at it")  # fmt: skip
    shared = shared_pictures(store, learnt)
    if shared:
        return Check("unseen", False, f"{champion} was trained on {len(shared):,} of the test pictures, "
                     f"their group or look-alikes, e.g. {shared[0][:16]}", {"num_leaks": len(shared)})  # fmt: skip
    return Check("unseen", True, f"no test picture was learnt by {champion}", {"num_leaks": 0})


def learnt_pictures(champion: Version, bundle: Bundle, store: ImageStore, project: Path) -> pa.Table | None:
    """What the champion was trained on, as its run noted it; that of the store if it is of the same data."""
    import pyarrow.parquet as pq
    from mlflow.artifacts import download_artifacts

    from lightning_modules.registered import SEEN, seen_pictures

    if bundle.info.dataset["fingerprint"] == store.fingerprint:
        return seen_pictures(store)
    try:
        return pq.read_table(download_artifacts(run_id=champion.run_id, artifact_path=SEEN))
    except Exception as error:  # MLflow raises as many kinds as it has stores
        logger.info("promote: %s of run %s cannot be read: %s", SEEN, champion.run_id, error)
        return None


def shared_pictures(store: ImageStore, learnt: pa.Table) -> list[str]:
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


def score_both(newcomer: Bundle, champion: Bundle, store: ImageStore, project: Path) -> Trial:
    """Both models on the test split, from the pictures' own bytes; classes are matched by name."""
    import numpy as np

    from lightning_modules.comparison import Trial

    split = store.split("test")
    if not len(split):
        raise UserError(f"{NORMALIZED}: has no test pictures, so nothing can be compared")
    groups = [group or image_id for group, image_id in
              zip(split.rows["group"].to_pylist(), split.image_ids, strict=True)]  # fmt: skip
    new, old = (probabilities(bundle, store, project) for bundle in (newcomer, champion))
    numbers = np.unique(groups, return_inverse=True)[1]
    if not store.multi_label:
        return Trial(split.labels, new, old, store.classes, numbers)
    said = [said_of(newcomer, new, split.labels, store), said_of(champion, old, split.labels, store)]
    return Trial(split.labels, new, old, store.classes, numbers, *said)


def said_of(bundle: Bundle, found: np.ndarray, labels: np.ndarray, store: ImageStore) -> np.ndarray:
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


def probabilities(bundle: Bundle, store: ImageStore, project: Path) -> np.ndarray:
    """float32 (num_test, num_classes of the store).

    Zeros for a picture that the bundle cannot read and for a class that it does not know.

    Raises:
        UserError: a probability is not a number.
    """
    import numpy as np

    from imageset.raw import read_bytes
    from lightning_modules.scoring import score

    ids = store.split("test").image_ids
    row_of = {image_id: row for row, image_id in enumerate(ids)}
    known = [name for name in bundle.info.classes if name in store.classes]
    mine, theirs = [bundle.info.classes.index(n) for n in known], [store.classes.index(n) for n in known]
    found = np.zeros((len(ids), len(store.classes)), np.float32)
    batch_size = int(stage_params(project, "predict")["batch_size"])
    with console.progress("promote", logger) as progress:
        progress.begin(len(ids), step="scoring")
        for scored in score(bundle, read_bytes(project / RAW, ids), batch_size=batch_size, workers=None):
            progress.advance()
            if scored.probabilities is None:
                continue
            if not np.isfinite(scored.probabilities).all():
                raise UserError("the model gives probabilities that are no numbers; it cannot be promoted")
            found[row_of[scored.key], theirs] = scored.probabilities[mine]
    return found


def _check_same_data(bundle: Bundle, store: ImageStore, run_id: str) -> None:
    if bundle.info.dataset["fingerprint"] != store.fingerprint:
        raise UserError(
            f"run {run_id} was trained on other data than {NORMALIZED} holds now; "
            "check out its dvc.lock and run `dvc checkout`, or train again with `dvc repro`"
        )
