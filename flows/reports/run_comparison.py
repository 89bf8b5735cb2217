"""Compare two runs: their inputs, parameters and metrics, and the test images that only one of them gets right."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.project.paths import NORMALIZED
from flows.project.project import Project
from flows.promotion import model_registry
from flows.versioning import restoration
from imageset.exceptions import UserError
from imageset.utils.atomic_write import write_bytes
from imageset.utils.text import format_count, unescape_cell
from lightning_modules.tracking.tags import DATASET_TAG, GIT_COMMIT_TAG, PREDICTIONS_ARTIFACT

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

MAX_SHOWN_ROWS = 20  # rows of a table on the screen; the page has all
SHORT_ID = 12  # characters of a run's ID that are shown
METRIC_PREFIXES = ("test_", "num_test", "best_")
RECALL_PREFIX = "recall_"

TableRow = tuple[str, str, str]  # name, value in the first run, value in the second run
ChangedImage = tuple[str, str, str, str]  # image_id, actual, predicted by the first run, by the second run
PredictionsById = dict[str, tuple[str, str]]  # image_id -> actual, predicted


@dataclass(frozen=True)
class CompareResult:
    """Two runs side by side. The tables hold only rows that differ, except the metrics, which are complete.

    Attributes:
        first_run_id: the run to compare with.
        second_run_id: the run that is compared.
        inputs: status, data and commit.
        params: parameters that differ.
        metrics: all test metrics.
        recalls: recall of the classes where it differs, the largest change first.
        gained: test images that only the second run gets right.
        lost: test images that only the first run gets right.
        num_shared: test images of both runs; None if a run has no table of predictions.
        runs: both runs, as `to_dict` returns them.
        missing: why a run has no table of predictions.
    """

    first_run_id: str
    second_run_id: str
    inputs: list[TableRow]
    params: list[TableRow]
    metrics: list[TableRow]
    recalls: list[TableRow]
    gained: list[ChangedImage]
    lost: list[ChangedImage]
    num_shared: int | None
    runs: list[dict[str, Any]] = field(default_factory=list)
    missing: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return the values for JSON.

        runs: of both runs {run_id, status, data, commit, params, metrics, recalls}; the numbers are not rounded.
        gained, lost: test images that only the second, or only the first run gets right, {image_id, actual,
            first, second}.
        num_shared: test images of both runs; null if a run has no table of predictions.
        """
        names = ("image_id", "actual", "first", "second")
        changed = {
            key: [dict(zip(names, row, strict=True)) for row in rows]
            for key, rows in (("gained", self.gained), ("lost", self.lost))
        }
        return {"runs": self.runs, **changed, "num_shared": self.num_shared}

    def __str__(self) -> str:
        first_id, second_id = self.first_run_id[:SHORT_ID], self.second_run_id[:SHORT_ID]
        lines = [f"{'':<43}{first_id:<27}{second_id}"]
        for title, rows in self.iter_tables():
            lines += [
                title,
                *(f"  {name:<40} {first:<26} {second}" for name, first, second in rows[:MAX_SHOWN_ROWS]),
            ]
            lines += [f"  ... and {len(rows) - MAX_SHOWN_ROWS} more"] if len(rows) > MAX_SHOWN_ROWS else []
        return "\n".join([*lines, self.format_changed_images()])

    def iter_tables(self) -> Iterator[tuple[str, list[TableRow]]]:
        """Yield the tables that are not empty, with their titles."""
        titles = {"data and code": self.inputs, "parameters that differ": self.params, "metrics": self.metrics,
                  "recall of each class": self.recalls}  # fmt: skip
        return ((title, rows) for title, rows in titles.items() if rows)

    def format_changed_images(self) -> str:
        """Format the number of images that only one of the runs gets right as one line."""
        if self.num_shared is None:
            return f"pictures: {self.missing}"
        return (
            f"pictures: of {self.num_shared:,} that both were tested on, {len(self.gained):,} are right only in "
            f"{self.second_run_id[:SHORT_ID]}, {len(self.lost):,} only in {self.first_run_id[:SHORT_ID]}"
        )


def compare_runs(
    project: Project, first_run_id: str, second_run_id: str, page_path: Path | None = None
) -> CompareResult:
    """Compare two runs, and write a page if a path is given.

    Raises:
        UserError: a run does not exist, or the page cannot be written.
    """
    client = restoration.open_registry(project, first_run_id, second_run_id)
    first, second = (model_registry.find_run(client, run_id) for run_id in (first_run_id, second_run_id))
    tables = [_download_predictions(client, run) for run in (first, second)]
    gained, lost, num_shared = _find_changed_images(*tables)
    missing = [_explain_missing(run) for run, table in zip((first, second), tables, strict=True) if table is None]
    metrics = [_select_by_prefix(run.data.metrics, METRIC_PREFIXES) for run in (first, second)]
    recalls = [_select_by_prefix(run.data.metrics, (RECALL_PREFIX,)) for run in (first, second)]
    result = CompareResult(
        first.info.run_id, second.info.run_id,
        inputs=_pair_values(_collect_inputs(first), _collect_inputs(second)),
        params=_select_different(first.data.params, second.data.params),
        metrics=sorted(_format_changes(*metrics), key=_sort_intervals_last),
        recalls=_sort_by_change(*recalls),
        gained=gained, lost=lost, num_shared=num_shared,
        runs=[
            {"run_id": run.info.run_id, **_collect_inputs(run), "params": dict(run.data.params), "metrics": values,
             "recalls": {name.removeprefix(RECALL_PREFIX): value for name, value in of_class.items()}}
            for run, values, of_class in zip((first, second), metrics, recalls, strict=True)
        ],
        missing="; ".join(missing),
    )  # fmt: skip
    if page_path is not None:
        _write_comparison_page(project, result, page_path)
    return result


def _format_number(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) and abs(value) > 1 else f"{value:.4f}"


def _collect_inputs(run: Run) -> dict[str, str]:
    tags = run.data.tags
    inputs = run.inputs.dataset_inputs if run.inputs else []
    digests = ", ".join(dataset_input.dataset.digest[:12] for dataset_input in inputs)
    return {"status": run.info.status, "data": f"{tags.get(DATASET_TAG, '?')} {digests}".strip(),
            "commit": tags.get(GIT_COMMIT_TAG, "none")[:12]}  # fmt: skip


def _format_changes(first: Mapping[str, float], second: Mapping[str, float]) -> list[TableRow]:
    """Format numbers side by side, the second with its difference from the first."""
    formatted = {name: _format_number(value) for name, value in second.items()}
    for name in first.keys() & second.keys():
        if first[name] != second[name]:
            formatted[name] += f" ({second[name] - first[name]:+.4g})"
    return _pair_values({name: _format_number(value) for name, value in first.items()}, formatted)


def _sort_by_change(first: Mapping[str, float], second: Mapping[str, float]) -> list[TableRow]:
    """Format the numbers that differ side by side, the largest change first."""

    def size(row: TableRow) -> float:
        name = row[0]
        return abs(second[name] - first[name]) if name in first and name in second else float("inf")

    rows = [row for row in _format_changes(first, second) if first.get(row[0]) != second.get(row[0])]
    return sorted(rows, key=size, reverse=True)


def _select_by_prefix(values: Mapping[str, float], prefixes: tuple[str, ...]) -> dict[str, float]:
    return {name: value for name, value in values.items() if name.startswith(prefixes)}


def _pair_values(first: Mapping[str, str], second: Mapping[str, str]) -> list[TableRow]:
    return [(name, first.get(name, "-"), second.get(name, "-")) for name in sorted(first.keys() | second.keys())]


def _sort_intervals_last(row: TableRow) -> tuple[bool, str]:
    return row[0].endswith(("_low", "_high")), row[0]


def _select_different(first: Mapping[str, str], second: Mapping[str, str]) -> list[TableRow]:
    return [row for row in _pair_values(first, second) if row[1] != row[2]]


def _download_predictions(client: MlflowClient, run: Run) -> PredictionsById | None:
    from mlflow.exceptions import MlflowException

    try:
        text = Path(client.download_artifacts(run.info.run_id, PREDICTIONS_ARTIFACT)).read_text(encoding="utf-8")
    except (MlflowException, OSError):
        return None
    return {
        row["image_id"]: (unescape_cell(row["actual"]), unescape_cell(row["predicted"]))
        for row in csv.DictReader(io.StringIO(text))
    }


def _explain_missing(run: Run) -> str:
    """Explain why a run has no table of predictions."""
    run_id = run.info.run_id[:SHORT_ID]
    if not _select_by_prefix(run.data.metrics, ("test_",)):
        return f"run {run_id} was not evaluated"
    return f"run {run_id} was evaluated, but {PREDICTIONS_ARTIFACT} is missing from {run.info.artifact_uri}"


def _find_changed_images(
    first: PredictionsById | None, second: PredictionsById | None
) -> tuple[list[ChangedImage], list[ChangedImage], int | None]:
    """Return what the second run gained and lost, and how many test images both runs have."""
    if first is None or second is None:
        return [], [], None
    gained: list[ChangedImage] = []
    lost: list[ChangedImage] = []
    shared = sorted(first.keys() & second.keys())
    for image_id in shared:
        (actual, first_label), (_, second_label) = first[image_id], second[image_id]
        if (first_label == actual) != (second_label == actual):
            changed = lost if first_label == actual else gained
            changed.append((image_id, actual, first_label, second_label))
    return gained, lost, len(shared)


# ---- the page --------------------------------------------------------------------------------------------------


def _write_comparison_page(project: Project, result: CompareResult, path: Path) -> None:
    from imageset.html.page import render_page

    if path.suffix.lower() != ".html" or not path.parent.is_dir():
        raise UserError(f"{path}: name a file that ends in .html, in a folder that exists")
    thumbnails = _encode_thumbnails(project, [row[0] for row in result.gained + result.lost])
    first_id, second_id = result.first_run_id[:SHORT_ID], result.second_run_id[:SHORT_ID]
    values = {
        "title": f"{first_id} and {second_id}",
        "summary": result.format_changed_images(),
        "first_run_id": first_id,
        "second_run_id": second_id,
        "tables": list(result.iter_tables()),
        "changed": [
            _describe_changed_images(result.gained, second_id, thumbnails),
            _describe_changed_images(result.lost, first_id, thumbnails),
        ],
    }
    write_bytes(path, render_page("comparison.html", values))


def _describe_changed_images(
    changed: list[ChangedImage], run_id: str, thumbnails: Mapping[str, bytes]
) -> tuple[str, list[dict[str, Any]]]:
    title = f"{format_count(len(changed), 'picture')} right only in {run_id}"
    images = [
        {
            "image_id": image_id,
            "actual": actual,
            "first": first,
            "second": second,
            "image": thumbnails.get(image_id),
        }
        for image_id, actual, first, second in changed
    ]
    return title, images


def _encode_thumbnails(project: Project, image_ids: list[str]) -> dict[str, bytes]:
    """Encode images of data/normalized as PNG files, by image_id; images that it does not hold are left out."""
    import numpy as np

    from imageset.html.png import encode_png
    from imageset.store.reader import ImageStore

    try:
        split = ImageStore.open(project / NORMALIZED).split("test")
    except UserError:
        return {}
    positions = {image_id: position for position, image_id in enumerate(split.image_ids)}
    present = [image_id for image_id in image_ids if image_id in positions]
    if not present:
        return {}
    images = split.read_batch(np.array([positions[image_id] for image_id in present]))
    return {image_id: encode_png(image[..., 0] if image.shape[2] == 1 else image)
            for image_id, image in zip(present, images, strict=True)}  # fmt: skip
