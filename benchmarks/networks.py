"""Each family of networks on Fashion-MNIST and CIFAR-10: test accuracy and time, trained by the real commands.

    make families        (or: python -m benchmarks.networks [--seconds 20] [--only resnet18,LeNet5] [--again])

A row is `python -m lightning_modules fit`, then `test`, with params.yaml as it stands in the repository and the
name of the network; LEARNING_RATES are the exceptions, and CIFAR-10, and all for SpeedNet, is mirrored. The budget
is small: 20 s of steps for the networks of our own, a minute for those drawn for 224 px. How many batches of 64
that is, is timed beforehand: the learning rate has then fallen to zero when they are over. Trained on (up to)
10,000 pictures of each set, tested on 2,000 that the source itself keeps for testing. This shows what a family
gets out of a minute on this machine, not what it can reach: hours of training order them differently. Networks
whose batch normalization averages slowly (MobileNet, EfficientNet) are at chance after so few steps.

Prints a Markdown table and writes benchmarks/results/networks.json. Called again, it goes on where it stopped:
rows that are there are not trained again. One to two minutes a row on two quiet processors, 16 rows.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.common import (
    DATASETS,
    FASHION_MNIST,
    ROOT,
    make_project,
    run_python,
    train_and_time,
    unpack_dataset,
    write_train_params,
)

SMALL_NETWORKS = ("LeNet5", "ConvNet", "SpeedNet")
NETWORKS = (*SMALL_NETWORKS, "alexnet", "vgg11_bn", "googlenet", "resnet18", "densenet121")
BUDGET_FACTOR = 3  # the others, which were drawn for 224 px
SETS = ("Fashion-MNIST", "CIFAR-10")
LEARNING_RATES = {"alexnet": 0.0005, "vgg11_bn": 0.0005}  # others: that of params.yaml
NUM_TRAINED, NUM_TESTED = 10_000, 2_000
NUM_CLASSES = 10

TIME_STEPS = """
import statistics, sys, time
from pathlib import Path
import torch
from imageset.utils.memory import keep_large_blocks
from lightning_modules.classifier import Classifier
from lightning_modules.datamodule import ImageDataModule
from lightning_modules.training.cli import build_stage, to_plain_config
from lightning_modules.training.stage import prepare_training

keep_large_blocks()
cli = build_stage("train", Classifier, ImageDataModule, Path("params.yaml"))
model = cli.model
prepare_training(cli, to_plain_config(cli.config), cli.datamodule.store, Path())
model._log = lambda *_: None
model.network.train()
times = []
for number, batch in enumerate(cli.datamodule.train_dataloader()):
    start = time.perf_counter()
    with torch.autocast("cpu", torch.bfloat16, enabled="bf16" in str(cli.trainer.precision)):
        loss = model.training_step(batch, number)
    loss.backward()
    times.append(time.perf_counter() - start)
    if number == 5 or sum(times) > 15:
        break
num_weights = sum(weights.numel() for weights in model.network.parameters())
print(statistics.median(times), num_weights, cli.datamodule.store.counts["train"])
"""

WRITE_PNGS = """
import sys
import numpy as np
from pathlib import Path
from PIL import Image
import gzip

def read(name):
    data = gzip.open(f"{sys.argv[1]}/{name}").read()
    return np.frombuffer(data, np.uint8, offset=4 + 4 * data[3])

for split, begin, num in (("train", "train", int(sys.argv[3])), ("test", "t10k", int(sys.argv[4]))):
    labels = read(f"{begin}-labels-idx1-ubyte.gz")
    pixels = read(f"{begin}-images-idx3-ubyte.gz").reshape(-1, 28, 28)
    for label in range(10):
        folder = Path(sys.argv[2], split, str(label))
        folder.mkdir(parents=True)
        for number in np.flatnonzero(labels == label)[:num]:
            Image.fromarray(pixels[number]).save(folder / f"{number:05d}.png")
"""


def main() -> None:
    """Train what is missing, write each row as it comes, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20.0, help="of steps; thrice for those drawn for 224 px")
    parser.add_argument("--only", default=",".join(NETWORKS), help="networks, with commas between them")
    parser.add_argument("--again", action="store_true", help="begin anew")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "networks.json")
    options = parser.parse_args()
    if not DATASETS.is_dir():
        raise SystemExit(f"error: {DATASETS} is missing; this table is about its pictures")
    rows = json.loads(options.out.read_text()) if options.out.exists() and not options.again else []
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        for name in options.only.split(","):
            budget_s = options.seconds * (1 if name in SMALL_NETWORKS else BUDGET_FACTOR)
            for dataset in SETS:
                done = {(row["network"], row["dataset"]) for row in rows if row["budget_s"] == budget_s}
                if (name, dataset) in done or (dataset == "Fashion-MNIST" and not FASHION_MNIST.is_dir()):
                    continue
                rows = [row for row in rows if (row["network"], row["dataset"]) != (name, dataset)]
                rows.append(train_network(Path(folder), name, dataset, budget_s))
                options.out.write_text(json.dumps(rows, indent=1) + "\n")
                print(f"networks: {rows[-1]}", file=sys.stderr, flush=True)
    print(format_table(rows))


def train_network(work: Path, name: str, dataset: str, budget_s: float) -> dict[str, Any]:
    """One row."""
    project = make_cifar_project(work) if dataset == "CIFAR-10" else make_fashion_project(work)
    mirrors = dataset == "CIFAR-10" or name == "SpeedNet"
    model: dict[str, Any] = {"network": name, "flip": mirrors}
    if name in LEARNING_RATES:
        model["optimizer"] = {
            "class_path": "torch.optim.AdamW",
            "init_args": {"lr": LEARNING_RATES[name], "weight_decay": 0.05},
        }
    write_train_params(project, {"model": model})
    timed_s, num_parameters, num_pictures = run_python(TIME_STEPS, project).split()
    steps = max(10, round(budget_s / float(timed_s)))
    per_epoch = int(num_pictures) // 64
    epochs = max(1, round(steps / per_epoch))
    trainer = {"max_epochs": epochs, "limit_train_batches": min(per_epoch, max(1, steps // epochs))}
    accuracy, step_s, seconds = train_and_time(project, {"model": model, "trainer": trainer}, test=True)
    return {
        "network": name, "dataset": dataset, "accuracy": round(accuracy, 4), "budget_s": budget_s,
        "steps": epochs * trainer["limit_train_batches"], "ms_a_step": round(1000 * step_s, 1),
        "fit_s": round(seconds, 1), "num_parameters": int(num_parameters),
    }  # fmt: skip


def format_table(rows: list[dict[str, Any]]) -> str:
    """Markdown; the networks in the order of NETWORKS."""
    found = {(row["network"], row["dataset"]): row for row in rows}
    columns = "".join(f" {name} | steps | `fit` |" for name in SETS)
    lines = [
        f"| network | parameters | ms a step, {SETS[-1]} |" + columns,
        "| --- |" + " ---: |" * (2 + 3 * len(SETS)),
    ]
    for name in [*NETWORKS, *sorted({row["network"] for row in rows} - set(NETWORKS))]:
        mine = [found.get((name, dataset)) for dataset in SETS]
        there = [row for row in mine if row]
        if there:
            cells = [
                f"{row['accuracy']:.3f} | {row['steps']:,} | {row['fit_s']:.0f} s" if row else " | | "
                for row in mine
            ]
            last = there[-1]
            first = f"{last['num_parameters']:,} | {last['ms_a_step']:.0f}"
            lines.append(f"| {name} | {first} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def make_cifar_project(work: Path) -> Path:
    """Make a project with the first of each class of CIFAR-10, by name."""

    def make(to: Path) -> None:
        unpack_dataset("cifar10.tar.gz", work / "whole")
        for split, num in (("train", NUM_TRAINED), ("test", NUM_TESTED)):
            for folder in (work / "whole" / split).iterdir():
                (to / split / folder.name).mkdir(parents=True)
                for file in sorted(folder.iterdir())[: num // NUM_CLASSES]:
                    shutil.move(file, to / split / folder.name / file.name)

    return make_project(work / "cifar", make)


def make_fashion_project(work: Path) -> Path:
    """Make a project with the first of each class of Fashion-MNIST."""

    def make(to: Path) -> None:
        run_python(WRITE_PNGS, work, FASHION_MNIST, to, NUM_TRAINED // NUM_CLASSES, NUM_TESTED // NUM_CLASSES)

    return make_project(work / "fashion", make)


if __name__ == "__main__":
    main()
