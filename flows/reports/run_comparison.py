"""Compare two runs: what went in, what came out, and which test pictures changed sides; as text and as a page."""

from __future__ import annotations

import base64
import csv
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from flows.project.paths import NORMALIZED
from flows.promotion import model_registry
from imageset.exceptions import UserError
from imageset.utils.atomic_write import write_text
from imageset.utils.text import format_count
from lightning_modules.tracking.tags import DATASET_TAG, GIT_COMMIT_TAG, PREDICTIONS_ARTIFACT

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

MAX_SHOWN_ROWS = 20  # rows of a table on the screen; the page has all
METRIC_PREFIXES = ("test_", "num_test", "best_")
RECALL_PREFIX = "recall_"

TableRow = tuple[str, str, str]  # what, in the one run, in the other
ChangedImage = tuple[str, str, str, str]  # image_id, actual, predicted by the one, by the other
PredictionsById = dict[str, tuple[str, str]]  # image_id -> actual, predicted


@dataclass(frozen=True)
class CompareResult:
    """Two runs, side by side; only what differs is in the tables, but for the metrics, which are all there.

    Attributes:
        won, lost: pictures that only the other, only the one names rightly.
        num_shared: test pictures that both were tested on; None where a run has no table of predictions.
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

    def __str__(self) -> str:
        lines = [f"{'':<43}{self.first_run_id[:12]:<27}{self.second_run_id[:12]}"]
        for title, rows in self.iter_tables():
            lines += [title, *(f"  {what:<40} {one:<26} {other}" for what, one, other in rows[:MAX_SHOWN_ROWS])]
            lines += [f"  ... and {len(rows) - MAX_SHOWN_ROWS} more"] if len(rows) > MAX_SHOWN_ROWS else []
        return "\n".join([*lines, self.format_changed_images()])

    def iter_tables(self) -> Iterator[tuple[str, list[TableRow]]]:
        """The tables that hold something, with their titles."""
        titles = {"data and code": self.inputs, "parameters that differ": self.params, "metrics": self.metrics,
                  "recall of each class": self.recalls}  # fmt: skip
        return ((title, rows) for title, rows in titles.items() if rows)

    def format_changed_images(self) -> str:
        """How many pictures changed sides, in one line."""
        if self.num_shared is None:
            return "pictures: one of the runs was not evaluated"
        return (
            f"pictures: of {self.num_shared:,} that both were tested on, {len(self.gained):,} are right only in "
            f"{self.second_run_id[:12]}, {len(self.lost):,} only in {self.first_run_id[:12]}"
        )


def compare_runs(project: Path, one: str, other: str, page: Path | None = None) -> CompareResult:
    """Compare two runs, and write the page if one is asked for.

    Raises:
        UserError: no such run, or the page cannot be written.
    """
    client = model_registry.connect_registry(project)
    runs = [model_registry.find_run(client, run_id) for run_id in (one, other)]
    tables = [_download_predictions(client, run) for run in runs]
    won, lost, num_shared = _find_changed_images(*tables)
    params = [run.data.params for run in runs]
    metrics = [run.data.metrics for run in runs]
    found = CompareResult(
        runs[0].info.run_id, runs[1].info.run_id,
        inputs=_pair_values(*(_collect_inputs(run) for run in runs)),
        params=_select_different(*params),
        metrics=sorted(_format_changes(*(_select_by_prefix(values, METRIC_PREFIXES) for values in metrics)), key=_sort_intervals_last),
        recalls=_sort_by_change(*(_select_by_prefix(values, (RECALL_PREFIX,)) for values in metrics)),
        gained=won, lost=lost, num_shared=num_shared,
    )  # fmt: skip
    if page is not None:
        _write_comparison_page(project, found, page)
    return found


def _format_number(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) and abs(value) > 1 else f"{value:.4f}"


def _collect_inputs(run: Run) -> dict[str, str]:
    tags = run.data.tags
    digests = ", ".join(one.dataset.digest[:12] for one in run.inputs.dataset_inputs) if run.inputs else ""
    return {"status": run.info.status, "data": f"{tags.get(DATASET_TAG, '?')} {digests}".strip(),
            "commit": tags.get(GIT_COMMIT_TAG, "none")[:12]}  # fmt: skip


def _format_changes(one: Mapping[str, float], other: Mapping[str, float]) -> list[TableRow]:
    """Numbers side by side, with what the other gained on the one."""
    said = [{name: _format_number(value) for name, value in values.items()} for values in (one, other)]
    for name in one.keys() & other.keys():
        if one[name] != other[name]:
            said[1][name] += f" ({other[name] - one[name]:+.4g})"
    return _pair_values(*said)


def _sort_by_change(one: Mapping[str, float], other: Mapping[str, float]) -> list[TableRow]:
    """The same for what differs only, the largest change first."""

    def size(row: TableRow) -> float:
        name = row[0]
        return abs(other[name] - one[name]) if name in one and name in other else float("inf")

    rows = [row for row in _format_changes(one, other) if one.get(row[0]) != other.get(row[0])]
    return sorted(rows, key=size, reverse=True)


def _select_by_prefix(values: Mapping[str, float], beginnings: tuple[str, ...]) -> dict[str, float]:
    return {name: value for name, value in values.items() if name.startswith(beginnings)}


def _pair_values(one: Mapping[str, str], other: Mapping[str, str]) -> list[TableRow]:
    return [(name, one.get(name, "-"), other.get(name, "-")) for name in sorted(one.keys() | other.keys())]


def _sort_intervals_last(row: TableRow) -> tuple[bool, str]:
    return row[0].endswith(("_low", "_high")), row[0]


def _select_different(one: Mapping[str, str], other: Mapping[str, str]) -> list[TableRow]:
    return [row for row in _pair_values(one, other) if row[1] != row[2]]


def _download_predictions(client: MlflowClient, run: Run) -> PredictionsById | None:
    from mlflow.exceptions import MlflowException

    try:
        text = Path(client.download_artifacts(run.info.run_id, PREDICTIONS_ARTIFACT)).read_text(encoding="utf-8")
    except (MlflowException, OSError):
        return None
    return {row["image_id"]: (row["actual"], row["predicted"]) for row in csv.DictReader(io.StringIO(text))}


def _find_changed_images(
    one: PredictionsById | None, other: PredictionsById | None
) -> tuple[list[ChangedImage], list[ChangedImage], int | None]:
    if one is None or other is None:
        return [], [], None
    won: list[ChangedImage] = []
    lost: list[ChangedImage] = []
    shared = sorted(one.keys() & other.keys())
    for image_id in shared:
        (actual, first), (_, second) = one[image_id], other[image_id]
        if (first == actual) != (second == actual):
            (lost if first == actual else won).append((image_id, actual, first, second))
    return won, lost, len(shared)


# ---- the page --------------------------------------------------------------------------------------------------

STYLE = """
body { font: 15px system-ui, sans-serif; margin: 2em auto; max-width: 70em; padding: 0 1em; color: #222 }
h1 { font-size: 1.3em } h2 { font-size: 1.05em; margin-top: 1.8em }
table { border-collapse: collapse }
td, th { text-align: left; padding: .2em 1.2em .2em 0; border-bottom: 1px solid #ddd }
figure { display: inline-block; margin: .4em .8em .4em 0; font-size: .8em; vertical-align: top; width: 8.5em }
img { width: 8em; image-rendering: pixelated; background: #eee; display: block }
"""


def _write_comparison_page(project: Path, found: CompareResult, page: Path) -> None:
    if page.suffix.lower() != ".html" or not page.parent.is_dir():
        raise UserError(f"{page}: name a file that ends in .html, in a folder that exists")
    thumbnails = _encode_thumbnails(project, [row[0] for row in found.gained + found.lost])
    heads = f"<tr><th></th><th>{escape(found.first_run_id[:12])}</th><th>{escape(found.second_run_id[:12])}</th></tr>"
    parts = [f"<h1>{escape(found.first_run_id[:12])} and {escape(found.second_run_id[:12])}</h1><p>{escape(found.format_changed_images())}</p>"]
    for title, rows in found.iter_tables():
        cells = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
        parts.append(f"<h2>{escape(title)}</h2><table>{heads}{cells}</table>")
    for title, changed in ((f"right only in {found.second_run_id[:12]}", found.gained),
                           (f"right only in {found.first_run_id[:12]}", found.lost)):  # fmt: skip
        figures = "".join(_render_figure(row, thumbnails.get(row[0])) for row in changed)
        parts.append(f"<h2>{format_count(len(changed), 'picture')} {escape(title)}</h2>{figures}")
    head = f"<!doctype html><meta charset=utf-8><title>compare</title><style>{STYLE}</style>"
    write_text(page, f"{head}{''.join(parts)}\n")


def _render_figure(row: ChangedImage, png: bytes | None) -> str:
    image_id, actual, first, second = row
    image = f'<img alt="" src="data:image/png;base64,{base64.b64encode(png).decode()}">' if png else ""
    return (
        f"<figure>{image}<figcaption title={escape(image_id)}>{escape(actual)}: first {escape(first)}, "
        f"then {escape(second)}</figcaption></figure>"
    )


def _encode_thumbnails(project: Path, image_ids: list[str]) -> dict[str, bytes]:
    """The pictures as data/normalized has them; none of those that it does not hold (any more)."""
    import numpy as np

    from imageset.html.png import encode_png
    from imageset.store.reader import ImageStore

    try:
        split = ImageStore.open(project / NORMALIZED).split("test")
    except UserError:
        return {}
    places = {image_id: place for place, image_id in enumerate(split.image_ids)}
    here = [image_id for image_id in image_ids if image_id in places]
    if not here:
        return {}
    images = split.read_batch(np.array([places[one] for one in here]))
    return {one: encode_png(image[..., 0] if image.shape[2] == 1 else image)
            for one, image in zip(here, images, strict=True)}  # fmt: skip
