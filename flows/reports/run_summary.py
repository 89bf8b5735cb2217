"""The end of `convoy run` and `convoy demo`: how good the model is, what serves and why, and how to go on."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.project.paths import METRICS, NORMALIZED, REPORT
from flows.project.project import Project

if TYPE_CHECKING:
    from flows.promotion.model_registry import Version

REPORT_PAGES = (REPORT / "what_the_network_sees.html", NORMALIZED / "dataset.html")
NUM_WEAKEST = 3  # classes that are named
NEXT_COMMANDS = ("convoy predict FOLDER", "convoy status")
HEADLINES = {"map": "mAP", "accuracy": "accuracy"}  # the metrics that stand first, and how text calls them
BASELINES = {"map": "scores that ignore the pictures", "accuracy": "always the most frequent answer"}
BASELINE_PREFIX = "baseline_"  # in metrics.json, of predictions that ignore the pictures


def summarize_run(
    project: Project,
    decision: str,
    champion: Version | None,
    extra: Mapping[str, str] | None = None,
    nothing_serves: bool = False,
) -> str:
    """Return the lines that a run ends with.

    Args:
        project: the project's folder.
        decision: on the last training, as one line.
        champion: what serves, if that is not the last training.
        extra: further lines by label.
        nothing_serves: whether there is no model to predict with.
    """
    lines = [
        *_iter_metrics(project),
        ("model", decision),
        *([("", f"{champion} serves: {champion.decision or 'no reason is recorded'}")] if champion else []),
        *_iter_pages(project),
        *(extra or {}).items(),
        *(("next" if i == 0 else "", command) for i, command in enumerate(NEXT_COMMANDS[nothing_serves:])),
    ]
    return "\n".join(["", *(f"{label:<15}{text}" for label, text in lines)])


def find_weakest_classes(metrics: Mapping[str, Any]) -> list[tuple[str, float]]:
    """Return the classes with the lowest recall, the lowest first; a class without test pictures has none.

    Args:
        metrics: the content of metrics.json.
    """
    recalls: Mapping[str, float] = metrics.get("recall", {})
    return sorted(recalls.items(), key=lambda item: (item[1], item[0]))[:NUM_WEAKEST]


def _iter_metrics(project: Project) -> Iterator[tuple[str, str]]:
    try:
        metrics = json.loads((project / METRICS).read_text(encoding="utf-8"))
    except (
        OSError,
        ValueError,
    ):  # `dvc repro` writes it, and a run ends without it only where somebody removed it
        return
    on = f"on {metrics['num_test']:,} test pictures"
    if "map" in metrics["test"]:
        yield "test mAP", f"{_format_metric(metrics, 'map')} {on}{_format_baseline(metrics, 'map')}"
        on += ", all labels of a picture right"
    yield "test accuracy", f"{_format_metric(metrics, 'accuracy')} {on}{_format_baseline(metrics, 'accuracy')}"
    if abstention := format_abstention(metrics):
        yield "", abstention
    weakest = [f"{name} {recall:.2f}" for name, recall in find_weakest_classes(metrics)]
    if weakest:
        yield "weakest", f"recall of {', '.join(weakest)}"


def _format_metric(metrics: Mapping[str, Any], name: str) -> str:
    interval = metrics["interval"].get(name)
    suffix = f" ({interval['low']:.4f} to {interval['high']:.4f})" if interval else ""
    return f"{metrics['test'][name]:.4f}{suffix}"


def format_with_baseline(test: Mapping[str, float], name: str) -> str:
    """Return a headline of the section `test` of metrics.json: "accuracy 0.9688 (baseline 0.1190)"."""
    baseline = test.get(BASELINE_PREFIX + name)
    suffix = "" if baseline is None else f" (baseline {baseline:.4f})"
    return f"{HEADLINES[name]} {test[name]:.4f}{suffix}"


def _format_baseline(metrics: Mapping[str, Any], name: str) -> str:
    baseline = metrics["test"].get(BASELINE_PREFIX + name)  # an earlier Convoy measured none
    return "" if baseline is None else f"; baseline {baseline:.4f} ({BASELINES[name]})"


def format_abstention(metrics: Mapping[str, Any]) -> str:
    """Return how many test pictures get a label, and how many of these labels are right; "" if all get one.

    Args:
        metrics: the content of metrics.json.
    """
    numbers = metrics.get("abstention", {})
    if "abstain_below" not in numbers:
        return ""
    right = f", of those {numbers['selective_accuracy']:.4f} right" if "selective_accuracy" in numbers else ""
    threshold = f"{numbers['abstain_below']:g}"
    return f"with abstain_below {threshold} it answers {numbers['coverage']:.0%}{right}; above: if it answered all"


def _iter_pages(project: Project) -> Iterator[tuple[str, str]]:
    pages: list[Path] = [page for page in REPORT_PAGES if (project / page).is_file()]
    if pages:
        yield "report", ", ".join(map(str, pages))
