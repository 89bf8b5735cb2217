"""Recipes that people write in plain PyTorch, for comparison: `python -m benchmarks.plain_recipes RECIPE ...`.

Both start from the weights of EfficientNet-Lite0 that are installed with Convoy, and take a number of seconds:

- `finetune`: all layers with AdamW, one learning rate, a cosine schedule, random-resized crops and mirror images,
  a DataLoader with workers (the recipe of torchvision's and timm's scripts).
- `two_layers`: features of the frozen network once, then two dense layers of 100 hidden units with Adam, batches
  of 16 and 50 epochs (the recipe of Teachable Machine).

The files are those of one JSON document, {"train": [[path, label], ...], "val": ..., "test": ...}. The epoch that
is best on the validation images is tested. Prints {"correct", "num", "seconds", "epochs"} as JSON.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from lightning_modules.networks.weights.installed import read_installed_weights

SIDE_PX = 224
NUM_WORKERS = min(4, os.cpu_count() or 1)
Files = Sequence[tuple[str, int]]


class Pictures(Dataset[tuple[Tensor, int]]):
    """Image files and their labels.

    Args:
        files: (path, label) of each image.
        augment: whether to crop and mirror at random.
    """

    def __init__(self, files: Files, augment: bool) -> None:
        self.files = files
        crop = [v2.RandomResizedCrop(SIDE_PX), v2.RandomHorizontalFlip()]
        whole = [v2.Resize(SIDE_PX), v2.CenterCrop(SIDE_PX)]
        self.transform = v2.Compose(
            [
                *(crop if augment else whole),
                v2.ToImage(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize([0.5] * 3, [0.5] * 3),
            ]
        )

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, position: int) -> tuple[Tensor, int]:
        """Read one image: float32 (3, 224, 224), and its label."""
        path, label = self.files[position]
        with Image.open(path) as image:
            return self.transform(image.convert("RGB")), label


def load_network(num_classes: int) -> nn.Module:
    """Return EfficientNet-Lite0 with the installed weights and a new head of random weights."""
    network: nn.Module = timm.create_model("tf_efficientnet_lite0")
    network.load_state_dict(read_installed_weights())
    network.reset_classifier(num_classes)  # type: ignore[operator]
    return network.to(memory_format=torch.channels_last)


def finetune(splits: dict[str, Files], num_classes: int, seconds: float) -> dict[str, Any]:
    """Fine-tune all layers; the learning rate reaches 0 when the seconds are over."""
    start = time.perf_counter()
    network = load_network(num_classes)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=0.01)
    loader = DataLoader(
        Pictures(splits["train"], True), 32, shuffle=True, num_workers=NUM_WORKERS, persistent_workers=True
    )
    best, best_correct, num_batches, share = copy.deepcopy(network), -1, 0, 0.0
    while share < 1:
        network.train()
        for images, labels in loader:
            share = min(1.0, (time.perf_counter() - start) / seconds)
            for group in optimizer.param_groups:
                group["lr"] = 1e-3 * min(1.0, 20 * share) * (1 + math.cos(math.pi * share)) / 2
            optimizer.zero_grad()
            logits = network(images.contiguous(memory_format=torch.channels_last))
            F.cross_entropy(logits, labels, label_smoothing=0.1).backward()
            optimizer.step()
            num_batches += 1
            if share == 1:
                break
        correct = count_correct(network, splits["val"])
        if correct >= best_correct:
            best, best_correct = copy.deepcopy(network), correct
    taken = time.perf_counter() - start
    correct, num = count_correct(best, splits["test"]), len(splits["test"])
    return {"correct": correct, "num": num, "seconds": taken, "epochs": round(num_batches / len(loader), 1)}


@torch.no_grad()
def count_correct(network: nn.Module, files: Files) -> int:
    """Count the images that a network classifies correctly."""
    network.eval()
    loader = DataLoader(Pictures(files, False), 32, num_workers=NUM_WORKERS)
    return sum(int((network(images).argmax(1) == labels).sum()) for images, labels in loader)


def train_two_layers(splits: dict[str, Files], num_classes: int, seconds: float) -> dict[str, Any]:
    """Train two dense layers on the features of the frozen network, for 50 epochs at most."""
    start = time.perf_counter()
    network = load_network(num_classes)
    network.reset_classifier(0)  # type: ignore[operator]
    features = {name: compute_features(network, files) for name, files in splits.items()}
    head = nn.Sequential(nn.Linear(1280, 100), nn.ReLU(), nn.Linear(100, num_classes))
    optimizer = torch.optim.Adam(head.parameters(), lr=1e-3)
    best, best_correct, num_epochs = copy.deepcopy(head), -1, 0
    x, y = features["train"]
    while num_epochs < 50 and (num_epochs == 0 or time.perf_counter() - start < seconds):
        for batch in torch.randperm(len(x)).split(16):
            optimizer.zero_grad()
            F.cross_entropy(head(x[batch]), y[batch]).backward()
            optimizer.step()
        num_epochs += 1
        correct = count_correct_features(head, *features["val"])
        if correct >= best_correct:
            best, best_correct = copy.deepcopy(head), correct
    taken = time.perf_counter() - start
    correct, num = count_correct_features(best, *features["test"]), len(splits["test"])
    return {"correct": correct, "num": num, "seconds": taken, "epochs": num_epochs}


@torch.no_grad()
def compute_features(network: nn.Module, files: Files) -> tuple[Tensor, Tensor]:
    """Return the features (n, 1280) and the labels (n,) of images."""
    network.eval()
    loader = DataLoader(Pictures(files, False), 32, num_workers=NUM_WORKERS)
    rows = [(network(images), labels) for images, labels in loader]
    return torch.cat([x for x, _ in rows]), torch.cat([y for _, y in rows])


@torch.no_grad()
def count_correct_features(head: nn.Module, x: Tensor, y: Tensor) -> int:
    """Count the features that a head classifies correctly."""
    return int((head(x).argmax(1) == y).sum())


def main() -> None:
    """Train by a recipe and print the result as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", choices=("finetune", "two_layers"))
    parser.add_argument("files", type=Path, help="JSON document with the files of the splits")
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    splits = json.loads(options.files.read_text())
    num_classes = 1 + max(label for files in splits.values() for _, label in files)
    train = finetune if options.recipe == "finetune" else train_two_layers
    print(json.dumps(train(splits, num_classes, options.seconds)))


if __name__ == "__main__":
    main()
