"""Compare candidate and champion on the same test images, and evaluate all gates by params.yaml: promote."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from flows.project.exceptions import BrokenManifest
from flows.project.paths import NORMALIZED
from flows.project.project import Project
from flows.promotion.gates.calibration import evaluate_calibration
from flows.promotion.gates.classes import evaluate_class_recall
from flows.promotion.gates.gain import describe_looks, evaluate_gain
from flows.promotion.gates.gate import Gate, GateResult
from flows.promotion.gates.leakage import evaluate_leakage
from flows.promotion.gates.scoring import score_both_models
from flows.promotion.gates.speed import evaluate_speed
from flows.promotion.model_registry import Version, connect_registry
from flows.promotion.power import analyze_numbers, describe_power
from imageset.exceptions import UserError
from imageset.utils.text import format_count

if TYPE_CHECKING:
    from flows.promotion.holdout_reuse import HoldoutLook
    from imageset.store.reader import ImageStore
    from lightning_modules.bundle import Bundle
    from lightning_modules.comparison.paired import PairedPredictions


def evaluate_gates(
    model_uri: str, run_id: str, champion: Version, project: Project, by_hand: bool = False
) -> GateResult:
    """Score candidate and champion on the test split of data/normalized, and evaluate all gates.

    The look at the test pictures is counted before it is made.

    Args:
        model_uri: of the candidate.
        run_id: of the candidate's training.
        champion: the model to compare it with.
        project: the project's folder.
        by_hand: whether a person has decided already, so that the look spends no error probability.

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
    look = count_look(paired, run_id, champion, store, project, by_hand)
    speed = evaluate_speed(candidate, champion_bundle, store, params, project)
    return combine_gates(evaluate_predictions(paired, params, look), [speed, unseen], champion, params["metric"])


def evaluate_predictions(paired: PairedPredictions, params: dict[str, Any], look: HoldoutLook) -> list[Gate]:
    """Evaluate the gates that need only the predictions of both models on the test pictures; `better` is first."""
    return [
        evaluate_gain(paired, params, look),
        evaluate_class_recall(paired, params),
        evaluate_calibration(paired, params),
    ]


def combine_gates(
    by_predictions: Sequence[Gate], others: Sequence[Gate], champion: Version, metric: str
) -> GateResult:
    """Combine the gates: all must hold. The reason names the gain, and each other gate that fails.

    Args:
        by_predictions: the gates of `evaluate_predictions`.
        others: further gates.
        champion: the model that the candidate was compared with.
        metric: that decides.
    """
    better, *rest = gates = (*by_predictions, *others)
    failed = [gate.message for gate in rest if not gate.passes]
    num_images = format_count(better.numbers["num_test"], "picture")
    looks = describe_looks(better.numbers, metric)
    gain = f"{better.message} (version {champion.number}, the same {num_images}{looks})"
    analysis = analyze_numbers(better.numbers, "compared_")
    if not better.passes and analysis is not None:
        failed.append(describe_power(analysis))
    return GateResult(all(gate.passes for gate in gates), "; ".join([gain, *failed]), gates)


def count_look(
    paired: PairedPredictions, run_id: str, champion: Version, store: ImageStore, project: Project, by_hand: bool
) -> HoldoutLook:
    """Count this decision's look at the test pictures in MLflow's registry, unless it was made before."""
    from flows.promotion.holdout_reuse import HoldoutPictures, record_look

    params = project.load_params("promote")
    question = json.dumps([run_id, champion.number, store.fingerprint, params], sort_keys=True)
    pictures = HoldoutPictures(store.split("test").image_ids, paired.groups)
    client = connect_registry(project)
    return record_look(client, project, champion.name, question, pictures, 1 - params["confidence"], by_hand)


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
