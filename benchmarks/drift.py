"""False alarms and power of the drift checks, for batches whose pictures come in scenes, days or tracks.

    python -m benchmarks.drift [--trials 60] [--power-trials 15]

Features, classes and confidences are those of the installed EfficientNet-Lite0 with a linear probe, of photographs
of clothing that it was not fitted to:
- scenes: 20 crops of one photograph, as a camera that moves a little sees them;
- days: 20 photographs in the light of one day (brightness, contrast and colour);
- tracks: 10 frames of one traffic sign, of GTSRB.
The reference is of other scenes (days, tracks), of single photographs, as in a data set without groups, or of days
whose groups are not known ("alone"), as in a bundle of an older version. A batch
of the same source that is called drifted is a false alarm; blur, less light, another camera and another mix of
classes are shifts, which count as caught if at least one of two batches drifts. The method "groups" is the
project's where names or folders tell the groups, "neighbours" where the names only count the pictures; "pictures"
permutes them as if each stood alone.

Prints Markdown tables and writes benchmarks/results/drift.json. Ten minutes on a quiet processor; the features
take two of them, once (.cache/benchmarks).
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import tarfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import DATASETS, ROOT
from flows.monitoring.image_groups import merge_neighbours
from lightning_modules.drift.detector import DriftParams, detect_drift
from lightning_modules.features.reference_sample import ImageSample

RESULTS = ROOT / "benchmarks" / "results" / "drift.json"
FEATURES = ROOT / ".cache" / "benchmarks" / "drift.npz"
PARAMS = DriftParams(alpha=0.05, permutations=499, seed=0)
NUM_PROCESSES = 2
METHODS = ("groups", "neighbours", "pictures")
SIDE_PX = 96
NUM_DIRECTIONS = 96  # of the features that are kept, so that thousands of batches are compared in minutes
GROUP_SIZE = 20  # pictures of a scene or day
NUM_PROBE, NUM_SINGLE, NUM_SCENES, NUM_DAYS = 300, 500, 120, 50  # photographs, scenes and days
NUM_SHIFTED = {"scenes": 25, "days": 20}  # of them, the last
UNEQUAL = (100, 40, 20, 10, 10, 5, 5, 4, 3, 3)  # pictures of the scenes of an unequal batch
NUM_REFERENCE = 300  # pictures, about
SHIFTS = ("blur", "camera", "dark", "class mix")
MIX = ("hat", "shoes", "dress")  # classes of the shift "class mix"


@dataclass(frozen=True)
class Pictures:
    """Pictures of one kind, with their groups.

    Attributes:
        sample: what the drift checks compare, `groups` included.
        labels: names of their true classes (n,).
    """

    sample: ImageSample
    labels: np.ndarray

    def take(self, positions: np.ndarray) -> ImageSample:
        """Return the sample of some pictures."""
        return take_rows(self.sample, positions)


def take_rows(sample: ImageSample, positions: np.ndarray) -> ImageSample:
    """Return some rows of a sample, all of which could be read."""
    names = ("classes", "confidence", "features", "brightness", "contrast", "groups")
    rows = {name: getattr(sample, name)[positions] for name in names}
    return ImageSample(rejected=np.array([0, len(positions)]), **rows)


# ---- the simulation --------------------------------------------------------------------------------------------


def main() -> None:
    """Measure; write and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=60, help="batches for a rate of false alarms")
    parser.add_argument("--power-trials", type=int, default=15, help="pairs of batches for a power")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    load_pictures()  # computed once, before the processes start
    rows = []
    with ProcessPoolExecutor(NUM_PROCESSES) as executor:
        for found in executor.map(partial(measure_case, options.trials, options.power_trials), iter_cases()):
            rows += found
            print(f"drift: {found[0]}", file=sys.stderr, flush=True)
    options.out.write_text(json.dumps({"alpha": PARAMS.alpha, "rows": rows}, indent=1) + "\n")
    print(format_tables(rows))


def measure_case(trials: int, power_trials: int, case: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a row for each method; one that raises false alarms has no power, and is not measured there."""
    kinds = load_pictures()
    num, methods = (power_trials, METHODS[:2]) if case["shift"] else (trials, METHODS)
    return [{**case, "method": method, **measure(kinds, case, method, num)} for method in methods]


def iter_cases() -> Iterator[dict[str, Any]]:
    """Yield the cases: kind of pictures, reference, groups of a batch, and shift or None."""
    for kind, reference in (("scenes", "scenes"), ("scenes", "single"), ("days", "days"), ("days", "alone")):
        for groups in (1, 5, 20, "unequal"):
            yield {"kind": kind, "reference": reference, "groups": groups, "shift": None}
    for groups in (1, 5, 20):
        yield {"kind": "tracks", "reference": "tracks", "groups": groups, "shift": None}
    for kind, reference in (("scenes", "scenes"), ("days", "days"), ("days", "alone")):
        for groups in (5, 20):
            for shift in SHIFTS:
                yield {"kind": kind, "reference": reference, "groups": groups, "shift": shift}


def measure(kinds: dict[str, Pictures], case: dict[str, Any], method: str, num: int) -> dict[str, Any]:
    """Return how many batches, or pairs of batches under a shift, were called drifted, of how many."""
    drifted = 0
    for trial in range(num):
        rng = np.random.default_rng([trial, sum(map(ord, str(case)))])
        num_batches = 2 if case["shift"] else 1
        drifted += any(is_drifted(kinds, case, method, rng) for _ in range(num_batches))
    return {"drifted": drifted, "trials": num, "rate": round(drifted / num, 3)}


def is_drifted(kinds: dict[str, Pictures], case: dict[str, Any], method: str, rng: np.random.Generator) -> bool:
    """Draw a reference and a batch of other groups, and compare them."""
    reference, batch = draw_samples(kinds, case, rng)
    if method == "pictures":
        reference, batch = replace(reference, groups=None), replace(batch, groups=None)
    if method == "neighbours":
        uris, alone = [f"IMG_{number}.jpg" for number in range(len(batch))], [None] * len(batch)
        numbers = merge_neighbours(np.arange(len(batch)), alone, uris, batch.features, reference)
        batch = replace(batch, groups=numbers)
    classes = [str(number) for number in range(int(kinds["single"].sample.classes.max()) + 1)]
    return detect_drift(reference, batch, PARAMS, classes).drifted


def draw_samples(
    kinds: dict[str, Pictures], case: dict[str, Any], rng: np.random.Generator
) -> tuple[ImageSample, ImageSample]:
    """Return the samples of a reference and of a batch, which share no group."""
    clean = kinds[case["kind"]]
    shift = case["shift"]
    shifted = kinds[f"{case['kind']} {shift}"] if shift in SHIFTS[:3] else clean
    candidates = np.unique(shifted.sample.groups)
    if shift == "class mix":
        candidates, shifted = select_mix(clean)
    sizes = UNEQUAL if case["groups"] == "unequal" else (GROUP_SIZE,) * case["groups"]
    chosen = rng.choice(candidates, min(len(sizes), len(candidates)), replace=False)
    batch = np.concatenate([
        draw_group(shifted, group, size, rng) for group, size in zip(chosen, sizes, strict=False)
    ])  # fmt: skip
    source = kinds["single"] if case["reference"] == "single" else clean
    assert source.sample.groups is not None
    others = rng.permutation(np.setdiff1d(source.sample.groups, chosen))
    each = 1 if case["reference"] == "single" else max(2, NUM_REFERENCE // len(others))
    rows = np.concatenate([draw_group(source, group, each, rng) for group in others[: NUM_REFERENCE // each + 1]])
    reference = source.take(rng.permutation(rows)[:NUM_REFERENCE])
    return replace(reference, groups=None) if case["reference"] == "alone" else reference, shifted.take(batch)


def draw_group(pictures: Pictures, group: int, size: int, rng: np.random.Generator) -> np.ndarray:
    """Return the positions of some pictures of a group; all of them if there are fewer."""
    return rng.permutation(np.flatnonzero(pictures.sample.groups == group))[:size]


def select_mix(pictures: Pictures) -> tuple[np.ndarray, Pictures]:
    """Return the groups that hold pictures of MIX, and these pictures."""
    rows = np.flatnonzero(np.isin(pictures.labels, MIX))
    mixed = Pictures(pictures.take(rows), pictures.labels[rows])
    return np.unique(mixed.sample.groups), mixed


def format_tables(rows: Sequence[dict[str, Any]]) -> str:
    """Return the results as two Markdown tables: false alarms, and shifts that were caught."""
    lines = []
    for title, methods, is_shown in (
        ("false alarms", METHODS, lambda row: not row["shift"]),
        ("caught in two batches", METHODS[:2], lambda row: row["shift"]),
    ):
        lines += ["", f"| pictures | reference | scenes | shift | {title}: {' | '.join(methods)} |"]
        lines.append("| --- " * (4 + len(methods)) + "|")
        chosen = [row for row in rows if is_shown(row)]
        for start in range(0, len(chosen), len(methods)):
            row = chosen[start]
            cells = [row["kind"], row["reference"], row["groups"], row["shift"] or "none"]
            cells += [f"{other['rate']:.1%}" for other in chosen[start : start + len(methods)]]
            lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


# ---- the pictures ----------------------------------------------------------------------------------------------


def load_pictures() -> dict[str, Pictures]:
    """Return the pictures by kind: single, scenes, days, tracks, and `scenes blur` ...; computed once."""
    if not FEATURES.is_file():
        compute_pictures(FEATURES)
    with np.load(FEATURES) as arrays:
        names = sorted({key.partition("/")[0] for key in arrays})
        columns = {name: {key: arrays[f"{name}/{key}"] for key in COLUMNS} for name in names}
    return {name: make_pictures(values) for name, values in columns.items()}


COLUMNS = ("features", "classes", "confidence", "brightness", "contrast", "groups", "labels")


def make_pictures(values: dict[str, np.ndarray]) -> Pictures:
    """Return pictures from their columns."""
    columns = {name: value for name, value in values.items() if name != "labels"}
    return Pictures(ImageSample(rejected=np.array([0, len(values["labels"])]), **columns), values["labels"])


def compute_pictures(to: Path) -> None:
    """Write the features, predictions and brightnesses of all pictures, as the installed network sees them."""
    from PIL import ImageEnhance, ImageFilter

    if not DATASETS.is_dir():
        raise SystemExit(f"error: {DATASETS} is missing")
    rng = np.random.default_rng(0)
    photographs = read_photographs(NUM_PROBE + NUM_SINGLE)
    shifts: dict[str, Callable[[Any], Any]] = {
        "blur": lambda image: image.filter(ImageFilter.GaussianBlur(1.5)),
        "camera": lambda image: change_light(image, 0.75, 0.8, 1.12),
        "dark": lambda image: ImageEnhance.Brightness(image).enhance(0.65),
    }
    after_probe = np.arange(NUM_PROBE, len(photographs))
    kinds = {
        "probe": [(i, i, crop(photographs[i][1], rng)) for i in range(NUM_PROBE)],
        "single": [(i, i, crop(photographs[i][1], rng)) for i in after_probe.tolist()],
        "scenes": [
            (i, i, crop(photographs[i][1], rng))
            for i in after_probe[:NUM_SCENES].tolist()
            for _ in range(GROUP_SIZE)
        ],
        "days": list(iter_days(photographs, after_probe, rng)),
    }
    for kind, num in NUM_SHIFTED.items():
        last = kinds[kind][-num * GROUP_SIZE :]
        for name, change in shifts.items():
            kinds[f"{kind} {name}"] = [(group, i, change(image)) for group, i, image in last]
    seen = {}
    for kind, items in kinds.items():
        labels = np.array([photographs[i][0] for _, i, _ in items])
        seen[kind] = observe([image for _, _, image in items]) | {
            "labels": labels, "groups": np.array([group for group, _, _ in items]),
        }  # fmt: skip
        print(f"drift: {kind}, {len(items):,} pictures", file=sys.stderr, flush=True)
    seen["tracks"] = observe_tracks()
    add_predictions(seen)
    to.parent.mkdir(parents=True, exist_ok=True)
    kept = {kind: values for kind, values in seen.items() if kind != "probe"}
    np.savez(to, **{f"{kind}/{name}": values[name] for kind, values in kept.items() for name in COLUMNS})


def read_photographs(num: int) -> list[tuple[str, Any]]:
    """Return (class, image) of photographs of clothing, in an order drawn once."""
    from PIL import Image

    with tarfile.open(DATASETS / "clothing.tar.gz") as file:
        members = [member for member in file.getmembers() if member.name.endswith(".jpg")]
        order = np.random.default_rng(1).permutation(len(members))[:num]
        found = {}
        for position in sorted(order.tolist()):
            data = file.extractfile(members[position]).read()  # type: ignore[union-attr]
            image = Image.open(io.BytesIO(data)).convert("RGB")
            found[position] = (members[position].name.split("/")[-2], image)
    return [found[position] for position in order.tolist()]


def iter_days(photographs: list[tuple[str, Any]], pool: np.ndarray, rng: np.random.Generator) -> Iterator[Any]:
    """Yield (day, photograph, image) of different photographs in the light of each day."""
    for day in range(NUM_DAYS):
        light = np.exp(rng.normal(0, [0.2, 0.15, 0.06]))
        for i in rng.choice(pool, GROUP_SIZE, replace=False).tolist():
            yield day, i, change_light(crop(photographs[i][1], rng), *light)


def crop(image: Any, rng: np.random.Generator) -> Any:
    """Return a random square of an image, of 55 to 85% of its short side."""
    side = int(min(image.size) * rng.uniform(0.55, 0.85))
    left, top = (int(rng.integers(0, length - side + 1)) for length in image.size)
    return image.crop((left, top, left + side, top + side)).resize((SIDE_PX, SIDE_PX))


def change_light(image: Any, brightness: float, contrast: float, warmth: float) -> Any:
    """Return an image in another light: factors of brightness and contrast, and of red over blue."""
    from PIL import Image, ImageEnhance

    image = ImageEnhance.Contrast(ImageEnhance.Brightness(image).enhance(brightness)).enhance(contrast)
    red, green, blue = image.split()
    warmer = red.point(lambda value: min(255, int(value * warmth)))
    return Image.merge("RGB", (warmer, green, blue.point(lambda value: min(255, int(value / warmth)))))


def observe_tracks() -> dict[str, np.ndarray]:
    """Return the columns of every third frame of GTSRB's tracks."""
    from PIL import Image

    images, tracks = [], []
    with tarfile.open(DATASETS / "gtsrb_tracks.tar.gz") as file:
        for member in file:
            label, name = member.name.split("/")[-2:]
            track, _, frame = name.removesuffix(".ppm").partition("_")
            if name.endswith(".ppm") and int(frame) % 3 == 0:
                data = file.extractfile(member).read()  # type: ignore[union-attr]
                images.append(Image.open(io.BytesIO(data)).convert("RGB").resize((SIDE_PX, SIDE_PX)))
                tracks.append(f"{label}/{track}")
    _, groups = np.unique(tracks, return_inverse=True)
    return observe(images) | {"groups": groups, "labels": np.array([track.split("/")[0] for track in tracks])}


def observe(images: Sequence[Any]) -> dict[str, np.ndarray]:
    """Return the features, brightness and contrast of images."""
    from lightning_modules.features.extractor import FeatureExtractor
    from lightning_modules.inference.imagenet import make_imagenet_bundle

    extract = FeatureExtractor(make_imagenet_bundle())
    columns: dict[str, list[np.ndarray]] = {"features": [], "brightness": [], "contrast": []}
    for start in range(0, len(images), 32):
        pixels = np.stack([np.asarray(image) for image in images[start : start + 32]])
        flat = pixels.reshape(len(pixels), -1) / 255
        columns["features"].append(extract(pixels)[0])
        columns["brightness"].append(flat.mean(axis=1).astype(np.float32))
        columns["contrast"].append(flat.std(axis=1).astype(np.float32))
    return {name: np.concatenate(parts) for name, parts in columns.items()}


def add_predictions(seen: dict[str, dict[str, np.ndarray]]) -> None:
    """Add the class and the confidence of a linear probe, and keep the strongest directions of the features."""
    from lightning_modules.calibration.temperature import to_probabilities
    from lightning_modules.features.linear_probe import fit_head

    names, labels = np.unique(seen["probe"]["labels"], return_inverse=True)
    head = fit_head(seen["probe"]["features"], labels, len(names), 1e-2)
    features = seen["single"]["features"]
    _, _, directions = np.linalg.svd(features - features.mean(axis=0), full_matrices=False)
    for values in seen.values():
        probabilities = to_probabilities(head.logits(values["features"]), 1.0, False)
        values["classes"] = probabilities.argmax(axis=1)
        values["confidence"] = probabilities.max(axis=1).astype(np.float32)
        values["features"] = (values["features"] @ directions[:NUM_DIRECTIONS].T).astype(np.float32)


if __name__ == "__main__":
    main()
