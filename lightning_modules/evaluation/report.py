"""What is to be said of a model after its test: every number of metrics.json and every file of the report."""

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from imageset.store.reader import StoreSplit
from imageset.utils.text import format_count
from lightning_modules.calibration import temperature as calibration_temperature
from lightning_modules.calibration import thresholds
from lightning_modules.evaluation import metrics, plots
from lightning_modules.evaluation import reliability as calibration_reliability
from lightning_modules.evaluation.bootstrap import Bootstrap, assign_resampling_units, sum_by_key
from lightning_modules.evaluation.label_issues import format_label_issues, rank_label_issues
from lightning_modules.evaluation.params import EvaluationParams
from lightning_modules.evaluation.slices import Slice, compute_slices


@dataclass(frozen=True)
class ScoredSplit:
    """One split and what the network said of it: logits float32 (n, C), in the split's order; the bundle's
    temperature, and its thresholds where a picture may bear several labels."""

    split: StoreSplit
    logits: np.ndarray
    temperature: float
    thresholds: tuple[float, ...] | None = None

    @property
    def classes(self) -> tuple[str, ...]:
        return self.split.store.classes

    @property
    def multi_label(self) -> bool:
        return self.split.store.multi_label

    @cached_property
    def probabilities(self) -> np.ndarray:
        """float32 (n, C), calibrated."""
        return calibration_temperature.to_probabilities(self.logits, self.temperature, self.multi_label)

    @cached_property
    def predicted(self) -> np.ndarray:
        """The class, int64 (n,); or with several labels a picture those from their thresholds on, bool (n, C)."""
        if self.multi_label:
            return thresholds.apply_thresholds(
                self.probabilities, self.thresholds or [thresholds.DEFAULT_THRESHOLD] * len(self.classes)
            )
        return self.probabilities.argmax(axis=1)

    @cached_property
    def confidence(self) -> np.ndarray:
        """float32 (n,): the probability of what is said, of several labels that of the least sure decision."""
        if self.multi_label:
            return thresholds.compute_confidence(self.probabilities, self.predicted)
        return self.probabilities.max(axis=1)

    @cached_property
    def correct(self) -> np.ndarray:
        """bool (n,): whether a picture's class, or each of its labels, was said as it is."""
        same = np.asarray(self.predicted == self.split.labels)
        return np.asarray(same.all(axis=1)) if self.multi_label else same

    def compute_reliability(self, temperature: float, num_bins: int) -> calibration_reliability.ReliabilityBins:
        """How often it was right by how sure it was; of several labels each is a prediction of its own."""
        probabilities = calibration_temperature.to_probabilities(self.logits, temperature, self.multi_label)
        if self.multi_label:
            return calibration_reliability.compute_reliability(
                probabilities.ravel(), self.split.labels.ravel() > 0, num_bins
            )
        return calibration_reliability.compute_reliability(probabilities.max(axis=1), self.correct, num_bins)

    def format_labels(self, row: np.ndarray | int) -> str:
        """One picture's class, or its labels, in words."""
        if self.multi_label:
            return thresholds.join_labels(self.classes, np.asarray(row))
        return self.classes[int(row)]


@dataclass(frozen=True)
class EvaluationReport:
    """metrics.json, and the files of the report by name."""

    metrics: dict[str, Any]
    files: dict[str, bytes]

    def summary(self) -> str:
        """What a person wants to know first."""
        test = self.metrics["test"]
        parts = [f"test accuracy {test['accuracy']:.4f} ({self._interval('accuracy')})"]
        if "map" in test:
            parts.insert(0, f"test mAP {test['map']:.4f} ({self._interval('map')})")
        parts += [f"test loss {test['loss']:.4f}", f"calibration error {test['ece']:.4f}"]
        return f"{', '.join(parts)} over {format_count(self.metrics['num_test'], 'picture')}"

    def _interval(self, name: str) -> str:
        interval = self.metrics["interval"][name]
        return f"{interval['low']:.4f} to {interval['high']:.4f}"


def evaluate_split(test: ScoredSplit, val: ScoredSplit, settings: EvaluationParams) -> EvaluationReport:
    """Measure the test split; likely label errors are looked for in the validation split too.

    `metrics["test"]` has yet to get what Lightning measured.
    """
    measured = (measure_multilabel if test.multi_label else measure_multiclass)(test, settings.bootstrap)
    before = test.compute_reliability(1.0, settings.reliability_bins)
    after = test.compute_reliability(test.temperature, settings.reliability_bins)
    measured["test"] |= {"ece": after.ece, "ece_uncalibrated": before.ece, "temperature": test.temperature}
    parts = compute_slices(
        test.split.rows, test.correct, settings.slices, settings.smallest_slice, settings.bootstrap.level
    )
    issues = collect_label_issues([test, val])
    metrics = {
        **measured,
        "slices": summarize_slices(parts, settings.slices),
        "label_issues": len(issues),
        "num_test": len(test.split),
    }
    files = {
        "predictions.csv": format_predictions(test),
        "confusion_matrix.png": plot_confusion(test),
        "reliability.csv": format_reliability(after),
        "reliability_uncalibrated.csv": format_reliability(before),
        "reliability.png": plots.plot_reliability(before, after, test.temperature),
        "worst_mistakes.png": draw_worst_mistakes(test, settings.worst_mistakes),
        "slices.csv": format_slices(parts),
        "label_issues.csv": format_label_issues(issues),
    }
    return EvaluationReport(metrics, files)


def measure_multiclass(seen: ScoredSplit, bootstrap: Bootstrap) -> dict[str, Any]:
    """The numbers of pictures with one class each; `test`, each class's own, and `interval`."""
    labels, classes = seen.split.labels, seen.classes
    confusion = metrics.confusion_matrix(labels, seen.predicted, len(classes))
    own = metrics.compute_class_rates(confusion, classes)
    of_class = labels[:, None] == np.arange(len(classes))
    own["auroc"] = metrics.compute_per_class(metrics.auroc, of_class, seen.probabilities, classes)
    sums = confusion.diagonal(), confusion.sum(axis=1), confusion.sum(axis=0)
    test = {name: float(value) for name, value in metrics.macro_average(*sums).items()}
    test |= metrics.average_over_classes("macro_auroc", own["auroc"])
    flags = {"accuracy": seen.correct}
    if len(classes) > 5:
        flags["top_5_accuracy"] = metrics.is_top_k_correct(labels, seen.logits, 5)
        test["top_5_accuracy"] = float(flags["top_5_accuracy"].mean())

    def again(weights: np.ndarray) -> dict[str, np.ndarray]:
        num = len(classes)
        right = sum_by_key(weights * seen.correct, labels, num)
        drawn = metrics.macro_average(
            right, sum_by_key(weights, labels, num), sum_by_key(weights, seen.predicted, num)
        )
        return drawn | {name: weights @ flag / weights.sum(axis=1) for name, flag in flags.items()}

    return {"test": test, **own, "interval": compute_intervals(seen, bootstrap, again)}


def measure_multilabel(seen: ScoredSplit, bootstrap: Bootstrap) -> dict[str, Any]:
    """The numbers of pictures that bear several labels, or none.

    `accuracy` is that of whole sets, as scikit-learn's accuracy_score has it (subset accuracy, exact match);
    `hamming_loss` the share of all decisions that are wrong; `map` the mean over the labels of average precision.
    """
    labels, said, names = seen.split.labels > 0, seen.predicted, seen.classes
    sums = (labels & said).sum(axis=0), labels.sum(axis=0), said.sum(axis=0)
    own = metrics.compute_rates(*sums, names)
    own["auroc"] = metrics.compute_per_class(metrics.auroc, labels, seen.probabilities, names)
    own["average_precision"] = metrics.compute_per_class(
        metrics.average_precision, labels, seen.probabilities, names
    )
    mean_precision = metrics.weighted_mean_ap(labels, seen.probabilities)
    off = (labels != said).mean(axis=1)

    def again(weights: np.ndarray) -> dict[str, np.ndarray]:
        sums, num = (weights @ (labels & said), weights @ labels, weights @ said), weights.sum(axis=1)
        drawn = {"accuracy": weights @ seen.correct / num, "hamming_loss": weights @ off / num}
        return (
            drawn | {"map": mean_precision(weights)} | metrics.macro_average(*sums) | metrics.micro_average(*sums)
        )

    test = {name: float(value[0]) for name, value in again(np.ones((1, len(labels)), np.int64)).items()}
    test |= metrics.average_over_classes("macro_auroc", own["auroc"])
    return {"test": test, **own, "interval": compute_intervals(seen, bootstrap, again)}


def compute_intervals(seen: ScoredSplit, bootstrap: Bootstrap, again: Any) -> dict[str, dict[str, float]]:
    """{name: {"low", "high"}}; pictures of one group are drawn together."""
    units = assign_resampling_units(seen.split.rows["group"].to_pylist())
    found = bootstrap.compute_intervals(units, again)
    return {name: {"low": low, "high": high} for name, (low, high) in found.items()}


def collect_label_issues(parts: Iterable[ScoredSplit]) -> list[tuple[str, str, str, float, str, str]]:
    """The rows of `label_issues.format_label_issues`: pictures of these splits whose label is probably wrong, worst first."""
    seen = [one for one in parts if len(one.split)]
    labels = np.concatenate([one.split.labels for one in seen])
    probabilities = np.concatenate([one.probabilities for one in seen])
    places = [(one, i) for one in seen for i in range(len(one.split))]
    rows = []
    for position in rank_label_issues(labels, probabilities):
        one, i = places[position]
        split, given = one.split, one.split.labels[i]
        row = one.probabilities[i]
        least = float(thresholds.compute_confidence(row, given > 0) if one.multi_label else row[int(given)])
        name = str(split.rows["split"][i])
        rows.append(
            (
                split.uris[i],
                one.format_labels(given),
                one.format_labels(one.predicted[i]),
                least,
                name,
                split.image_ids[i],
            )
        )
    return rows


def summarize_slices(parts: Sequence[Slice], columns: Sequence[str]) -> dict[str, dict[str, dict[str, float]]]:
    """{column: {value: {"accuracy", "low", "high", "num", and "small": 1 where there are too few}}}."""
    numbers: dict[str, dict[str, dict[str, float]]] = {column: {} for column in columns}
    for one in parts:
        entry = {"accuracy": one.accuracy, "low": one.low, "high": one.high, "num": one.num}
        numbers[one.column][one.value] = entry | ({"small": 1} if one.small else {})
    return numbers


def format_predictions(seen: ScoredSplit) -> bytes:
    """One row a test picture; the columns `actual` and `predicted` feed DVC's confusion plot. Where a picture may
    bear several labels, the probability of each follows."""
    each = [f"probability of {name}" for name in seen.classes] if seen.multi_label else []
    rows = zip(seen.split.image_ids, seen.split.labels, seen.predicted, seen.confidence, strict=True)
    return format_csv(
        ["image_id", "actual", "predicted", "probability", *each],
        (
            [
                name,
                seen.format_labels(label),
                seen.format_labels(said),
                f"{sure:.6f}",
                *(f"{p:.6f}" for p in all_of[: len(each)]),
            ]
            for (name, label, said, sure), all_of in zip(rows, seen.probabilities, strict=True)
        ),
    )


def plot_confusion(seen: ScoredSplit) -> bytes:
    """The confusion matrix; of several labels a picture a row for each of its own two by two, and which labels are
    said of pictures that bear another."""
    if not seen.multi_label:
        confusion = metrics.confusion_matrix(seen.split.labels, seen.predicted, len(seen.classes))
        return plots.plot_confusion_matrix(confusion, seen.classes)
    labels, said = seen.split.labels > 0, seen.predicted
    cells = (labels & said, ~labels & said, labels & ~said, ~labels & ~said)
    counts = np.stack([cell.sum(axis=0) for cell in cells], axis=1)
    together = labels.T.astype(np.int64) @ said
    return plots.plot_label_tables(counts, together, labels.sum(axis=0), seen.classes)


def draw_worst_mistakes(seen: ScoredSplit, most: int) -> bytes:
    """The mistakes that the network was surest of, each with what it is and what was said how surely."""
    wrong = np.flatnonzero(~seen.correct)
    off = seen.probabilities
    if seen.multi_label:  # of the decisions that were wrong, how far the probability was off
        off = abs(off - seen.split.labels) * (seen.predicted != seen.split.labels)
    chosen = wrong[np.argsort(-off.max(axis=1)[wrong], kind="stable")][:most]
    captions = []
    for i in chosen:
        what = int(off[i].argmax())
        is_so = f"is {seen.format_labels(seen.split.labels[i]) or '(none)'}"
        captions.append((is_so, f"{seen.classes[what]} {seen.probabilities[i, what]:.2f}"))
    images = seen.split.read_batch(chosen) if len(chosen) else np.empty((0, 1, 1, 1), np.uint8)
    return plots.draw_gallery(images, captions)


def format_reliability(bins: calibration_reliability.ReliabilityBins) -> bytes:
    """One row a bin that holds pictures, for DVC's plot."""
    rows = zip(bins.confidence, bins.accuracy, bins.count, strict=True)
    return format_csv(["confidence", "accuracy", "count"], ([f"{c:.6f}", f"{a:.6f}", n] for c, a, n in rows if n))


def format_slices(parts: Sequence[Slice]) -> bytes:
    """One row a slice."""
    rows = (
        [one.column, one.value, one.num, *(f"{x:.6f}" for x in (one.accuracy, one.low, one.high)), int(one.small)]
        for one in parts
    )
    return format_csv(["column", "value", "num", "accuracy", "low", "high", "small"], rows)


def format_csv(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> bytes:
    """A table as CSV."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue().encode()
