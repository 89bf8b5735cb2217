"""The gain that the test pictures could show: for `convoy check`, `status` and `promote --power`.

Everything comes from the numbers of the last decision in the ledger, so that `convoy status` loads neither numpy
nor MLflow.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from flows.project.paths import MANIFEST
from flows.project.paths import METRICS as METRICS_FILE
from flows.project.project import Project
from flows.promotion import ledger
from flows.promotion.ledger import LedgerEntry
from imageset.exceptions import UserError
from imageset.utils.text import format_count
from lightning_modules.comparison.gain.power import ASSUMED_ACCURACY, POWER, PowerAnalysis

METRICS = (
    "accuracy",
    "map",
    "macro_f1",
    "macro_recall",
    "micro_f1",
    "log_loss",
    "calibration_error",
)
NUMBER_TAG_PREFIX = "convoy."
TABLE_FACTORS = (1, 2, 5, 10, 20, 50)


@dataclass(frozen=True)
class ScoredModel:
    """The champion's value on the test pictures, and the gain that they could show.

    Attributes:
        model: registered name.
        version: of the champion; None if it is only the last training.
        analysis: of the power.
        num_used: decisions that have used the test pictures.
        unseen: the champion's value on those that no decision had used, and their number; None if there are none.
    """

    model: str
    version: int | None
    analysis: PowerAnalysis
    num_used: int = 0
    unseen: tuple[float, int] | None = None

    def describe_value(self) -> str:
        """Return the champion's value, with what the test pictures were used for."""
        analysis = self.analysis
        text = f"{analysis.metric.replace('_', ' ')} {analysis.value:.4f} on "
        text += format_count(analysis.num_images, "test picture")
        if self.num_used:
            text += f" that {format_count(self.num_used, 'decision has used', 'decisions have used')}"
        if self.unseen:
            text += f", {self.unseen[0]:.4f} on the {self.unseen[1]:,} of them that were new"
        return text

    def to_dict(self) -> dict[str, Any]:
        """Return the values for JSON."""
        analysis = self.analysis
        return {
            "model": self.model, "version": self.version, "metric": analysis.metric, "value": analysis.value,
            "num_test": analysis.num_images, "num_decisions": self.num_used,
            "smallest_gain": analysis.find_smallest_gain(), "target_gain": analysis.target_gain,
            "num_needed": analysis.count_needed_images(),
        }  # fmt: skip


def find_scored_model(project: Project, entries: list[LedgerEntry], model: str) -> ScoredModel | None:
    """Return the champion's value and the power of the test pictures; None if nothing was tested yet."""
    champion = ledger.find_serving(entries).get(model, {}).get("champion")
    for entry in reversed(entries):
        is_about = entry["event"] == ledger.DECISION and entry["model"] == model
        if not is_about or champion not in (entry["version"], entry.get("champion")):
            continue
        scored = _read_decision(entry, model, "" if entry["version"] == champion else "compared_")
        if scored is not None:
            return scored
    return _read_last_training(project, model)


def _read_decision(entry: LedgerEntry, model: str, prefix: str) -> ScoredModel | None:
    """Return the value of the candidate ("") or the champion ("compared_") of a decision; None without one."""
    numbers = read_numbers(entry)
    analysis = analyze_numbers(numbers, prefix)
    if analysis is None:
        return None
    value, num_unseen = numbers.get(f"{prefix}unseen_{analysis.metric}"), numbers.get("num_unseen")
    unseen = (value, int(num_unseen)) if value is not None and num_unseen else None
    version = entry["version"] if not prefix else entry["champion"]
    return ScoredModel(model, version, analysis, int(numbers.get("num_looks", 0)) + 1, unseen)


def analyze_numbers(numbers: Mapping[str, float], prefix: str) -> PowerAnalysis | None:
    """Return the power of the test pictures for the candidate ("") or the champion ("compared_") of a decision.

    None if the decision has no such numbers.
    """
    metric = next((name for name in METRICS if f"{prefix}{name}" in numbers), None)
    num_test = int(numbers.get("num_test") or 0)
    if metric is None or not num_test:
        return None
    return PowerAnalysis(
        metric, numbers[f"{prefix}{metric}"], num_test, int(numbers.get("num_groups", num_test)),
        num_looks=int(numbers.get("num_spending", 0)) + 1, total=1 - numbers.get("confidence", 0.95),
        deviation=numbers.get("gain_deviation"), log_loss=numbers.get(f"{prefix}recalibrated_log_loss"),
        log_loss_deviation=numbers.get("log_loss_gain_deviation"),
        max_accuracy_drop=numbers.get("max_accuracy_drop"),
    )  # fmt: skip


def read_numbers(entry: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of a decision; of one that another clone made, from the tags of its version."""
    if entry.get("numbers"):
        return {name: value for name, value in entry["numbers"].items() if isinstance(value, int | float)}
    numbers = {}
    for key, text in (entry.get("tags") or {}).items():
        try:
            numbers[key.removeprefix(NUMBER_TAG_PREFIX)] = float(text)
        except ValueError:  # a tag that is not a number
            continue
    return numbers


def _read_last_training(project: Project, model: str) -> ScoredModel | None:
    """Return the test result in metrics.json, of the last training."""
    try:
        test = json.loads((project / METRICS_FILE).read_text(encoding="utf-8"))["test"]
        manifest = json.loads((project / MANIFEST).read_text(encoding="utf-8"))
        num_test = sum(manifest["counts"]["test"].values())
        metric = next(name for name in METRICS if name in test)
        return ScoredModel(model, None, PowerAnalysis(metric, float(test[metric]), num_test, num_test))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, StopIteration):
        return None


# ---- sentences --------------------------------------------------------------------------------------


def describe_power(analysis: PowerAnalysis) -> str:
    """Return which gains the test pictures could show, and how many would show a useful one."""
    errors = ""
    if analysis.metric == "accuracy":
        num_errors = round((1 - analysis.value) * analysis.num_images)
        errors = f", {format_count(num_errors, 'error')}"
    text = f"{format_count(analysis.num_images, 'test picture')}{errors}: "
    smallest, needed = analysis.find_smallest_gain(), analysis.count_needed_images()
    name = analysis.metric.replace("_", " ")
    if smallest is None:
        text += f"a better model cannot be told by {name}"
    else:
        text += (
            f"a gain in {name} of {format_gain(analysis, smallest)} or more would be seen in {POWER:.0%} of cases"
        )
        if smallest <= analysis.target_gain:
            return text
    target = format_gain(analysis, analysis.target_gain)
    if needed is None:
        return f"{text}; no number of test pictures could tell"
    return f"{text}; about {needed:,} test pictures could tell {target}"


def format_gain(analysis: PowerAnalysis, gain: float) -> str:
    """Format a gain: accuracy in points of a hundredth, other metrics as they are."""
    if analysis.metric != "accuracy":
        return f"{gain:.2g}"
    points = float(f"{100 * gain:.2g}")
    return f"{points:g} point{'' if points == 1 else 's'}"


def describe_planned_power(project: Project, num_test: int) -> str | None:
    """Return which gains a number of test pictures could show, before a training; None if there are none.

    Where no model was tested yet, one is assumed that is right on ASSUMED_ACCURACY of them.
    """
    if not num_test:
        return None
    tested = None
    with suppress(UserError):  # `convoy status` reports it
        tested = find_scored_model(project, ledger.read_ledger(project), project.read_name())
    if tested is not None and tested.analysis.num_images == num_test:
        return describe_power(tested.analysis)
    value = tested.analysis.value if tested and tested.analysis.metric == "accuracy" else ASSUMED_ACCURACY
    analysis = PowerAnalysis("accuracy", value, num_test, num_test)
    return f"of a model with accuracy {value:.2g}: {describe_power(analysis)}"


# ---- `convoy promote --power` -----------------------------------------------------------------------


def report_power(project: Project) -> str:
    """Return a table of the smallest gain that would be seen, by the number of test pictures.

    Raises:
        UserError: no model was tested yet.
    """
    model = project.read_dataset_name()
    tested = find_scored_model(project, ledger.read_ledger(project), model)
    if tested is None:
        raise UserError(f"{model}: no model was tested yet, so its errors are not known; run `convoy run FOLDER`")
    version = "the last training" if tested.version is None else f"version {tested.version}"
    return "\n".join([
        f"{model} {version}: {tested.describe_value()}", describe_power(tested.analysis), "",
        *_iter_table(tested.analysis),
    ])  # fmt: skip


def _iter_table(analysis: PowerAnalysis) -> Iterator[str]:
    name = analysis.metric.replace("_", " ")
    yield f"{'test pictures':>15}   smallest gain in {name} seen in {POWER:.0%} of cases"
    for factor in TABLE_FACTORS:
        num_images = factor * analysis.num_images
        smallest = analysis.find_smallest_gain(num_images)
        gain = "none that is possible" if smallest is None else format_gain(analysis, smallest)
        now = "now" if factor == 1 else f"x{factor}"
        yield f"{num_images:>9,} {now:>5}   {gain}"
