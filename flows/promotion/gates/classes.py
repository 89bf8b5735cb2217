"""The gate `classes`: no class loses recall, beyond chance."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flows.promotion.gates.gate import Gate
from imageset.utils.text import format_count

if TYPE_CHECKING:
    from lightning_modules.comparison.paired import ClassChange, PairedPredictions


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
