"""The evaluation report: every number of metrics.json and every file of `data/models/report/`."""

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from imageset.store.reader import StoreSplit
from imageset.utils.text import escape_cell, format_count
from lightning_modules.calibration import temperature as calibration_temperature
from lightning_modules.calibration import thresholds
from lightning_modules.evaluation import metrics, plots
from lightning_modules.evaluation import reliability as calibration_reliability
from lightning_modules.evaluation.abstention import (
    RiskCoverageCurve,
    compute_risk_coverage,
    describe_abstention,
    summarize_abstention,
)
from lightning_modules.evaluation.bootstrap import Bootstrap, assign_resampling_units, sum_by_key
from lightning_modules.evaluation.label_issues import format_label_issues, rank_label_issues
from lightning_modules.evaluation.params import EvaluationParams
from lightning_modules.evaluation.slices import Slice, compute_slices


@dataclass(frozen=True)
class ScoredSplit:
    """A split and the network's outputs on it.

    Attributes:
        split: images and labels.
        logits: float32 (n, C), in the split's order.
        temperature: of the bundle.
        thresholds: of the bundle, if it is multi-label.
        abstain_below: of the bundle; `predicted` and `correct` are those without abstaining.
    """

    split: StoreSplit
    logits: np.ndarray
    temperature: float
    thresholds: tuple[float, ...] | None = None
    abstain_below: float | None = None

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes."""
        return self.split.store.classes

    @property
    def multi_label(self) -> bool:
        """Whether an image may have several labels, or none."""
        return self.split.store.multi_label

    @cached_property
    def probabilities(self) -> np.ndarray:
        """The calibrated probabilities, float32 (n, C)."""
        return calibration_temperature.to_probabilities(self.logits, self.temperature, self.multi_label)

    @cached_property
    def predicted(self) -> np.ndarray:
        """The predicted classes, int64 (n,); multi-label: the labels at or above their thresholds, bool (n, C)."""
        if self.multi_label:
            return thresholds.apply_thresholds(
                self.probabilities, self.thresholds or [thresholds.DEFAULT_THRESHOLD] * len(self.classes)
            )
        return self.probabilities.argmax(axis=1)

    @cached_property
    def confidence(self) -> np.ndarray:
        """The probability of each prediction, float32 (n,); multi-label: that of the least confident decision."""
        if self.multi_label:
            return thresholds.compute_confidence(self.probabilities, self.predicted)
        return self.probabilities.max(axis=1)

    @cached_property
    def correct(self) -> np.ndarray:
        """Whether each prediction is correct, bool (n,); multi-label: whether all labels of the image are."""
        is_same = np.asarray(self.predicted == self.split.labels)
        return np.asarray(is_same.all(axis=1)) if self.multi_label else is_same

    def compute_reliability(self, temperature: float, num_bins: int) -> calibration_reliability.ReliabilityBins:
        """Group the predictions into bins of confidence; multi-label: each label is a prediction of its own.

        Args:
            temperature: divisor of the logits.
            num_bins: the number of bins.
        """
        probabilities = calibration_temperature.to_probabilities(self.logits, temperature, self.multi_label)
        if self.multi_label:
            return calibration_reliability.compute_reliability(
                probabilities.ravel(), self.split.labels.ravel() > 0, num_bins
            )
        return calibration_reliability.compute_reliability(probabilities.max(axis=1), self.correct, num_bins)

    def format_labels(self, label: np.ndarray | int) -> str:
        """Format the class, or the labels, of one image as text.

        Args:
            label: int, the position of the class; multi-label: 0 and 1 (C,).
        """
        if self.multi_label:
            return thresholds.join_labels(self.classes, np.asarray(label))
        return self.classes[int(label)]


@dataclass(frozen=True)
class EvaluationReport:
    """The content of metrics.json, the files of the report by name, and warnings for the user."""

    metrics: dict[str, Any]
    files: dict[str, bytes]
    warnings: tuple[str, ...] = ()

    def summarize(self) -> str:
        """Return the most important metrics as a line of text."""
        test = self.metrics["test"]
        phrases = [self._format_metric("accuracy", "accuracy")]
        if "map" in test:
            phrases.insert(0, self._format_metric("map", "mAP"))
        phrases += [f"test loss {test['loss']:.4f} (baseline {test['baseline_loss']:.4f})"]
        phrases += [f"calibration error {test['ece']:.4f}"]
        line = f"{', '.join(phrases)} over {format_count(self.metrics['num_test'], 'picture')}"
        return "; ".join(filter(None, [line, describe_abstention(self.metrics["abstention"])]))

    def _format_metric(self, name: str, title: str) -> str:
        test, interval = self.metrics["test"], self.metrics["interval"][name]
        return (
            f"test {title} {test[name]:.4f} ({interval['low']:.4f} to {interval['high']:.4f}; "
            f"baseline {test[metrics.BASELINE_PREFIX + name]:.4f})"
        )


def evaluate_split(
    test: ScoredSplit, audited: Sequence[ScoredSplit], params: EvaluationParams
) -> EvaluationReport:
    """Measure the test split, and look for label issues.

    Lightning's own metrics, accuracy and loss, are yet to be added to `metrics["test"]`.

    Args:
        test: the test split.
        audited: the splits whose labels are checked, each with outputs of a network that has not learned from it.
        params: the section `evaluate` of params.yaml.
    """
    measure = measure_multilabel if test.multi_label else measure_multiclass
    measured = measure(test, params.bootstrap.to_bootstrap())
    before = test.compute_reliability(1.0, params.reliability_bins)
    after = test.compute_reliability(test.temperature, params.reliability_bins)
    measured["test"] |= metrics.compute_baselines(test.split.labels, len(test.classes))
    measured["test"] |= {"ece": after.ece, "ece_uncalibrated": before.ece, "temperature": test.temperature}
    slices = compute_slices(
        test.split.rows, test.correct, params.slices, params.smallest_slice, params.bootstrap.level
    )
    issues = collect_label_issues(audited)
    curve = compute_risk_coverage(test.confidence, test.correct)
    report_metrics = {
        **measured,
        "abstention": summarize_abstention(curve, test.abstain_below),
        "slices": summarize_slices(slices, params.slices),
        "label_issues": len(issues),
        "num_test": len(test.split),
    }
    files = {
        "predictions.csv": format_predictions(test),
        "confusion_matrix.png": plot_confusion(test),
        "reliability.csv": format_reliability(after),
        "reliability_uncalibrated.csv": format_reliability(before),
        "reliability.png": plots.plot_reliability(before, after, test.temperature),
        "worst_mistakes.png": draw_worst_mistakes(test, params.worst_mistakes),
        "slices.csv": format_slices(slices),
        "label_issues.csv": format_label_issues(issues),
        "risk_coverage.csv": format_risk_coverage(curve),
        "risk_coverage.png": plots.plot_risk_coverage(curve, test.abstain_below),
    }
    return EvaluationReport(report_metrics, files, tuple(warn_unmeasured(test)))


def warn_unmeasured(test: ScoredSplit) -> list[str]:
    """Return a warning for each kind of class that was never learned, or that the test says nothing about."""
    is_present = has_classes(test.split.labels, len(test.classes))
    is_learned = has_classes(test.split.store.split("train").labels, len(test.classes)).any(axis=0)
    kind = "labels" if test.multi_label else "classes"
    names_by_text = {
        f"{kind} without training pictures, which cannot be learned": _select(
            test.classes, np.asarray(~is_learned)
        ),
        f"{kind} without test pictures, which are not measured": _select(
            test.classes, np.asarray(~is_present.any(axis=0))
        ),
    }
    if test.multi_label:
        on_every_picture = _select(test.classes, np.asarray(is_present.all(axis=0)))
        names_by_text["labels of every test picture, which are left out of the mAP"] = on_every_picture
    return [f"{text}: {', '.join(names)}" for text, names in names_by_text.items() if names]


def has_classes(labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Return which classes each image has, bool (n, C), from labels (n,) or (n, C)."""
    return labels > 0 if labels.ndim == 2 else labels[:, None] == np.arange(num_classes)


def _select(names: Sequence[str], chosen: np.ndarray) -> list[str]:
    return [name for name, is_chosen in zip(names, chosen.tolist(), strict=True) if is_chosen]


def measure_multiclass(scored: ScoredSplit, bootstrap: Bootstrap) -> dict[str, Any]:
    """Compute the metrics of single-label predictions: `test`, those of each class, and `interval`."""
    labels, classes = scored.split.labels, scored.classes
    confusion = metrics.confusion_matrix(labels, scored.predicted, len(classes))
    class_metrics = metrics.compute_class_rates(confusion, classes)
    has_class = has_classes(labels, len(classes))
    class_metrics["auroc"] = metrics.compute_per_class(metrics.auroc, has_class, scored.probabilities, classes)
    counts = confusion.diagonal(), confusion.sum(axis=1), confusion.sum(axis=0)
    test = {name: float(value) for name, value in metrics.macro_average(*counts).items()}
    test |= metrics.average_over_classes("macro_auroc", class_metrics["auroc"])
    flags = {"accuracy": scored.correct}
    if len(classes) > 5:
        flags["top_5_accuracy"] = metrics.is_top_k_correct(labels, scored.logits, 5)
        test["top_5_accuracy"] = float(flags["top_5_accuracy"].mean())

    def measure(weights: np.ndarray) -> dict[str, np.ndarray]:
        num = len(classes)
        correct = sum_by_key(weights * scored.correct, labels, num)
        averages = metrics.macro_average(
            correct, sum_by_key(weights, labels, num), sum_by_key(weights, scored.predicted, num)
        )
        return averages | {name: weights @ flag / weights.sum(axis=1) for name, flag in flags.items()}

    return {"test": test, **class_metrics, "interval": compute_intervals(scored, bootstrap, measure)}


def measure_multilabel(scored: ScoredSplit, bootstrap: Bootstrap) -> dict[str, Any]:
    """Compute the metrics of multi-label predictions: `test`, those of each label, and `interval`.

    `accuracy` is that of whole sets, like scikit-learn's accuracy_score (subset accuracy, exact match);
    `hamming_loss` is the share of all decisions that are wrong; `map` is the mean average precision over the
    labels that some test images have and some lack, and is left out if there are none.
    """
    labels, predicted, names = scored.split.labels > 0, scored.predicted, scored.classes
    counts = (labels & predicted).sum(axis=0), labels.sum(axis=0), predicted.sum(axis=0)
    class_metrics = metrics.compute_rates(*counts, names)
    class_metrics["auroc"] = metrics.compute_per_class(metrics.auroc, labels, scored.probabilities, names)
    class_metrics["average_precision"] = metrics.compute_per_class(
        metrics.average_precision, labels, scored.probabilities, names
    )
    is_varied = bool(metrics.find_varied_labels(labels))
    mean_ap = metrics.weighted_mean_ap(labels, scored.probabilities)
    error_share = (labels != predicted).mean(axis=1)

    def measure(weights: np.ndarray) -> dict[str, np.ndarray]:
        counts, num = (weights @ (labels & predicted), weights @ labels, weights @ predicted), weights.sum(axis=1)
        values = {"accuracy": weights @ scored.correct / num, "hamming_loss": weights @ error_share / num}
        averages = metrics.macro_average(*counts) | metrics.micro_average(*counts)
        return values | ({"map": mean_ap(weights)} if is_varied else {}) | averages

    test = {name: float(value[0]) for name, value in measure(np.ones((1, len(labels)), np.int64)).items()}
    test |= metrics.average_over_classes("macro_auroc", class_metrics["auroc"])
    return {"test": test, **class_metrics, "interval": compute_intervals(scored, bootstrap, measure)}


def compute_intervals(scored: ScoredSplit, bootstrap: Bootstrap, measure: Any) -> dict[str, dict[str, float]]:
    """Compute bootstrap intervals, {name: {"low", "high"}}; images of one group are resampled together.

    Args:
        scored: the split.
        bootstrap: parameters of the bootstrap.
        measure: computes metrics {name: values (B,)} from weights (B, n).
    """
    units = assign_resampling_units(scored.split.rows["group"].to_pylist())
    intervals = bootstrap.compute_intervals(units, measure)
    return {name: {"low": low, "high": high} for name, (low, high) in intervals.items()}


def collect_label_issues(splits: Iterable[ScoredSplit]) -> list[tuple[str, str, str, float, str, str]]:
    """Return the rows of `label_issues.format_label_issues` for images of these splits, the worst first."""
    filled = [scored for scored in splits if len(scored.split)]
    labels = np.concatenate([scored.split.labels for scored in filled])
    probabilities = np.concatenate([scored.probabilities for scored in filled])
    places = [(scored, i) for scored in filled for i in range(len(scored.split))]
    rows = []
    for position in rank_label_issues(labels, probabilities):
        scored, i = places[position]
        split, label = scored.split, scored.split.labels[i]
        row = scored.probabilities[i]
        probability = float(
            thresholds.compute_confidence(row, label > 0) if scored.multi_label else row[int(label)]
        )
        names = scored.format_labels(label), scored.format_labels(scored.predicted[i])
        rows.append((split.uris[i], *names, probability, str(split.rows["split"][i]), split.image_ids[i]))
    return rows


def summarize_slices(slices: Sequence[Slice], columns: Sequence[str]) -> dict[str, dict[str, dict[str, float]]]:
    """Return {column: {value: {"accuracy", "low", "high", "num", and "small": 1 for a small slice}}}."""
    summary: dict[str, dict[str, dict[str, float]]] = {column: {} for column in columns}
    for row in slices:
        entry = {"accuracy": row.accuracy, "low": row.low, "high": row.high, "num": row.num}
        summary[row.column][row.value] = entry | ({"small": 1} if row.small else {})
    return summary


def format_predictions(scored: ScoredSplit) -> bytes:
    """Format the predictions as CSV, a row for each test image.

    The columns `actual` and `predicted` feed DVC's confusion plot. For multi-label predictions the probability of
    each label follows.
    """
    columns = [f"probability of {name}" for name in scored.classes] if scored.multi_label else []
    rows = []
    for i, image_id in enumerate(scored.split.image_ids):
        actual, predicted = scored.split.labels[i], scored.predicted[i]
        numbers = scored.confidence[i], *scored.probabilities[i, : len(columns)]
        names = scored.format_labels(actual), scored.format_labels(predicted)
        rows.append([image_id, *names, *(f"{number:.6f}" for number in numbers)])
    return format_csv(["image_id", "actual", "predicted", "probability", *columns], rows)


def plot_confusion(scored: ScoredSplit) -> bytes:
    """Plot the confusion matrix as a PNG file.

    For multi-label predictions the plot has two tables: a row for each label with its own two-by-two matrix, and
    the labels that are predicted for the images of each label.
    """
    if not scored.multi_label:
        confusion = metrics.confusion_matrix(scored.split.labels, scored.predicted, len(scored.classes))
        return plots.plot_confusion_matrix(confusion, scored.classes)
    labels, predicted = scored.split.labels > 0, scored.predicted
    cells = (labels & predicted, ~labels & predicted, labels & ~predicted, ~labels & ~predicted)
    counts = np.stack([cell.sum(axis=0) for cell in cells], axis=1)
    co_counts = labels.T.astype(np.int64) @ predicted
    return plots.plot_label_tables(counts, co_counts, labels.sum(axis=0), scored.classes)


def draw_worst_mistakes(scored: ScoredSplit, max_images: int) -> bytes:
    """Draw the most confident mistakes as a PNG file, with true label, prediction and probability."""
    wrong = np.flatnonzero(~scored.correct)
    errors = scored.probabilities
    if scored.multi_label:  # of the wrong decisions, how far the probability is from the label
        errors = abs(errors - scored.split.labels) * (scored.predicted != scored.split.labels)
    chosen = wrong[np.argsort(-errors.max(axis=1)[wrong], kind="stable")][:max_images]
    captions = []
    for i in chosen:
        worst = int(errors[i].argmax())
        actual = f"is {scored.format_labels(scored.split.labels[i]) or '(none)'}"
        captions.append((actual, f"{scored.classes[worst]} {scored.probabilities[i, worst]:.2f}"))
    images = scored.split.read_batch(chosen) if len(chosen) else np.empty((0, 1, 1, 1), np.uint8)
    return plots.draw_gallery(images, captions)


def format_reliability(bins: calibration_reliability.ReliabilityBins) -> bytes:
    """Format reliability bins as CSV for DVC's plot, a row for each bin that is not empty."""
    rows = zip(bins.confidence, bins.accuracy, bins.count, strict=True)
    return format_csv(["confidence", "accuracy", "count"], ([f"{c:.6f}", f"{a:.6f}", n] for c, a, n in rows if n))


def format_risk_coverage(curve: RiskCoverageCurve) -> bytes:
    """Format a risk-coverage curve as CSV for DVC's plot, a row for each threshold."""
    rows = zip(curve.coverage, curve.accuracy, curve.threshold, strict=True)
    return format_csv(["coverage", "accuracy", "threshold"], ([f"{value:.6f}" for value in row] for row in rows))


def format_slices(slices: Sequence[Slice]) -> bytes:
    """Format slices as CSV, a row for each slice."""
    rows = (
        [row.column, row.value, row.num, *(f"{x:.6f}" for x in (row.accuracy, row.low, row.high)), int(row.small)]
        for row in slices
    )
    return format_csv(["column", "value", "num", "accuracy", "low", "high", "small"], rows)


def format_csv(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> bytes:
    """Format a table as CSV."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(map(escape_cell, header))
    writer.writerows([escape_cell(cell) if isinstance(cell, str) else cell for cell in row] for row in rows)
    return text.getvalue().encode()
