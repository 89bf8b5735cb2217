"""Labels that each way of selecting images needs: rounds of labeling, simulated on sets whose labels are known.

    make bench-active-learning        (or: python -m benchmarks.active_learning [--sets digits] [--seeds 5])

A seed draws the test images and the first labels, 5 of each class. Then, in each round, the project's linear probe
is fitted to the labels so far, its probabilities are calibrated with out-of-fold predictions, and one of METHODS
selects the next images, whose labels are revealed. `facility location` is what `convoy predict --review` does.
digits: the pixels are the features. clothing: the features of the installed EfficientNet-Lite0, projected on their
128 strongest directions, so that thousands of probes are fitted in minutes.

A ratio compares the labels with which a method first reaches the best accuracy of chance with up to M labels, with
those with which chance first does; between two rounds the accuracy is interpolated. Its interval is Student's, of
95%, over the logarithms of the seeds' ratios. A method that never reaches it counts with all labels.

Prints a Markdown table, writes benchmarks/results/active_learning.json and active_learning.png. Five minutes on a
quiet processor; the features of clothing take two minutes more, once (.cache/benchmarks).
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.accuracy import make_set_project
from benchmarks.common import DATASETS, ROOT
from flows.labeling.selection import POOL_FACTOR, select_images

RESULTS = ROOT / "benchmarks" / "results" / "active_learning.json"
FEATURES = ROOT / ".cache" / "benchmarks" / "clothing.npz"
FIRST_LABELS = 5  # of each class
NUM_ROUNDS = 8
NUM_DIRECTIONS = 128
SMALL_POOL_FACTOR = 4
NUM_NEIGHBOURS = 20  # of TypiClust
CHANCE, OURS = "chance", "facility location"
STYLES: dict[str, dict[str, Any]] = {CHANCE: {"color": "black", "linestyle": "--"}, OURS: {"linewidth": 2.5}}


@dataclass(frozen=True)
class LabeledSet:
    """A set of the simulation.

    Attributes:
        features: float32 (n, d).
        labels: int64 (n,).
        num_test: images that are tested on.
        batch: labels of a round.
        strength: C of the linear probe.
    """

    features: np.ndarray
    labels: np.ndarray
    num_test: int
    batch: int
    strength: float


# ---- methods: (features, probabilities, number, random numbers) -> positions -----------------------------------


def draw_by_chance(features: np.ndarray, probabilities: np.ndarray, num: int, rng: np.random.Generator) -> Any:
    """Draw images with equal probability."""
    return rng.choice(len(features), num, replace=False)


def select_least_margin(features: np.ndarray, probabilities: np.ndarray, num: int, _: Any) -> Any:
    """Select the smallest margins (Settles, 2009)."""
    return find_pool(probabilities, num)


def select_k_center(features: np.ndarray, probabilities: np.ndarray, num: int, _: Any) -> Any:
    """Select from the pool in turn the image farthest from all that are selected (Sener, Savarese, 2018)."""
    pool = find_pool(probabilities, POOL_FACTOR * num)
    points = scale_to_unit(features[pool])
    selected = [0]
    distance = np.linalg.norm(points - points[0], axis=1)
    while len(selected) < num:
        distance[selected] = -1
        selected.append(int(distance.argmax()))
        distance = np.minimum(distance, np.linalg.norm(points - points[selected[-1]], axis=1))
    return pool[selected]


def select_weighted_k_means(features: np.ndarray, probabilities: np.ndarray, num: int, _: Any) -> Any:
    """Select the images nearest to the centers of uncertainty-weighted k-means over the pool (Zhdanov, 2019)."""
    from sklearn.cluster import KMeans

    pool = find_pool(probabilities, POOL_FACTOR * num)
    points, weights = scale_to_unit(features[pool]), 1 - compute_margins(probabilities[pool])
    means = KMeans(num, n_init=1, random_state=0).fit(points, sample_weight=weights)
    distances = means.transform(points)
    nearest = [np.where(means.labels_ == k, distances[:, k], np.inf).argmin() for k in range(num)]
    return pool[fill_up(dict.fromkeys(nearest), num, len(pool))]


def select_cluster_margin(features: np.ndarray, probabilities: np.ndarray, num: int, _: Any) -> Any:
    """Select from the clusters of the pool in turn, the smallest cluster first (Citovsky et al., 2021)."""
    from scipy.cluster.hierarchy import fcluster, linkage

    pool = find_pool(probabilities, POOL_FACTOR * num)
    cluster_of = fcluster(linkage(scale_to_unit(features[pool]), "average"), num, criterion="maxclust")
    clusters = sorted((np.flatnonzero(cluster_of == k).tolist() for k in np.unique(cluster_of)), key=len)
    rounds = [members[turn] for turn in range(len(pool)) for members in clusters if turn < len(members)]
    return pool[rounds[:num]]


def select_badge(features: np.ndarray, probabilities: np.ndarray, num: int, rng: np.random.Generator) -> Any:
    """Draw by k-means++ in the space of the last layer's gradients, from all images (Ash et al., 2020)."""
    slopes = probabilities.copy()
    slopes[np.arange(len(slopes)), probabilities.argmax(axis=1)] -= 1
    points = scale_to_unit(features)
    lengths = (slopes**2).sum(axis=1) * (points**2).sum(axis=1)

    def measure_distance(i: int) -> np.ndarray:  # squared, of the outer products, without building them
        return np.asarray(np.maximum(lengths + lengths[i] - 2 * (slopes @ slopes[i]) * (points @ points[i]), 0))

    selected = [int(lengths.argmax())]
    distance = measure_distance(selected[0])
    while len(selected) < num:
        distance[selected] = 0
        total = distance.cumsum()
        selected.append(int(np.searchsorted(total, rng.random() * total[-1], side="right")))
        distance = np.minimum(distance, measure_distance(selected[-1]))
    return np.array(selected)


def select_typical(features: np.ndarray, probabilities: np.ndarray, num: int, _: Any) -> Any:
    """Select the most typical image of each cluster, whatever the model says (TypiClust, Hacohen et al., 2022)."""
    from sklearn.cluster import KMeans

    points = scale_to_unit(features)
    cluster_of = KMeans(num, n_init=1, random_state=0).fit_predict(points)
    typical = []
    for members in (np.flatnonzero(cluster_of == k) for k in range(num)):
        distances = np.sort(np.linalg.norm(points[members, None] - points[None, members], axis=2), axis=1)
        typical.append(members[distances[:, 1 : 1 + NUM_NEIGHBOURS].sum(axis=1).argmin()])
    return np.array(typical)


def select_facility_location(
    features: np.ndarray, probabilities: np.ndarray, num: int, _: Any, pool_factor: int = POOL_FACTOR
) -> Any:
    """Select as `convoy predict --review` does."""
    pool = find_pool(probabilities, pool_factor * num)
    return pool[select_images(features[pool], compute_margins(probabilities[pool]), num)]


METHODS: dict[str, Callable[..., Any]] = {
    CHANCE: draw_by_chance,
    OURS: select_facility_location,
    f"{OURS}, pool of {SMALL_POOL_FACTOR}": partial(select_facility_location, pool_factor=SMALL_POOL_FACTOR),
    "weighted k-means": select_weighted_k_means,
    "least margin": select_least_margin,
    "k-center": select_k_center,
    "Cluster-Margin": select_cluster_margin,
    "BADGE": select_badge,
    "TypiClust": select_typical,
}


def find_pool(probabilities: np.ndarray, num: int) -> np.ndarray:
    """Return the positions of the smallest margins, the smallest first."""
    return np.argsort(compute_margins(probabilities), kind="stable")[:num]


def compute_margins(probabilities: np.ndarray) -> np.ndarray:
    """Return the probability of the best class less that of the second."""
    ordered = np.sort(probabilities, axis=1)
    return np.asarray(ordered[:, -1] - ordered[:, -2])


def scale_to_unit(vectors: np.ndarray) -> np.ndarray:
    """Return the vectors with length 1."""
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12))


def fill_up(selected: dict[int, None], num: int, num_all: int) -> list[int]:
    """Return `num` positions: those that are selected, then the first of the others."""
    return list(dict.fromkeys([*selected, *range(num_all)]))[:num]


# ---- the simulation --------------------------------------------------------------------------------------------


def main() -> None:
    """Simulate each set, method and seed; write and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", default=",".join(SETS), help="names, with commas between them")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    results = {}
    for name in options.sets.split(","):
        labeled_set = SETS[name]()
        results[name] = simulate_set(name, labeled_set, options.seeds)
        options.out.write_text(json.dumps(results, indent=1) + "\n")
    draw_curves(results, options.out.with_suffix(".png"))
    print(format_table(results))


def simulate_set(name: str, labeled_set: LabeledSet, num_seeds: int) -> dict[str, Any]:
    """Simulate all methods and seeds; return what `summarize` makes of their accuracies."""
    curves: dict[str, list[list[float]]] = {method: [] for method in METHODS}
    for seed in range(num_seeds):
        for method in METHODS:
            curves[method].append(simulate(labeled_set, method, seed))
        print(f"active_learning: {name}, seed {seed}", file=sys.stderr, flush=True)
    return summarize(labeled_set, curves)


def summarize(labeled_set: LabeledSet, curves: dict[str, list[list[float]]]) -> dict[str, Any]:
    """Return the accuracies of all methods and seeds, and the ratios of labels."""
    first = FIRST_LABELS * len(np.unique(labeled_set.labels))
    num_labels = [first + labeled_set.batch * number for number in range(NUM_ROUNDS + 1)]
    ratios = {
        str(num): {method: compare_with_chance(curves, method, num_labels, num) for method in METHODS}
        for num in (num_labels[NUM_ROUNDS // 2], num_labels[-1])
    }
    rounded = {method: np.round(values, 4).tolist() for method, values in curves.items()}
    return {"num_labels": num_labels, "accuracy": rounded, "labels_to_reach_chance": ratios}


def simulate(labeled_set: LabeledSet, method: str, seed: int, num_rounds: int = NUM_ROUNDS) -> list[float]:
    """Return the test accuracy before the first round and after each."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):  # the matrices are small; threads would wait for each other
        return _simulate(labeled_set, METHODS[method], seed, num_rounds)


def _simulate(labeled_set: LabeledSet, select: Callable[..., Any], seed: int, num_rounds: int) -> list[float]:
    from lightning_modules.calibration.temperature import fit_temperature, to_probabilities
    from lightning_modules.features.linear_probe import fit_head, predict_out_of_fold

    rng = np.random.default_rng(seed)
    order = rng.permutation(len(labeled_set.labels))
    test, train = order[: labeled_set.num_test], order[labeled_set.num_test :]
    features, labels = labeled_set.features[train], labeled_set.labels[train]
    classes = np.unique(labeled_set.labels)
    num_classes, strength = len(classes), labeled_set.strength
    known = np.concatenate([rng.permutation(np.flatnonzero(labels == k))[:FIRST_LABELS] for k in classes])
    accuracies = []
    for number in range(num_rounds + 1):
        data = features[known], labels[known]
        head = fit_head(*data, num_classes, strength)
        predicted = head.logits(labeled_set.features[test]).argmax(axis=1)
        accuracies.append(float((predicted == labeled_set.labels[test]).mean()))
        if number == num_rounds:
            break
        held_out = predict_out_of_fold(*data, np.arange(len(known)).astype(str), num_classes, strength, seed)
        temperature = fit_temperature(held_out, labels[known])
        rest = np.setdiff1d(np.arange(len(labels)), known)
        probabilities = to_probabilities(head.logits(features[rest]), temperature, False).astype(np.float64)
        selected = select(features[rest], probabilities, labeled_set.batch, rng)
        known = np.concatenate([known, rest[selected]])
    return accuracies


def compare_with_chance(
    curves: dict[str, list[list[float]]], method: str, num_labels: list[int], num: int
) -> dict[str, float]:
    """Return the ratio of labels with which a method reaches what chance reaches with `num`, and its interval."""
    from scipy.stats import t

    at = num_labels.index(num)
    logs = np.array([
        math.log(find_labels(curve, num_labels, reached) / find_labels(chance, num_labels, reached))
        for curve, chance in zip(curves[method], curves[CHANCE], strict=True)
        for reached in [max(chance[: at + 1])]
    ])  # fmt: skip
    half = t.ppf(0.975, len(logs) - 1) * logs.std(ddof=1) / math.sqrt(len(logs)) if len(logs) > 1 else math.nan
    values = {"ratio": logs.mean(), "low": logs.mean() - half, "high": logs.mean() + half}
    return {name: round(math.exp(value), 3) for name, value in values.items()}


def find_labels(curve: list[float], num_labels: list[int], accuracy: float) -> float:
    """Return with how many labels a curve first reaches an accuracy; all of them if it never does."""
    best = np.maximum.accumulate(curve)
    if best[-1] < accuracy:
        return float(num_labels[-1])
    at = int(np.argmax(best >= accuracy))
    if at == 0:
        return float(num_labels[0])
    share = (accuracy - best[at - 1]) / (best[at] - best[at - 1])
    return float(num_labels[at - 1] + share * (num_labels[at] - num_labels[at - 1]))


# ---- the sets --------------------------------------------------------------------------------------------------


def load_digits() -> LabeledSet:
    """Return scikit-learn's digits, the pixels as features."""
    from sklearn.datasets import load_digits as load

    digits = load()
    return LabeledSet((digits.data / 16).astype(np.float32), digits.target.astype(np.int64), 600, 20, 0.1)


def load_clothing() -> LabeledSet:
    """Return the features of clothing's images, computed once; the splits of the source are put together."""
    if not FEATURES.is_file():
        compute_clothing_features(FEATURES)
    with np.load(FEATURES) as arrays:
        features, labels = arrays["features"], arrays["labels"]
    _, _, directions = np.linalg.svd(features.T @ features)
    return LabeledSet(features @ directions[:NUM_DIRECTIONS].T, labels, 1_000, 40, 1e-2)


def compute_clothing_features(to: Path) -> None:
    """Write the features of all images, as the installed network sees them."""
    from imageset.store.reader import ImageStore
    from lightning_modules.features.extractor import FeatureExtractor
    from lightning_modules.inference.imagenet import make_imagenet_bundle

    if not DATASETS.is_dir():
        raise SystemExit(f"error: {DATASETS} is missing; --sets digits needs no files")
    extractor = FeatureExtractor(make_imagenet_bundle())
    parts, labels = [], []
    with tempfile.TemporaryDirectory() as work:
        store = ImageStore.open(make_set_project(Path(work), "clothing", 0) / "data" / "normalized")
        for split in map(store.split, ("train", "val", "test")):
            for start in range(0, len(split), 16):
                images = split.read_batch(np.arange(start, min(start + 16, len(split))))
                parts.append(extractor(images)[0])
            labels.append(split.labels)
    to.parent.mkdir(parents=True, exist_ok=True)
    np.savez(to, features=np.concatenate(parts), labels=np.concatenate(labels).astype(np.int64))


SETS: dict[str, Callable[[], LabeledSet]] = {"digits": load_digits, "clothing": load_clothing}


# ---- results ---------------------------------------------------------------------------------------------------


def format_table(results: dict[str, Any]) -> str:
    """Format the results as Markdown: a row for each set and method."""
    lines = [
        "| set | method | mean accuracy | M | ratio of labels for chance's accuracy at M | M | likewise |",
        "| --- | --- | ---: | ---: | --- | ---: | --- |",
    ]
    for name, result in results.items():
        means = {method: float(np.mean(values)) for method, values in result["accuracy"].items()}
        for method in sorted(means, key=means.__getitem__, reverse=True):
            ratios = [(num, values[method]) for num, values in result["labels_to_reach_chance"].items()]
            cells = [f"{num} | {one['ratio']:.2f} ({one['low']:.2f} to {one['high']:.2f})" for num, one in ratios]
            lines.append(f"| {name} | {method} | {means[method]:.3f} | {' | '.join(cells)} |")
    return "\n".join(lines)


def draw_curves(results: dict[str, Any], to: Path) -> None:
    """Draw the accuracy by the number of labels, mean over the seeds, one panel for each set."""
    from matplotlib.figure import Figure

    from imageset.html.images import encode_figure

    figure = Figure(figsize=(5.5 * len(results), 4.2), layout="constrained")
    panels = np.atleast_1d(figure.subplots(1, len(results)))
    for axes, (name, result) in zip(panels, results.items(), strict=True):
        for method, values in result["accuracy"].items():
            style: dict[str, Any] = {CHANCE: {"color": "black", "linestyle": "--"}, OURS: {"linewidth": 2.5}}.get(
                method, {}
            )
            axes.plot(result["num_labels"], np.mean(values, axis=0), label=method, **{"linewidth": 1.2, **style})
        axes.set(title=name, xlabel="labels", ylabel="test accuracy")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    to.write_bytes(encode_figure(figure))


if __name__ == "__main__":
    main()
