"""Accuracy of the default beside other recipes: the same pictures, the same splits, equal seconds.

    make bench-accuracy        (or: python -m benchmarks.accuracy [--sets clothing,digits] [--seeds 5] [--again])

- `default`: params.yaml as it stands in the repository, `python -m lightning_modules fit`, then `test`.
- `finetune`: all layers of the same pretrained network in plain PyTorch, see `benchmarks.plain_recipes`.
- `two layers`: two dense layers on frozen features, as Teachable Machine trains them, likewise.
- `scratch`: the preset `scratch`, with as many epochs as the seconds allow.

The seconds are those that the default took for its training; evaluation is not counted. Sets with splits of their
own are trained once, the others once for each seed of the split. The interval is Wilson's, of 95%, over all test
pictures together. Prints a Markdown table and writes benchmarks/results/accuracy.json. Called again, it goes on
where it stopped: rows that are there are not trained again. Run it on a quiet machine.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.common import (
    DATASETS,
    ROOT,
    make_project,
    merge_params,
    read_scratch_params,
    run_command,
    run_python,
    unpack_dataset,
)
from lightning_modules.networks.registry import get_display_name

RECIPES = ("default", "finetune", "two layers", "scratch")
OUTPUTS = (".cache", "data/models", "mlflow.db", "mlartifacts")
RESULTS = ROOT / "benchmarks" / "results" / "accuracy.json"

LIST_FILES = """
import json, sys
from pathlib import Path
from imageset.store.reader import ImageStore
store, source = ImageStore.open("data/normalized"), Path("source").resolve()
files = {
    name: [[str(source / uri), int(label)] for uri, label in zip(split.uris, split.labels)]
    for name in ("train", "val", "test")
    for split in [store.split(name)]
}
Path("files.json").write_text(json.dumps(files))
"""

WRITE_DIGITS = """
import sys
from pathlib import Path
from PIL import Image
from sklearn.datasets import load_digits
digits = load_digits()
for number, (pixels, label) in enumerate(zip(digits.images, digits.target)):
    folder = Path(sys.argv[1], str(label))
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray((pixels * 15.9375).astype("uint8")).save(folder / f"{number:04d}.png")
"""


@dataclass(frozen=True)
class PictureSet:
    """A set of the benchmark.

    Attributes:
        make: writes the pictures to a folder.
        own_split: whether the source has a test split of its own, so that a seed would change little.
        normalize: changes of the section `normalize` of params.yaml.
    """

    make: Callable[[Path], Any]
    own_split: bool
    normalize: dict[str, Any]


def unpack_folder(archive: str, folder: str, to: Path) -> None:
    """Unpack an archive of the shared sets, and move one of its folders."""
    with tempfile.TemporaryDirectory(dir=to.parent) as work:
        unpack_dataset(archive, Path(work))
        shutil.move(Path(work) / folder, to)


def unpack_hymenoptera(to: Path) -> None:
    """Unpack ants and bees; their folder `val` is the test split, as others test on it."""
    unpack_folder("hymenoptera.tar.gz", "hymenoptera", to)
    (to / "val").rename(to / "test")


SETS = {
    "hymenoptera": PictureSet(unpack_hymenoptera, True, {}),
    "clothing": PictureSet(partial(unpack_folder, "clothing.tar.gz", "clothing"), True, {}),
    "flowers": PictureSet(partial(unpack_folder, "flowers.tar.gz", "flowers"), False, {}),
    "brain_mri": PictureSet(partial(unpack_folder, "brain_mri.tar.gz", "brain_mri"), False, {}),
    "gtsrb": PictureSet(
        partial(unpack_folder, "gtsrb_tracks.tar.gz", "gtsrb/Final_Training/Images"), False,
        {"split": {"group": r"(\d+/\d+)_\d+\.ppm"}},
    ),
    "digits": PictureSet(lambda to: run_python(WRITE_DIGITS, to.parent, to), False, {}),
}  # fmt: skip


def main() -> None:
    """Train what is missing, write each row as it comes, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", default=",".join(SETS), help="names, with commas between them")
    parser.add_argument("--recipes", default=",".join(RECIPES), help="names, with commas between them")
    parser.add_argument("--seeds", type=int, default=5, help="splits of the sets that have none of their own")
    parser.add_argument("--again", action="store_true", help="begin anew")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    if not DATASETS.is_dir():
        raise SystemExit(f"error: {DATASETS} is missing; this table is about its pictures")
    rows = json.loads(options.out.read_text()) if options.out.exists() and not options.again else []
    with tempfile.TemporaryDirectory() as folder:
        for name in options.sets.split(","):
            for seed in range(1 if SETS[name].own_split else options.seeds):
                for recipe in sort_recipes(options.recipes.split(",")):
                    if any((row["set"], row["seed"], row["recipe"]) == (name, seed, recipe) for row in rows):
                        continue
                    project = make_set_project(Path(folder), name, seed)
                    seconds = math.inf if recipe == "default" else find_default_seconds(rows, name, seed)
                    rows.append({"set": name, "seed": seed, "recipe": recipe, **train(project, recipe, seconds)})
                    options.out.write_text(json.dumps(rows, indent=1) + "\n")
                    print(f"accuracy: {rows[-1]}", file=sys.stderr, flush=True)
    print(format_table(rows))


def sort_recipes(names: list[str]) -> list[str]:
    """Sort recipes: the default first, since its seconds are those of the others."""
    return sorted(names, key=RECIPES.index)


def make_set_project(work: Path, name: str, seed: int) -> Path:
    """Make a project with a set, split by a seed, and the list of the files of each split."""
    project = work / f"{name}-{seed}"
    if not project.exists():
        normalize = dict(SETS[name].normalize)
        normalize["split"] = {**normalize.get("split", {}), "seed": seed}
        make_project(project, SETS[name].make, **normalize)
        run_python(LIST_FILES, project)
    return project


def find_default_seconds(rows: list[dict[str, Any]], name: str, seed: int) -> float:
    """Return the seconds of the default on a set; without them the others have no time to compare with."""
    for row in rows:
        if (row["set"], row["seed"], row["recipe"]) == (name, seed, "default"):
            return float(row["seconds"])
    raise SystemExit(f"error: {name} has no row of the recipe default yet; add it to --recipes")


def train(project: Path, recipe: str, seconds: float) -> dict[str, Any]:
    """Train by a recipe within the seconds: {"correct", "num", "seconds", "network"}."""
    if recipe in ("finetune", "two layers"):
        command = [sys.executable, "-m", "benchmarks.plain_recipes", recipe.replace(" ", "_"), "files.json"]
        result: dict[str, Any] = json.loads(run_command([*command, "--seconds", str(seconds)], project))
        return {**result, "seconds": round(result["seconds"], 1), "network": "EfficientNet-Lite0"}
    import yaml

    params = yaml.safe_load((project / "params.yaml").read_text())
    if recipe == "scratch":
        merge_params(params["train"], read_scratch_params()["train"])
        params["train"]["trainer"]["max_epochs"] = 1
        one_epoch_s = train_by_commands(project, params)["seconds"]
        params["train"]["trainer"]["max_epochs"] = 3
        epoch_s = max(0.1, (train_by_commands(project, params)["seconds"] - one_epoch_s) / 2)
        params["train"]["trainer"]["max_epochs"] = max(1, 1 + int((seconds - one_epoch_s) / epoch_s))
    return train_by_commands(project, params)


def train_by_commands(project: Path, params: dict[str, Any]) -> dict[str, Any]:
    """Train and test with the real commands."""
    import yaml

    (project / "params.yaml").write_text(yaml.safe_dump(params))
    for leftover in (project / name for name in OUTPUTS):
        shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink(missing_ok=True)
    start = time.perf_counter()
    run_command([sys.executable, "-m", "lightning_modules", "fit"], project)
    seconds = time.perf_counter() - start
    run_command([sys.executable, "-m", "lightning_modules", "test"], project)
    metrics = json.loads((project / "metrics.json").read_text())
    bundle = json.loads((project / "data/models/classifier/bundle.json").read_text())["info"]["network"]
    network = get_display_name(bundle)
    correct = round(metrics["test"]["accuracy"] * metrics["num_test"])
    return {"correct": correct, "num": metrics["num_test"], "seconds": round(seconds, 1), "network": network}


def compute_wilson_interval(correct: int, num: int) -> tuple[float, float]:
    """Return the 95% interval of a share.

    Source: E. B. Wilson, "Probable inference, the law of succession, and statistical inference", 1927.
    """
    z, share = 1.96, correct / num
    middle = (share + z**2 / (2 * num)) / (1 + z**2 / num)
    half = z / (1 + z**2 / num) * math.sqrt(share * (1 - share) / num + z**2 / (4 * num**2))
    return middle - half, middle + half


def format_table(rows: list[dict[str, Any]]) -> str:
    """Format the rows as Markdown: a row for each set and recipe."""
    lines = [
        "| set | recipe | accuracy | 95% interval | test pictures | splits | seconds | network |",
        "| --- | --- | ---: | --- | ---: | ---: | ---: | --- |",
    ]
    for name in SETS:
        for recipe in RECIPES:
            mine = [row for row in rows if (row["set"], row["recipe"]) == (name, recipe)]
            if not mine:
                continue
            correct, num = sum(row["correct"] for row in mine), sum(row["num"] for row in mine)
            low, high = compute_wilson_interval(correct, num)
            seconds = sum(row["seconds"] for row in mine) / len(mine)
            networks = ", ".join(sorted({row["network"] for row in mine}))
            lines.append(
                f"| {name} | {recipe} | {correct / num:.3f} | {low:.3f} to {high:.3f} | {num:,} | {len(mine)} | "
                f"{seconds:.0f} | {networks} |"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
