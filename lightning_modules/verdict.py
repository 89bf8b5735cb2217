"""What is to be said of a model after its test: every number of metrics.json and every file of the report."""

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from imageset.errors import UserError
from imageset.params import check_keys, load_section
from imageset.store import StoreSplit
from imageset.words import count
from lightning_modules import calibration, figures, measures, several
from lightning_modules.intervals import Bootstrap, sums_by, units_of
from lightning_modules.slices import Slice, slices
from lightning_modules.suspects import issues_csv, label_issues

# What the stage reads beside Lightning's own sections.
KNOWN = {
    "slices": list,
    "smallest_slice": int,
    "reliability_bins": int,
    "worst_mistakes": int,
    "bootstrap": {"resamples": int, "level": float, "seed": int},
}


@dataclass(frozen=True)
class Settings:
    """How to judge; see params.yaml: evaluate."""

    slices: list[str]
    smallest_slice: int
    reliability_bins: int
    worst_mistakes: int
    bootstrap: Bootstrap

    @classmethod
    def read(cls, path: Path) -> "Settings":
        """The stage's own keys of params.yaml.

        Raises:
            UserError: one is missing, of another type, or out of its range.
        """
        section = {name: value for name, value in load_section(path, "evaluate").items() if name in KNOWN}
        check_keys(section, KNOWN, f"{path}: evaluate")
        settings = cls(**{**section, "bootstrap": Bootstrap(**section["bootstrap"])})
        at_least = {"smallest_slice": 1, "reliability_bins": 1, "worst_mistakes": 0}
        for name, least in at_least.items():
            if section[name] < least:
                raise UserError(f"{path}: evaluate.{name} is {section[name]}; give {least} or more")
        if settings.bootstrap.resamples < 1 or not 0 < settings.bootstrap.level < 1:
            raise UserError(f"{path}: evaluate.bootstrap: give 1 or more resamples, and a level between 0 and 1")
        return settings


@dataclass(frozen=True)
class Seen:
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
        return calibration.probabilities(self.logits, self.temperature, self.multi_label)

    @cached_property
    def predicted(self) -> np.ndarray:
        """The class, int64 (n,); or with several labels a picture those from their thresholds on, bool (n, C)."""
        if self.multi_label:
            return several.said(self.probabilities, self.thresholds or [several.HALF] * len(self.classes))
        return self.probabilities.argmax(axis=1)

    @cached_property
    def sureness(self) -> np.ndarray:
        """float32 (n,): the probability of what is said, of several labels that of the least sure decision."""
        if self.multi_label:
            return several.sureness(self.probabilities, self.predicted)
        return self.probabilities.max(axis=1)

    @cached_property
    def right(self) -> np.ndarray:
        """bool (n,): whether a picture's class, or each of its labels, was said as it is."""
        same = np.asarray(self.predicted == self.split.labels)
        return np.asarray(same.all(axis=1)) if self.multi_label else same

    def reliability(self, temperature: float, num_bins: int) -> calibration.Reliability:
        """How often it was right by how sure it was; of several labels each is a prediction of its own."""
        probabilities = calibration.probabilities(self.logits, temperature, self.multi_label)
        if self.multi_label:
            return calibration.reliability(probabilities.ravel(), self.split.labels.ravel() > 0, num_bins)
        return calibration.reliability(probabilities.max(axis=1), self.right, num_bins)

    def names(self, row: np.ndarray | int) -> str:
        """One picture's class, or its labels, in words."""
        if self.multi_label:
            return several.names(self.classes, np.asarray(row))
        return self.classes[int(row)]


@dataclass(frozen=True)
class Verdict:
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
        return f"{', '.join(parts)} over {count(self.metrics['num_test'], 'picture')}"

    def _interval(self, name: str) -> str:
        interval = self.metrics["interval"][name]
        return f"{interval['low']:.4f} to {interval['high']:.4f}"


def judge(test: Seen, val: Seen, settings: Settings) -> Verdict:
    """Measure the test split; likely label errors are looked for in the validation split too.

    `metrics["test"]` has yet to get what Lightning measured.
    """
    measured = (several_labels if test.multi_label else one_class)(test, settings.bootstrap)
    before = test.reliability(1.0, settings.reliability_bins)
    after = test.reliability(test.temperature, settings.reliability_bins)
    measured["test"] |= {"ece": after.ece, "ece_uncalibrated": before.ece, "temperature": test.temperature}
    parts = slices(test.split.rows, test.right, settings.slices, settings.smallest_slice, settings.bootstrap.level)
    issues = suspicious([test, val])
    metrics = {
        **measured,
        "slices": slice_numbers(parts, settings.slices),
        "label_issues": len(issues),
        "num_test": len(test.split),
    }
    files = {
        "predictions.csv": predictions_csv(test),
        "confusion_matrix.png": confusion_png(test),
        "reliability.csv": reliability_csv(after),
        "reliability_uncalibrated.csv": reliability_csv(before),
        "reliability.png": figures.reliability_png(before, after, test.temperature),
        "worst_mistakes.png": worst_mistakes_png(test, settings.worst_mistakes),
        "slices.csv": slices_csv(parts),
        "label_issues.csv": issues_csv(issues),
    }
    return Verdict(metrics, files)


def one_class(seen: Seen, bootstrap: Bootstrap) -> dict[str, Any]:
    """The numbers of pictures with one class each; `test`, each class's own, and `interval`."""
    labels, classes = seen.split.labels, seen.classes
    confusion = measures.confusion_matrix(labels, seen.predicted, len(classes))
    own = measures.per_class(confusion, classes)
    of_class = labels[:, None] == np.arange(len(classes))
    own["auroc"] = measures.each_class(measures.auroc, of_class, seen.probabilities, classes)
    sums = confusion.diagonal(), confusion.sum(axis=1), confusion.sum(axis=0)
    test = {name: float(value) for name, value in measures.macro(*sums).items()}
    test |= measures.mean("macro_auroc", own["auroc"])
    flags = {"accuracy": seen.right}
    if len(classes) > 5:
        flags["top_5_accuracy"] = measures.top_k_right(labels, seen.logits, 5)
        test["top_5_accuracy"] = float(flags["top_5_accuracy"].mean())

    def again(weights: np.ndarray) -> dict[str, np.ndarray]:
        num = len(classes)
        right = sums_by(weights * seen.right, labels, num)
        drawn = measures.macro(right, sums_by(weights, labels, num), sums_by(weights, seen.predicted, num))
        return drawn | {name: weights @ flag / weights.sum(axis=1) for name, flag in flags.items()}

    return {"test": test, **own, "interval": intervals(seen, bootstrap, again)}


def several_labels(seen: Seen, bootstrap: Bootstrap) -> dict[str, Any]:
    """The numbers of pictures that bear several labels, or none.

    `accuracy` is that of whole sets, as scikit-learn's accuracy_score has it (subset accuracy, exact match);
    `hamming_loss` the share of all decisions that are wrong; `map` the mean over the labels of average precision.
    """
    labels, said, names = seen.split.labels > 0, seen.predicted, seen.classes
    sums = (labels & said).sum(axis=0), labels.sum(axis=0), said.sum(axis=0)
    own = measures.rates(*sums, names)
    own["auroc"] = measures.each_class(measures.auroc, labels, seen.probabilities, names)
    own["average_precision"] = measures.each_class(measures.average_precision, labels, seen.probabilities, names)
    mean_precision = measures.weighted_map(labels, seen.probabilities)
    off = (labels != said).mean(axis=1)

    def again(weights: np.ndarray) -> dict[str, np.ndarray]:
        sums, num = (weights @ (labels & said), weights @ labels, weights @ said), weights.sum(axis=1)
        drawn = {"accuracy": weights @ seen.right / num, "hamming_loss": weights @ off / num}
        return drawn | {"map": mean_precision(weights)} | measures.macro(*sums) | measures.micro(*sums)

    test = {name: float(value[0]) for name, value in again(np.ones((1, len(labels)), np.int64)).items()}
    test |= measures.mean("macro_auroc", own["auroc"])
    return {"test": test, **own, "interval": intervals(seen, bootstrap, again)}


def intervals(seen: Seen, bootstrap: Bootstrap, again: Any) -> dict[str, dict[str, float]]:
    """{name: {"low", "high"}}; pictures of one group are drawn together."""
    units = units_of(seen.split.rows["group"].to_pylist())
    found = bootstrap.intervals(units, again)
    return {name: {"low": low, "high": high} for name, (low, high) in found.items()}


def suspicious(parts: Iterable[Seen]) -> list[tuple[str, str, str, float, str, str]]:
    """The rows of `suspects.issues_csv`: pictures of these splits whose label is probably wrong, worst first."""
    seen = [one for one in parts if len(one.split)]
    labels = np.concatenate([one.split.labels for one in seen])
    probabilities = np.concatenate([one.probabilities for one in seen])
    places = [(one, i) for one in seen for i in range(len(one.split))]
    rows = []
    for position in label_issues(labels, probabilities):
        one, i = places[position]
        split, given = one.split, one.split.labels[i]
        row = one.probabilities[i]
        least = float(several.sureness(row, given > 0) if one.multi_label else row[int(given)])
        name = str(split.rows["split"][i])
        rows.append(
            (split.uris[i], one.names(given), one.names(one.predicted[i]), least, name, split.image_ids[i])
        )
    return rows


def slice_numbers(parts: Sequence[Slice], columns: Sequence[str]) -> dict[str, dict[str, dict[str, float]]]:
    """{column: {value: {"accuracy", "low", "high", "num", and "small": 1 where there are too few}}}."""
    numbers: dict[str, dict[str, dict[str, float]]] = {column: {} for column in columns}
    for one in parts:
        entry = {"accuracy": one.accuracy, "low": one.low, "high": one.high, "num": one.num}
        numbers[one.column][one.value] = entry | ({"small": 1} if one.small else {})
    return numbers


def predictions_csv(seen: Seen) -> bytes:
    """One row a test picture; the columns `actual` and `predicted` feed DVC's confusion plot. Where a picture may
    bear several labels, the probability of each follows."""
    each = [f"probability of {name}" for name in seen.classes] if seen.multi_label else []
    rows = zip(seen.split.image_ids, seen.split.labels, seen.predicted, seen.sureness, strict=True)
    return table_csv(
        ["image_id", "actual", "predicted", "probability", *each],
        (
            [name, seen.names(label), seen.names(said), f"{sure:.6f}", *(f"{p:.6f}" for p in all_of[: len(each)])]
            for (name, label, said, sure), all_of in zip(rows, seen.probabilities, strict=True)
        ),
    )


def confusion_png(seen: Seen) -> bytes:
    """The confusion matrix; of several labels a picture a row for each of its own two by two, and which labels are
    said of pictures that bear another."""
    if not seen.multi_label:
        confusion = measures.confusion_matrix(seen.split.labels, seen.predicted, len(seen.classes))
        return figures.confusion_png(confusion, seen.classes)
    labels, said = seen.split.labels > 0, seen.predicted
    cells = (labels & said, ~labels & said, labels & ~said, ~labels & ~said)
    counts = np.stack([cell.sum(axis=0) for cell in cells], axis=1)
    together = labels.T.astype(np.int64) @ said
    return figures.labels_png(counts, together, labels.sum(axis=0), seen.classes)


def worst_mistakes_png(seen: Seen, most: int) -> bytes:
    """The mistakes that the network was surest of, each with what it is and what was said how surely."""
    wrong = np.flatnonzero(~seen.right)
    off = seen.probabilities
    if seen.multi_label:  # of the decisions that were wrong, how far the probability was off
        off = abs(off - seen.split.labels) * (seen.predicted != seen.split.labels)
    chosen = wrong[np.argsort(-off.max(axis=1)[wrong], kind="stable")][:most]
    captions = []
    for i in chosen:
        what = int(off[i].argmax())
        is_so = f"is {seen.names(seen.split.labels[i]) or '(none)'}"
        captions.append((is_so, f"{seen.classes[what]} {seen.probabilities[i, what]:.2f}"))
    images = seen.split.batch(chosen) if len(chosen) else np.empty((0, 1, 1, 1), np.uint8)
    return figures.gallery_png(images, captions)


def reliability_csv(bins: calibration.Reliability) -> bytes:
    """One row a bin that holds pictures, for DVC's plot."""
    rows = zip(bins.confidence, bins.accuracy, bins.count, strict=True)
    return table_csv(["confidence", "accuracy", "count"], ([f"{c:.6f}", f"{a:.6f}", n] for c, a, n in rows if n))


def slices_csv(parts: Sequence[Slice]) -> bytes:
    """One row a slice."""
    rows = (
        [one.column, one.value, one.num, *(f"{x:.6f}" for x in (one.accuracy, one.low, one.high)), int(one.small)]
        for one in parts
    )
    return table_csv(["column", "value", "num", "accuracy", "low", "high", "small"], rows)


def table_csv(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> bytes:
    """A table as CSV."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue().encode()
