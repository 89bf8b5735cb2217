"""The gate `baseline`, which decides about first models: better than predictions that ignore the pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flows.promotion.gates.gate import Gate, GateResult
from flows.promotion.gates.scoring import number_groups, predict_probabilities
from imageset.utils.text import format_count

if TYPE_CHECKING:
    import numpy as np

    from flows.project.project import Project
    from imageset.store.reader import ImageStore
    from lightning_modules.bundle import Bundle
    from lightning_modules.comparison.baseline import BaselineComparison

RUN_ID_CHARS = 8  # of a run's id in a command; `convoy promote` takes the first characters


def evaluate_first_model(
    bundle: Bundle, store: ImageStore, run_id: str, params: dict[str, Any], project: Project, note: str = ""
) -> GateResult:
    """Decide about a model that cannot be compared with a champion.

    Args:
        bundle: the model.
        store: the dataset.
        run_id: of its training.
        params: the section `promote` of params.yaml.
        project: the project.
        note: why there is no champion to compare with, if there is one.

    Raises:
        UserError: there are no test images, or a probability is not finite.
    """
    split = store.split("test")
    probabilities = predict_probabilities(bundle, store, project)
    gate = evaluate_baseline(split.labels, probabilities, store.classes, number_groups(split), params)
    start = f"{note}, so this one is judged like a first model" if note else f"the first model of {store.name}"
    if gate.passes:
        return GateResult(True, f"{start}; {gate.message}" if note else f"{start}: {gate.message}", (gate,))
    way_on = (
        "train on more pictures, or let it serve all the same: "
        f"`convoy promote {run_id[:RUN_ID_CHARS]} --override REASON`"
    )
    return GateResult(False, f"{f'{start}; ' if note else ''}{gate.message}; {way_on}", (gate,))


def evaluate_baseline(
    labels: np.ndarray,
    probabilities: np.ndarray,
    classes: tuple[str, ...],
    groups: np.ndarray,
    params: dict[str, Any],
) -> Gate:
    """Check that a model is better than predictions that ignore the pictures, beyond chance.

    Args:
        labels: int (N,), positions in `classes`; multi-label: 0 and 1 (N, K).
        probabilities: of the model, float (N, K).
        classes: K names.
        groups: int (N,), equal for images that belong together.
        params: the section `promote` of params.yaml.
    """
    from lightning_modules.comparison.baseline import compare_with_baseline

    comparison = compare_with_baseline(
        labels, probabilities, classes, groups, params["confidence"], params["resamples"]
    )
    metric = comparison.metric
    numbers: dict[str, Any] = {f"baseline_{metric}": comparison.baseline, "baseline_p_value": comparison.p_value}
    numbers |= {"num_test": len(labels)}
    if comparison.value is not None:
        numbers[metric] = comparison.value
    return Gate("baseline", comparison.is_better, _describe(comparison, len(labels)), numbers)


def _describe(comparison: BaselineComparison, num_images: int) -> str:
    on = f"on {format_count(num_images, 'test picture')}"
    if comparison.value is None:
        return f"{on} every label is there always or never, so nothing can be measured"
    if comparison.most_frequent is not None:
        baseline = f"always answering '{comparison.most_frequent}' ({comparison.baseline:.4f})"
        value = f"accuracy {comparison.value:.4f} {on}"
    else:
        baseline = f"scores that ignore the pictures ({comparison.baseline:.4f})"
        value = f"mAP {comparison.value:.4f} {on}"
    if comparison.is_better:
        return f"{value}, better than {baseline}, p = {comparison.p_value:.2g}"
    if not comparison.can_be_shown:
        return f"{value} cannot be told from {baseline}: too few test pictures, even for a model without mistakes"
    return f"it is not shown to be better than {baseline}: {value}, p = {comparison.p_value:.2g}"
