"""Compare candidate and champion on the same test images, and evaluate all gates by params.yaml: promote."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from flows.project.exceptions import BrokenManifest
from flows.project.paths import NORMALIZED, RAW
from flows.project.project import Project
from flows.promotion.class_overlap import ClassOverlap, compare_classes, find_renamed_classes
from flows.promotion.gates.calibration import evaluate_calibration
from flows.promotion.gates.classes import evaluate_class_recall, evaluate_shared_classes
from flows.promotion.gates.first_model import evaluate_baseline, evaluate_first_model
from flows.promotion.gates.gain import BETTER, describe_looks, evaluate_gain
from flows.promotion.gates.gate import Gate, GateResult
from flows.promotion.gates.leakage import evaluate_leakage
from flows.promotion.gates.scoring import number_groups, score_both_models, score_validation_split
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
    model_uri: str, run_id: str, champion: Version | None, project: Project, by_hand: bool = False
) -> GateResult:
    """Evaluate all gates of a candidate on the test split of data/normalized.

    Where the champion's classes are not those of the dataset, both are compared on the classes that both know;
    without a champion, or without classes that could be compared, the candidate is judged like a first model. See
    docs/decisions/0025.

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
    candidate = load_bundle(model_uri)
    _check_same_dataset(candidate, store, run_id)
    if champion is None:
        return evaluate_first_model(candidate, store, run_id, params, project)
    champion_bundle = load_bundle(champion.uri)
    overlap = find_class_overlap(champion_bundle, store, project)
    if not (overlap.is_comparable(store.multi_label) and _has_test_images(overlap, store)):
        note = f"version {champion.number} cannot be compared ({overlap.describe()})"
        return evaluate_first_model(candidate, store, run_id, params, project, note)
    unseen = evaluate_leakage(champion, champion_bundle, store, project)
    if not unseen.passes:
        return GateResult(False, f"the comparison is void: {unseen.message}", (unseen,))
    look = count_look(run_id, champion, store, project, by_hand)
    gates = evaluate_comparison(candidate, champion, champion_bundle, overlap, store, project, look)
    return combine_gates([*gates, unseen], champion, params["metric"])


def evaluate_comparison(
    candidate: Bundle,
    champion: Version,
    champion_bundle: Bundle,
    overlap: ClassOverlap,
    store: ImageStore,
    project: Project,
    look: HoldoutLook,
) -> list[Gate]:
    """Evaluate the gates that compare a candidate with the champion, on the classes that both know."""
    params = project.load_params("promote")
    every = score_both_models(candidate, champion_bundle, store, project, overlap.renamed)
    paired = select_shared_classes(every, overlap)
    if overlap.is_same:
        decisive = [evaluate_gain(paired, params, look)]
    else:
        baseline = evaluate_baseline(every.labels, every.candidate, every.classes, every.groups, params)
        decisive = [evaluate_shared_classes(paired, params, champion, overlap), baseline]
    validation = score_validation_split(candidate, champion, champion_bundle, store, project, overlap)
    return [
        *decisive,
        evaluate_class_recall(paired, params, validation),
        evaluate_champion_calibration(paired, champion_bundle, store, params),
        evaluate_speed(candidate, champion_bundle, store, params, project),
    ]


def combine_gates(gates: Sequence[Gate], champion: Version, metric: str) -> GateResult:
    """Combine the gates: all must hold. The reason is the first one's message, and what the others object.

    Args:
        gates: the one that decides first.
        champion: the model that the candidate was compared with.
        metric: that decides.
    """
    first, *others = gates
    reasons = [first.message, *(gate.note if gate.passes else gate.message for gate in others)]
    if first.name == BETTER:
        num_images = format_count(first.numbers["num_test"], "picture")
        reasons[0] += f" (version {champion.number}, the same {num_images}{describe_looks(first.numbers, metric)})"
        analysis = analyze_numbers(first.numbers, "compared_")
        if not first.passes and analysis is not None:
            reasons.append(describe_power(analysis))
    return GateResult(all(gate.passes for gate in gates), "; ".join(filter(None, reasons)), tuple(gates))


def find_class_overlap(champion: Bundle, store: ImageStore, project: Project) -> ClassOverlap:
    """Compare the champion's classes with those of the dataset; classes that people renamed are the same."""
    from imageset.raw.label_log import read_label_log

    overlap = compare_classes(store.classes, champion.info.classes)
    if overlap.is_same or store.multi_label:
        return overlap
    renamed = find_renamed_classes(read_label_log(project / RAW), store.classes, champion.info.classes)
    return compare_classes(store.classes, champion.info.classes, renamed)


def _has_test_images(overlap: ClassOverlap, store: ImageStore) -> bool:
    if store.multi_label:
        return True
    labels = set(store.split("test").labels.tolist())
    return any(store.classes.index(name) in labels for name in overlap.shared)


def select_shared_classes(predictions: PairedPredictions, overlap: ClassOverlap) -> PairedPredictions:
    """Return the predictions for the classes that both models know, of which there are images."""
    from lightning_modules.comparison.subsets import select_classes

    selected = predictions if overlap.is_same else select_classes(predictions, overlap.shared)
    assert selected is not None
    return selected


def evaluate_champion_calibration(
    predictions: PairedPredictions, champion: Bundle, store: ImageStore, params: dict[str, Any]
) -> Gate:
    """Evaluate the gate `calibration`, if the champion's probabilities mean the same as the candidate's."""
    if champion.info.multi_label == store.multi_label:
        return evaluate_calibration(predictions, params)
    kinds = ("one label", "several labels")
    kind = kinds[champion.info.multi_label]
    return Gate("calibration", True, f"not compared: the champion was trained for {kind} a picture")


def count_look(run_id: str, champion: Version, store: ImageStore, project: Project, by_hand: bool) -> HoldoutLook:
    """Count this decision's look at the test pictures in MLflow's registry, unless it was made before."""
    from flows.promotion.holdout_reuse import HoldoutPictures, record_look

    params = project.load_params("promote")
    split = store.split("test")
    question = json.dumps([run_id, champion.number, store.fingerprint, params], sort_keys=True)
    pictures = HoldoutPictures(split.image_ids, number_groups(split))
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
