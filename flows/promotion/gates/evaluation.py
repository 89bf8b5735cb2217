"""Compare candidate and champion on the same test images, and evaluate all gates by params.yaml: promote."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from flows.project.exceptions import BrokenManifest
from flows.project.paths import NORMALIZED, RAW
from flows.project.project import Project
from flows.promotion.class_overlap import ClassOverlap, compare_classes, find_renamed_classes
from flows.promotion.gates.calibration import evaluate_calibration
from flows.promotion.gates.classes import evaluate_class_recall, evaluate_shared_classes
from flows.promotion.gates.first_model import evaluate_baseline, evaluate_first_model
from flows.promotion.gates.gain import evaluate_gain
from flows.promotion.gates.gate import Gate, GateResult
from flows.promotion.gates.leakage import evaluate_leakage
from flows.promotion.gates.scoring import score_both_models, score_validation_split
from flows.promotion.gates.speed import evaluate_speed
from flows.promotion.model_registry import Version
from imageset.exceptions import UserError
from imageset.utils.text import format_count

if TYPE_CHECKING:
    from imageset.store.reader import ImageStore
    from lightning_modules.bundle import Bundle
    from lightning_modules.comparison.paired import PairedPredictions


def evaluate_gates(model_uri: str, run_id: str, champion: Version | None, project: Project) -> GateResult:
    """Evaluate all gates of a candidate on the test split of data/normalized.

    Where the champion's classes are not those of the dataset, both are compared on the classes that both know;
    without a champion, or without classes that could be compared, the candidate is judged like a first model. See
    docs/decisions/0025.

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
    if overlap.is_comparable(store.multi_label) and _has_test_images(overlap, store):
        return evaluate_comparison(candidate, champion, champion_bundle, overlap, store, params, project)
    note = f"version {champion.number} cannot be compared ({overlap.describe()})"
    return evaluate_first_model(candidate, store, run_id, params, project, note)


def evaluate_comparison(
    candidate: Bundle,
    champion: Version,
    champion_bundle: Bundle,
    overlap: ClassOverlap,
    store: ImageStore,
    params: dict[str, Any],
    project: Project,
) -> GateResult:
    """Evaluate the gates that compare a candidate with the champion, on the classes that both know."""
    unseen = evaluate_leakage(champion, champion_bundle, store, project)
    if not unseen.passes:
        return GateResult(False, f"the comparison is void: {unseen.message}", (unseen,))
    every = score_both_models(candidate, champion_bundle, store, project, overlap.renamed)
    paired = select_shared_classes(every, overlap)
    if overlap.is_same:
        num_images = format_count(len(paired.labels), "picture")
        gain = evaluate_gain(paired, params)
        decisive = [replace(gain, message=f"{gain.message} (version {champion.number}, the same {num_images})")]
    else:
        baseline = evaluate_baseline(every.labels, every.candidate, every.classes, every.groups, params)
        decisive = [evaluate_shared_classes(paired, params, champion, overlap), baseline]
    validation = score_validation_split(candidate, champion, champion_bundle, store, project, overlap)
    gates = (
        *decisive,
        evaluate_class_recall(paired, params, validation),
        evaluate_champion_calibration(paired, champion_bundle, store, params),
        evaluate_speed(candidate, champion_bundle, store, params, project),
        unseen,
    )
    details = [gate.note if gate.passes else gate.message for gate in gates[1:]]
    reason = "; ".join([gates[0].message, *filter(None, details)])
    return GateResult(all(gate.passes for gate in gates), reason, gates)


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
