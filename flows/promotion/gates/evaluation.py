"""Compare candidate and champion on the same test images, and evaluate all gates by params.yaml: promote."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flows.project.exceptions import BrokenManifest
from flows.project.paths import NORMALIZED
from flows.project.project import Project
from flows.promotion.gates.calibration import evaluate_calibration
from flows.promotion.gates.classes import evaluate_class_recall
from flows.promotion.gates.gain import evaluate_gain
from flows.promotion.gates.gate import GateResult
from flows.promotion.gates.leakage import evaluate_leakage
from flows.promotion.gates.scoring import score_both_models
from flows.promotion.gates.speed import evaluate_speed
from flows.promotion.model_registry import Version
from imageset.exceptions import UserError
from imageset.utils.text import format_count

if TYPE_CHECKING:
    from imageset.store.reader import ImageStore
    from lightning_modules.bundle import Bundle


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


def _check_same_dataset(bundle: Bundle, store: ImageStore, run_id: str) -> None:
    if bundle.info.dataset["fingerprint"] != store.fingerprint:
        raise UserError(
            f"run {run_id} was trained on other data than {NORMALIZED} holds now; "
            "check out its dvc.lock and run `dvc checkout`, or train again with `dvc repro`"
        )


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
