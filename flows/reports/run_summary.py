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


def summarize_run(
    project: Project, decision: str, champion: Version | None, extra: Mapping[str, str] | None = None
) -> str:
    """Return the lines that a run ends with.

    Args:
        project: the project's folder.
        decision: on the last training, as one line.
        champion: what serves, if that is not the last training.
        extra: further lines by label.
    """
    lines = [
        *_iter_metrics(project),
        ("model", decision),
        *([("", f"{champion} serves: {champion.decision or 'no reason is recorded'}")] if champion else []),
        *_iter_pages(project),
        *(extra or {}).items(),
        *(("next" if i == 0 else "", command) for i, command in enumerate(NEXT_COMMANDS)),
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
        yield "test mAP", f"{_format_metric(metrics, 'map')} {on}"
        on += ", all labels of a picture right"
    yield "test accuracy", f"{_format_metric(metrics, 'accuracy')} {on}"
    weakest = [f"{name} {recall:.2f}" for name, recall in find_weakest_classes(metrics)]
    if weakest:
        yield "weakest", f"recall of {', '.join(weakest)}"


def _format_metric(metrics: Mapping[str, Any], name: str) -> str:
    interval = metrics["interval"].get(name)
    suffix = f" ({interval['low']:.4f} to {interval['high']:.4f})" if interval else ""
    return f"{metrics['test'][name]:.4f}{suffix}"


def _iter_pages(project: Project) -> Iterator[tuple[str, str]]:
    pages: list[Path] = [page for page in REPORT_PAGES if (project / page).is_file()]
    if pages:
        yield "report", ", ".join(map(str, pages))
