"""False promotions and power of the gate `better`, simulated: the rule of `convoy promote` beside an earlier one.

    make simulate        (or: python -m benchmarks.promotion [--scale 0.1] [--out FILE.json])

Two classifiers are drawn whose true accuracies are known. The logit of class k is noise, that of the true class
has a signal times the difficulty of the image added; a part of the noise is common to both models, as that of two
trainings of one network is (`agreement`), and a part to all images of a group. The signal gives the accuracy. The
probabilities are the softmax of the logits times a scale: the best one, or one that makes the model too sure.

The earlier rule: the 95% interval of the metric's gain, by the percentile bootstrap over groups, lies above 0.

Prints Markdown tables and writes benchmarks/results/promotion.json. A quarter of an hour on a processor.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from lightning_modules.comparison.gain.alpha_spending import compute_tail
from lightning_modules.comparison.gain.gain_test import run_gain_test
from lightning_modules.comparison.paired import PairedPredictions
from lightning_modules.evaluation.bootstrap import resample_weights

RESULTS = Path(__file__).parent / "results" / "promotion.json"
TOTAL = 0.05  # error probability: 1 - promote.confidence
NUM_RESAMPLES = 300  # of the earlier rule
NUM_SIGNAL_IMAGES, NUM_SCALE_IMAGES = 100_000, 10_000  # that the signal and the best scale are found on
GROUP_SHARE = 0.5  # of the noise's variance that all images of a group have in common

Rule = Callable[[PairedPredictions, str], bool]


@dataclass(frozen=True)
class Models:
    """The distribution that two classifiers and their test images are drawn from.

    Attributes:
        accuracies: true accuracies of candidate and champion.
        agreement: correlation of their noise, 0 to 1.
        spread: standard deviation of the logarithm of an image's difficulty.
        num_classes: at least 2.
        scales: of the logits of candidate and champion, as multiples of the calibrated ones.
    """

    accuracies: tuple[float, float] = (0.9, 0.9)
    agreement: float = 0.9
    spread: float = 0.5
    num_classes: int = 10
    scales: tuple[float, float] = (1.0, 1.0)


# ---- drawing ----------------------------------------------------------------------------------------


_signals: dict[tuple[float, float, int], tuple[float, float]] = {}  # results of `find_signal`, a second each


def find_signal(accuracy: float, models: Models) -> tuple[float, float]:
    """Find the signal that gives an accuracy, and the scale of the logits at which it is calibrated."""
    key = (accuracy, models.spread, models.num_classes)
    if key not in _signals:
        rng = np.random.default_rng(0)
        noise = rng.standard_normal((NUM_SIGNAL_IMAGES, models.num_classes), np.float32)
        strengths = np.exp(models.spread * rng.standard_normal(NUM_SIGNAL_IMAGES))
        rivals = noise[:, 1:].max(axis=1)
        signal = _bisect(lambda value: (noise[:, 0] + value * strengths > rivals).mean() < accuracy, 0.0, 64.0)
        logits = noise[:NUM_SCALE_IMAGES]
        logits[:, 0] += signal * strengths[:NUM_SCALE_IMAGES]
        _signals[key] = signal, _bisect(lambda scale: _is_unsure(logits, scale), 0.1, 30.0)
    return _signals[key]


def _bisect(is_too_low: Callable[[float], bool], low: float, high: float) -> float:
    for _ in range(20):
        middle = (low + high) / 2
        low, high = (middle, high) if is_too_low(middle) else (low, middle)
    return low


def _is_unsure(logits: np.ndarray, scale: float) -> bool:
    """Return whether the log loss falls if the scale grows."""
    probabilities = softmax(logits, scale)
    return bool((probabilities * logits).sum(axis=1).mean() < logits[:, 0].mean())


def softmax(logits: np.ndarray, scale: float) -> np.ndarray:
    """Return the softmax of scaled logits (N, K)."""
    exponentials = np.exp(scale * (logits - logits.max(axis=1, keepdims=True)))
    return np.asarray(exponentials / exponentials.sum(axis=1, keepdims=True))


class Pictures:
    """Test pictures of known groups, with the noise that all models share on them.

    Args:
        models: the distribution.
        groups: int (N,).
        rng: of the noise.
    """

    def __init__(self, models: Models, groups: np.ndarray, rng: np.random.Generator) -> None:
        self.models, self.groups, self.rng = models, groups, rng
        self.num_groups = int(groups.max()) + 1
        self.labels = rng.integers(0, models.num_classes, self.num_groups)[groups]
        self.strengths = np.exp(models.spread * rng.standard_normal(self.num_groups))[groups]
        self.shared = self._draw_noise()

    def _draw_noise(self) -> np.ndarray:
        shape = self.num_groups, self.models.num_classes
        common = self.rng.standard_normal(shape)[self.groups]
        single = self.rng.standard_normal((len(self.groups), shape[1]))
        return np.sqrt(GROUP_SHARE) * common + np.sqrt(1 - GROUP_SHARE) * single

    def draw_model(self, accuracy: float, scale: float) -> np.ndarray:
        """Draw the probabilities (N, K) of a model of this true accuracy."""
        signal, calibrated = find_signal(accuracy, self.models)
        agreement = self.models.agreement
        logits = np.sqrt(agreement) * self.shared + np.sqrt(1 - agreement) * self._draw_noise()
        logits[np.arange(len(logits)), self.labels] += signal * self.strengths
        return softmax(logits, calibrated * scale)

    def draw_pair(self, champion: np.ndarray | None = None) -> PairedPredictions:
        """Draw candidate and champion; or only the candidate."""
        accuracies, scales = self.models.accuracies, self.models.scales
        if champion is None:
            champion = self.draw_model(accuracies[1], scales[1])
        classes = tuple(map(str, range(self.models.num_classes)))
        candidate = self.draw_model(accuracies[0], scales[0])
        return PairedPredictions(self.labels, candidate, champion, classes, self.groups)


def draw_labels_pair(groups: np.ndarray, rng: np.random.Generator, num_labels: int = 5) -> PairedPredictions:
    """Draw two equally good models of images that bear several labels."""
    num_groups = int(groups.max()) + 1
    labels = (rng.random((num_groups, num_labels)) < 0.3).astype(np.int64)[groups]
    shared = rng.standard_normal((num_groups, num_labels))[groups]
    probabilities = []
    for _ in range(2):
        own = rng.standard_normal((num_groups, num_labels))[groups] + rng.standard_normal(labels.shape)
        probabilities.append(1 / (1 + np.exp(-(2.4 * labels - 1.2 + shared + 0.5 * own))))
    first, second = probabilities
    names = tuple(map(str, range(num_labels)))
    return PairedPredictions(labels, first, second, names, groups, first >= 0.5, second >= 0.5)


def divide_into_groups(num_images: int, num_groups: int, sizes: str) -> np.ndarray:
    """Return the group of each image, int (num_images,).

    Args:
        num_images: at least `num_groups`.
        num_groups: how many.
        sizes: `equal`; `one half`: the first has half of the images; `geometric`: each has two thirds of the one
            before it.
    """
    weights = np.ones(num_groups)
    if sizes == "one half" and num_groups > 1:
        weights[0] = num_groups - 1
    if sizes == "geometric":
        weights = (2 / 3) ** np.arange(num_groups)
    free = num_images - num_groups
    ends = np.round(np.cumsum(weights) / weights.sum() * free).astype(int) + np.arange(1, num_groups + 1)
    return np.searchsorted(ends, np.arange(num_images), side="right")


# ---- rules ------------------------------------------------------------------------------------------


def decide_by_bootstrap(predictions: PairedPredictions, metric: str) -> bool:
    """Decide by the earlier rule."""
    candidate, champion, sign = predictions.make_metrics(metric)
    gains = [
        sign * (candidate(weights) - champion(weights))
        for weights in resample_weights(predictions.clusters, NUM_RESAMPLES, 0, 1 << 18)
    ]
    return bool(np.percentile(np.concatenate(gains), 50 * TOTAL) > 0)


def make_rule(num_earlier: int = 0, counts: dict[int, int] | None = None) -> Rule:
    """Return the rule of `convoy promote`, after a number of earlier decisions on the same pictures."""
    tail = compute_tail(TOTAL, counts or {num_earlier: 1})
    return lambda predictions, metric: run_gain_test(predictions, metric, 0.0, tail).passes


RULES: dict[str, Rule] = {"earlier": decide_by_bootstrap, "now": make_rule()}


def measure_rates(pairs: Iterable[tuple[PairedPredictions, str]], rules: dict[str, Rule]) -> dict[str, float]:
    """Return the share of pairs that each rule promotes."""
    decisions = [[rule(pair, metric) for rule in rules.values()] for pair, metric in pairs]
    return {name: float(rate) for name, rate in zip(rules, np.mean(decisions, axis=0), strict=True)}


# ---- tables -----------------------------------------------------------------------------------------


def simulate_groups(scale: float) -> list[dict[str, Any]]:
    """Count false promotions of equal models by the number of groups, their sizes and the metric."""
    rows = []
    for num_groups in (1, 2, 3, 5, 8, 10, 20, 50):
        for sizes in ("equal", "one half", "geometric"):
            for metric, num_images in (("accuracy", 400), ("log_loss", 400), ("macro_f1", 400), ("map", 400)):
                if metric in ("macro_f1", "map") and (sizes == "one half" or num_groups in (1, 8)):
                    continue
                rng = np.random.default_rng(num_groups)
                groups = divide_into_groups(num_images, num_groups, sizes)
                num = max(20, round((500 if metric == "accuracy" else 200) * scale))
                pairs = (
                    (draw_labels_pair(groups, rng) if metric == "map"
                     else Pictures(Models(), groups, rng).draw_pair(), metric) for _ in range(num)
                )  # fmt: skip
                rates = measure_rates(pairs, RULES)
                rows.append({"groups": num_groups, "sizes": sizes, "metric": metric, "pairs": num, **rates})
    return rows


def simulate_sizes(scale: float) -> list[dict[str, Any]]:
    """Count promotions of models that are equally accurate, by the number of test pictures without groups."""
    kinds = {
        "equal": Models(), "equal, unlike": Models(agreement=0.3), "2 classes": Models(num_classes=2),
        "both too sure": Models(scales=(3.0, 3.0)), "only better calibrated": Models(scales=(1.0, 3.0)),
        "only worse calibrated": Models(scales=(3.0, 1.0)),
    }  # fmt: skip
    rows = []
    for kind, models in kinds.items():
        for num_images in (20, 60, 250, 1000):
            rng = np.random.default_rng(num_images)
            groups, num = np.arange(num_images), max(20, round(500 * scale))
            pairs = ((Pictures(models, groups, rng).draw_pair(), "accuracy") for _ in range(num))
            rows.append({"models": kind, "pictures": num_images, "pairs": num, **measure_rates(pairs, RULES)})
    return rows


def simulate_reuse(scale: float) -> list[dict[str, Any]]:
    """Count the series of equally good candidates on one test split that promote at least one."""
    num_series, length, num_images = max(10, round(200 * scale)), 365, 250
    first = {name: np.full(num_series, length) for name in RULES}
    for series in range(num_series):
        rng = np.random.default_rng(series)
        pictures = Pictures(Models(), np.arange(num_images), rng)
        champion = pictures.draw_model(0.9, 1.0)
        for look in range(length):
            pair = pictures.draw_pair(champion)
            for name, rule in (("earlier", decide_by_bootstrap), ("now", make_rule(look))):
                if first[name][series] == length and rule(pair, "accuracy"):
                    first[name][series] = look
            if max(found[series] for found in first.values()) < length:
                break
    return [
        {"tries": tries, "series": num_series,
         **{name: float((found < tries).mean()) for name, found in first.items()}}
        for tries in (14, 100, 365)
    ]  # fmt: skip


def simulate_power(scale: float) -> list[dict[str, Any]]:
    """Count promotions of a better model by the number of test pictures, beside those of an equal one."""
    rows = []
    for accuracies in ((0.92, 0.9), (0.97, 0.95)):
        for agreement in (0.9, 0.6):
            for num_images in (100, 250, 500, 1000, 2000):
                num = max(20, round((400 if num_images < 1000 else 200) * scale))
                rng, groups = np.random.default_rng(num_images), np.arange(num_images)
                better = Models(accuracies, agreement)
                equal = replace(better, accuracies=(accuracies[1], accuracies[1]))
                row = {"gain": f"{accuracies[1]} to {accuracies[0]}", "agreement": agreement,
                       "pictures": num_images, "pairs": num}  # fmt: skip
                for kind, models in (("", better), ("equal, ", equal)):
                    pairs = ((Pictures(models, groups, rng).draw_pair(), "accuracy") for _ in range(num))
                    row |= {kind + name: rate for name, rate in measure_rates(pairs, RULES).items()}
                rows.append(row)
    return rows


def simulate_power_after_looks(scale: float) -> list[dict[str, Any]]:
    """Count promotions of a better model after earlier decisions on its test pictures, some of them new."""
    num_images, num = 1000, max(20, round(300 * scale))
    looks = {"0 earlier": {0: 1}, "1 earlier": {1: 1}, "14 earlier": {14: 1}, "100 earlier": {100: 1},
             "100 earlier, 10% new": {100: 9, 0: 1}, "100 earlier, half new": {100: 1, 0: 1}}  # fmt: skip
    rng, groups = np.random.default_rng(0), np.arange(num_images)
    pairs = ((Pictures(Models((0.92, 0.9)), groups, rng).draw_pair(), "accuracy") for _ in range(num))
    rates = measure_rates(pairs, {name: make_rule(counts=counts) for name, counts in looks.items()})
    return [
        {
            "looks": name,
            "pictures": num_images,
            "pairs": num,
            "tail": compute_tail(TOTAL, looks[name]),
            "now": rate,
        }
        for name, rate in rates.items()
    ]


TABLES: dict[str, Callable[[float], list[dict[str, Any]]]] = {
    "groups": simulate_groups,
    "sizes": simulate_sizes,
    "reuse": simulate_reuse,
    "power": simulate_power,
    "power_after_looks": simulate_power_after_looks,
}


def format_table(rows: list[dict[str, Any]]) -> str:
    """Format rows of equal keys as a Markdown table; rates as percentages."""
    lines = [
        list(rows[0]),
        ["---"] * len(rows[0]),
        *([_format_value(key, row[key]) for key in row] for row in rows),
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _format_value(key: str, value: Any) -> str:
    is_rate = isinstance(value, float) and key not in ("agreement", "tail")
    return f"{value:.1%}" if is_rate else f"{value:.2g}" if isinstance(value, float) else str(value)


def main() -> None:
    """Simulate, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=float, default=1.0, help="of the number of pairs and series")
    parser.add_argument("--tables", nargs="*", choices=TABLES, default=list(TABLES))
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    tables = {}
    for name in arguments.tables:
        start = time.monotonic()
        tables[name] = TABLES[name](arguments.scale)
        print(f"\n{(TABLES[name].__doc__ or '').splitlines()[0]}\n\n{format_table(tables[name])}", flush=True)
        print(f"\n({time.monotonic() - start:.0f} s)", flush=True)
    arguments.out.write_text(json.dumps({"total": TOTAL, "scale": arguments.scale, **tables}, indent=1) + "\n")


if __name__ == "__main__":
    main()
