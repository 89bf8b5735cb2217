"""The gates of classes: none loses recall beyond chance, and the candidate knows the champion's classes as well.

The second one decides where classes were added or removed. Classes with too few pictures to judge are named.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flows.promotion.gates.gate import Gate
from imageset.utils.text import format_class_count, format_count

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flows.promotion.class_overlap import ClassOverlap
    from flows.promotion.model_registry import Version
    from lightning_modules.comparison.class_changes import ClassChange
    from lightning_modules.comparison.paired import PairedPredictions

NUM_NAMED = 10  # classes in a message that cannot be judged


def evaluate_class_recall(
    test: PairedPredictions, params: dict[str, Any], validation: PairedPredictions | None = None
) -> Gate:
    """Check that no class loses more recall than `max_class_drop`, beyond chance.

    Args:
        test: predictions of the test images.
        params: the section `promote` of params.yaml.
        validation: predictions of validation images. With them a class may fall that the test images alone do not
            show; a class that falls on the test images alone has fallen.
    """
    from lightning_modules.comparison import class_changes
    from lightning_modules.comparison.subsets import concatenate

    max_drop, confidence = params["max_class_drop"], params["confidence"]
    if max_drop is None:
        return Gate("classes", True, "may fall (max_class_drop: null)")
    evidence = [class_changes.compute_class_changes(test)]
    if validation is not None:
        evidence.append(class_changes.compute_class_changes(concatenate(test, validation)))
    fallen = class_changes.find_fallen_classes(evidence, max_drop, confidence)
    if fallen:
        names = "; ".join(_format_change(change) for change in fallen)
        numbers = {"classes_fallen": [change.name for change in fallen]}
        return Gate("classes", False, f"classes fall by more than {max_drop:g}: {names}", numbers)
    needed = class_changes.count_needed_groups(max_drop, confidence)
    not_judged = _find_not_judged(test.classes, evidence[-1], needed)
    doubtful = "; ".join(_format_change(change) for change in evidence[0] if change.exceeds(max_drop))
    notes = [
        f"falls by more than {max_drop:g} may be chance: {doubtful}" if doubtful else "",
        _describe_not_judged(not_judged, max_drop, needed, test) if not_judged else "",
    ]
    note = "; ".join(filter(None, notes))
    summary = note if doubtful else "; ".join(filter(None, [f"no class falls by more than {max_drop:g}", note]))
    return Gate("classes", True, summary, {"classes_not_judged": list(not_judged)} if not_judged else {}, note)


def evaluate_shared_classes(
    shared: PairedPredictions, params: dict[str, Any], champion: Version, overlap: ClassOverlap
) -> Gate:
    """Check that the candidate is not worse on the classes that the champion knows, too.

    The champion cannot be right about a class that it does not know, and may answer with one that is gone. So the
    candidate need not be better where both know the classes: its accuracy there may be lower by at most
    `max_class_drop`, with the confidence of the interval.

    Args:
        shared: predictions of both models for the test images of these classes, as if there were no others.
        params: the section `promote` of params.yaml.
        champion: the version that serves.
        overlap: its classes beside those of the dataset.
    """
    from lightning_modules.comparison import paired

    max_drop = params["max_class_drop"]
    estimate = paired.compare_paired(shared, "accuracy", params["confidence"], params["resamples"])
    passes = max_drop is None or estimate.low > -max_drop
    pictures = format_count(len(shared.labels), "picture")
    margin = "any fall is allowed" if max_drop is None else f"{'above' if passes else 'not above'} {-max_drop:g}"
    message = (
        f"compared on the {format_class_count(len(shared.classes), shared.labels.ndim == 2)} of version "
        f"{champion.number} that there are still ({overlap.describe()}): accuracy {estimate.candidate:.4f} "
        f"against {estimate.champion:.4f} on {pictures}, gain {estimate.gain:+.4f}, "
        f"{params['confidence']:.0%} interval {estimate.low:+.4f} to {estimate.high:+.4f}, {margin}"
    )
    numbers = {
        "shared_accuracy": estimate.candidate, "compared_shared_accuracy": estimate.champion,
        "gain": estimate.gain, "gain_low": estimate.low, "gain_high": estimate.high,
        "num_shared": len(shared.labels), "classes_added": list(overlap.added),
        "classes_removed": list(overlap.removed),
    }  # fmt: skip
    return Gate("shared classes", passes, message, numbers)


def _find_not_judged(classes: Sequence[str], changes: Sequence[ClassChange], needed: int) -> dict[str, int]:
    """Return the number of groups of each class that has fewer than are needed."""
    num_groups = {change.name: change.num_groups for change in changes}
    return {name: num_groups.get(name, 0) for name in classes if num_groups.get(name, 0) < needed}


def _describe_not_judged(
    not_judged: dict[str, int], max_drop: float, needed: int, predictions: PairedPredictions
) -> str:
    is_grouped = len(predictions.labels) > int(predictions.clusters.max()) + 1
    noun = "groups of pictures" if is_grouped else "pictures"
    named = [f"{name} {num}" for name, num in sorted(not_judged.items(), key=lambda item: item[1])]
    more = f" and {len(named) - NUM_NAMED} more" if len(named) > NUM_NAMED else ""
    classes = format_class_count(len(named), multi_label=predictions.labels.ndim == 2)
    names = ", ".join(named[:NUM_NAMED])
    return f"not judged for a fall of {max_drop:g}, which shows in {needed:,} {noun}: {classes} ({names}{more})"


def _format_change(change: ClassChange) -> str:
    num_images = format_count(change.num_images, "picture")
    groups = f" in {format_count(change.num_groups, 'group')}" if change.num_groups < change.num_images else ""
    return f"{change.name} {change.champion:.3f} to {change.candidate:.3f} of {num_images}{groups}"
