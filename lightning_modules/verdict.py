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
from lightning_modules import calibration, figures, measures
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
    """One split and what the network said of it: logits float32 (n, C), in the split's order."""

    split: StoreSplit
    logits: np.ndarray
    temperature: float

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
        """The class, int64 (n,); or with several labels a picture those from one half up, bool (n, C)."""
        if self.multi_label:
            return np.asarray(self.probabilities >= 0.5)
        return self.probabilities.argmax(axis=1)

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
            return "|".join(self.classes[i] for i in np.flatnonzero(row))
        return self.classes[int(row)]


@dataclass(frozen=True)
class Verdict:
    """metrics.json, and the files of the report by name."""

    metrics: dict[str, Any]
    files: dict[str, bytes]

    def summary(self) -> str:
        """What a person wants to know first."""
        test, interval = self.metrics["test"], self.metrics["interval"]["accuracy"]
        return (
            f"test accuracy {test['accuracy']:.4f} ({interval['low']:.4f} to {interval['high']:.4f}), "
            f"test loss {test['loss']:.4f}, calibration error {test['ece']:.4f} over "
            f"{self.metrics['num_test']:,} pictures"
        )


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
    """The numbers of pictures that bear several labels, or none."""
    labels, said, names = seen.split.labels > 0, seen.predicted, seen.classes
    sums = (labels & said).sum(axis=0), labels.sum(axis=0), said.sum(axis=0)
    own = measures.rates(*sums, names)
    own["auroc"] = measures.each_class(measures.auroc, labels, seen.probabilities, names)
    own["average_precision"] = measures.each_class(measures.average_precision, labels, seen.probabilities, names)
    test = {name: float(value) for name, value in measures.macro(*sums).items()}
    test |= {"exact_match": float(seen.right.mean())}
    test |= measures.mean("macro_auroc", own["auroc"]) | measures.mean("map", own["average_precision"])
    hits = (labels == said).mean(axis=1)

    def again(weights: np.ndarray) -> dict[str, np.ndarray]:
        drawn = measures.macro(weights @ (labels & said), weights @ labels, weights @ said)
        num = weights.sum(axis=1)
        return drawn | {"accuracy": weights @ hits / num, "exact_match": weights @ seen.right / num}

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
        borne = np.flatnonzero(given) if one.multi_label else [int(given)]
        least = min((float(one.probabilities[i, label]) for label in borne), default=0.0)
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
    """One row a test picture; the columns `actual` and `predicted` feed DVC's confusion plot."""
    rows = zip(seen.split.image_ids, seen.split.labels, seen.predicted, seen.probabilities, strict=True)
    return table_csv(
        ["image_id", "actual", "predicted", "probability"],
        ([name, seen.names(label), seen.names(said), f"{row.max():.6f}"] for name, label, said, row in rows),
    )


def confusion_png(seen: Seen) -> bytes:
    """The confusion matrix; of several labels a picture: which were said, and which missed."""
    if not seen.multi_label:
        confusion = measures.confusion_matrix(seen.split.labels, seen.predicted, len(seen.classes))
        return figures.confusion_png(confusion, seen.classes)
    labels, said = seen.split.labels > 0, seen.predicted
    counts = np.stack([(labels & said).sum(0), (~labels & said).sum(0), (labels & ~said).sum(0)], axis=1)
    return figures.labels_png(counts, seen.classes)


def worst_mistakes_png(seen: Seen, most: int) -> bytes:
    """The mistakes that the network was surest of, each with what it is and what was said how surely."""
    wrong = np.flatnonzero(~seen.right)
    off = abs(seen.probabilities - seen.split.labels) if seen.multi_label else seen.probabilities
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
