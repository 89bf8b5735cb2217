"""How fast lightning_modules trains, side by side with stock Lightning, a bare loop and ImageFolder, in one run.

    python -m benchmarks.train [--only step,overhead,loader,fashion,cifar] [--repeats 3]

Needs the real pictures of ../shared/datasets (photos.tar.gz, cifar10.tar.gz); Fashion-MNIST is read from Debian's
package dataset-fashion-mnist where it is installed. Ours is always the real command, `python -m lightning_modules
fit`, with params.yaml as it stands in the repository but for what a row's name says; a callback notes when each
step ended. The peer is a plain Lightning script: float32, NCHW, a torchvision transform a picture, DataLoader.

step       pictures a second in steady state (medians of the steps), and the test accuracy after the same steps
overhead   a tiny network, the end of an epoch, checkpoint and MLflow included, against a loop of bare PyTorch
loader     normalized float32 batches (N, C, H, W) a second, from the second pass on
fashion    seconds of the whole command with the preset fast and 5 epochs, against those that the plain script
           (Adam, 1e-3) takes to a test accuracy of 0.93 on Fashion-MNIST; it is given up after twice ours: then
           the ratio is at least that
cifar      the same with the preset's own epochs, to 0.90 on CIFAR-10

On two quiet processors the first three take about a quarter of an hour, the fourth ten minutes, the last an hour.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.common import (
    DATASETS,
    FASHION_MNIST,
    ROOT,
    WARM_UP_STEPS,
    make_project,
    make_row,
    read_step_s,
    run_python,
    train_and_time,
    unpack_dataset,
)

SECTIONS = ("step", "overhead", "loader", "fashion", "cifar")
SLOW = ("fashion", "cifar")
GIVE_UP_FACTOR = 2.02
FEW_FOR_VALIDATION = {"val": 0.05}  # 2,500 pictures and more: enough to choose an epoch by

# What a tutorial shows: a dataset of pictures, one transform each, DataLoader, Lightning's Trainer as it comes.
STOCK = """
import json, logging, sys, time, warnings
begin = time.perf_counter()
import numpy as np, pytorch_lightning as pl, torch
from PIL import Image
from torch import nn
from torchvision import transforms
warnings.filterwarnings("ignore"); logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
from probe import Probe
from lightning_modules.lr_schedules import warmup_cosine
from lightning_modules.networks import ConvNet, TorchvisionNet

what = json.loads(sys.argv[1])
pl.seed_everything(0)
mean, std = what["mean"], what["std"]
plain = [transforms.ToTensor(), transforms.Normalize(mean, std)]
side = what["side"]
crop = [transforms.RandomCrop(side, padding=what["padding"], padding_mode="edge")]
crop += [transforms.RandomHorizontalFlip()] if what["flip"] else []

class Pictures(torch.utils.data.Dataset):
    def __init__(self, name, steps):
        self.pixels, self.labels = np.load(f"{name}-pixels.npy"), np.load(f"{name}-labels.npy")
        self.transform = transforms.Compose(steps)
    def __len__(self):
        return len(self.labels)
    def __getitem__(self, number):
        pixels = self.pixels[number]
        return self.transform(Image.fromarray(pixels.squeeze())), int(self.labels[number])

def small_cnn(channels, num_classes):
    layers, before = [], channels
    for width in (32, 64, 128):
        for _ in range(2):
            layers += [nn.Conv2d(before, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
            before = width
        layers += [nn.MaxPool2d(2), nn.Dropout(0.2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(128 * (side // 8) ** 2, 128), nn.ReLU(), nn.Dropout(0.3),
                         nn.Linear(128, num_classes))

class Stock(pl.LightningModule):
    def __init__(self):
        super().__init__()
        make = {"ConvNet": ConvNet, "small_cnn": small_cnn,
                "resnet18": lambda *two: TorchvisionNet(*two, name="resnet18", stem="small")}
        self.network = make[what["network"]](len(mean), what["num_classes"])
        self.loss = nn.CrossEntropyLoss(label_smoothing=what["label_smoothing"])
    def training_step(self, batch, number):
        logits = self.network(batch[0])
        loss = self.loss(logits, batch[1])
        self.log("train_loss", loss)
        return loss
    def configure_optimizers(self):
        if what["optimizer"] == "adam":
            return torch.optim.Adam(self.parameters(), lr=1e-3)
        optimizer = torch.optim.AdamW(self.parameters(), lr=0.002, weight_decay=0.05)
        total = self.trainer.estimated_stepping_batches
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: warmup_cosine(step, total, 0.2))
        return [optimizer], [{"scheduler": scheduler, "interval": "step"}]

@torch.no_grad()
def accuracy(network):
    network.eval()
    right = sum((network(x).argmax(1) == y).sum().item() for x, y in tested)
    network.train()
    return right / len(tested.dataset)

class UntilGoodEnough(pl.Callback):
    spent = time.perf_counter()
    testing = 0.0
    def seconds(self):
        return time.perf_counter() - begin - self.testing
    def on_train_batch_end(self, trainer, *rest):
        trainer.should_stop |= self.seconds() > what["limit_s"]
    def on_train_epoch_end(self, trainer, module):
        start = time.perf_counter()
        seconds, self.accuracy = self.seconds(), accuracy(module.network)
        self.testing += time.perf_counter() - start
        print(f"stock: epoch {trainer.current_epoch + 1}, {seconds:.0f} s, test accuracy {self.accuracy:.4f}",
              file=sys.stderr, flush=True)
        self.reached_s = seconds if self.accuracy >= what["target"] else None
        trainer.should_stop |= self.reached_s is not None

trained = torch.utils.data.DataLoader(Pictures("train", crop + plain), what["batch_size"], shuffle=True)
tested = torch.utils.data.DataLoader(Pictures("test", plain), 256)
watch = UntilGoodEnough() if what["target"] else None
callbacks = [Probe(), *([watch] if watch else [])]
trainer = pl.Trainer(accelerator="cpu", callbacks=callbacks, enable_checkpointing=False,
                     enable_model_summary=False, enable_progress_bar=False, **what["trainer"])
model = Stock()
trainer.fit(model, trained)
print(json.dumps({"accuracy": watch.accuracy, "reached_s": watch.reached_s, "seconds": watch.seconds()} if watch
                 else {"accuracy": accuracy(model.network)}))
"""

BARE = """
import sys, time
from pathlib import Path
import torch, torch.nn.functional as F
from imageset.utils.memory import keep_large_blocks
from lightning_modules.classifier import Classifier
from lightning_modules.datamodule import BatchLoader, BatchSampler, ImageDataModule
from lightning_modules.training.cli import build_stage, to_plain_config
from lightning_modules.training.stage import prepare_training

keep_large_blocks()
cli = build_stage("train", Classifier, ImageDataModule, Path("params.yaml"))
store, model = cli.datamodule.store, cli.model
prepare_training(cli, to_plain_config(cli.config), store, Path())
network, split = model.network.train(), store.split("train")
optimizer = model.make_optimizer(model.build_parameter_groups())
schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
batches = BatchLoader(split, BatchSampler(len(split), cli.datamodule.batch_size, seed=0), "ram")
weights = list(network.parameters())
bf16 = "bf16" in str(cli.trainer.precision)
times = []
for images, labels in batches:
    x, targets = model.augment(images, F.one_hot(labels, len(store.classes)).float())
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        loss = F.cross_entropy(network(x), targets, label_smoothing=model.label_smoothing)
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(weights, 1.0)
    optimizer.step()
    schedule.step()
    times.append(time.perf_counter())
begin, end = int(sys.argv[1]), int(sys.argv[2])
print((times[end] - times[begin]) / (end - begin))
"""

OUR_LOADER = """
import sys, time
from imageset.utils.memory import keep_large_blocks
from imageset.store.reader import ImageStore
from lightning_modules.datamodule import BatchLoader, BatchSampler
from lightning_modules.networks.preprocessing import Normalize

keep_large_blocks()
store = ImageStore.open(sys.argv[1])
split, normalize = store.split("train"), Normalize(store.mean, store.std)
batches = BatchLoader(split, BatchSampler(len(split), int(sys.argv[2]), seed=0), "ram")

def one_pass():
    start = time.perf_counter()
    for images, labels in batches:
        x = normalize(images)
    return len(split) / (time.perf_counter() - start)

one_pass()
print(max(one_pass() for _ in range(3)))
"""

IMAGE_FOLDER = """
import sys, time, torch
from torchvision import datasets, transforms
folder, size, batch_size, workers, limit = sys.argv[1], *map(int, sys.argv[2:])
resize = [transforms.Resize(size), transforms.CenterCrop(size)] if size > 32 else []
normalize = transforms.Normalize((0.49, 0.48, 0.45), (0.2, 0.2, 0.2))
steps = transforms.Compose([*resize, transforms.ToTensor(), normalize])
pictures = datasets.ImageFolder(folder, steps)
pictures = torch.utils.data.Subset(pictures, torch.randperm(len(pictures))[:limit].tolist())
options = {"shuffle": True, "num_workers": workers, "persistent_workers": True}
loader = torch.utils.data.DataLoader(pictures, batch_size, **options)
for again in range(2):  # the first pass starts the workers
    start = time.perf_counter()
    for x, labels in loader:
        pass
print(len(pictures) / (time.perf_counter() - start))
"""


def main() -> None:
    """Measure, print a table, write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(SECTIONS), help="some of: " + ", ".join(SECTIONS))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "train.json")
    parser.add_argument("--without-accuracy", action="store_true", help="leave out what is slowest")
    options = parser.parse_args()
    wanted = [name for name in options.only.split(",") if name not in SLOW or not options.without_accuracy]
    if unknown := set(wanted) - set(SECTIONS):
        raise SystemExit(f"error: --only {','.join(sorted(unknown))}: choose from {', '.join(SECTIONS)}")
    if not DATASETS.is_dir():
        raise SystemExit(f"error: {DATASETS} is missing; this benchmark measures on its pictures")
    kept = json.loads(options.out.read_text()) if options.out.exists() and len(wanted) < len(SECTIONS) else []
    sections = {
        "step": measure_step, "overhead": measure_overhead, "loader": measure_loader,
        "fashion": measure_fashion_mnist, "cifar": measure_cifar_10,
    }  # fmt: skip
    results: list[dict[str, Any]] = []
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        for name in wanted:
            for row in sections[name](Path(folder), options.repeats):
                results.append(row)
                print(
                    f"{row['name']:66} ours {row['ours']:>9} peer {row['peer']:>9} {row['unit']:12} "
                    f"ratio {row['ratio']:>7} goal {row['goal']}",
                    flush=True,
                )
                others = [one for one in kept if one["name"].partition(":")[0] not in wanted]
                options.out.write_text(json.dumps(others + results, indent=1) + "\n")


def measure_step(work: Path, repeats: int) -> list[dict[str, Any]]:
    """Pictures a second against stock Lightning, and the accuracy that both have after the same steps."""
    project = make_cifar_project(work)
    rows = []
    for name, network, steps, times in (("ConvNet", "ConvNet", 600, repeats), ("ResNet-18", "resnet18", 120, 1)):
        trainer = {"max_epochs": 1, "limit_train_batches": steps, "gradient_clip_val": 1.0}
        change = {"trainer": trainer | {"limit_val_batches": 1}}
        if network != "ConvNet":
            change["model"] = {"network": network}
        ours, peer = [], []
        for _ in range(times):
            our_accuracy, seconds = train_and_time(project, change, test=True)[:2]
            ours.append(64 / seconds)
            said = train_stock(project, network, 64, trainer, label_smoothing=0.1, optimizer="adamw", padding=3)
            peer.append(64 / read_step_s(project))
        what = f"{name}, CIFAR-10, batches of 64"
        rows += [
            make_row(f"step: {what}", statistics.median(ours), statistics.median(peer), 2.5, "pictures/s"),
            make_row(f"step: accuracy after {steps}, {what}", our_accuracy, said["accuracy"], 0.97, "accuracy"),
        ]
    return rows


def measure_overhead(work: Path, repeats: int) -> list[dict[str, Any]]:
    """Measure what a step takes beyond a loop of bare PyTorch; one millisecond is allowed."""
    project = make_cifar_project(work)
    tiny = {"class_path": "ConvNet", "init_args": {"filters": [4], "hidden": [], "grid": 1}}
    change = {
        "trainer": {"max_epochs": 2, "limit_train_batches": 640, "limit_val_batches": 1},
        "model": {"network": tiny},
    }
    ours, bare = [], []
    for _ in range(repeats):
        train_and_time(project, change)
        times = json.loads((project / "times.json").read_text())
        ours.append((times[640 + WARM_UP_STEPS] - times[WARM_UP_STEPS]) / 640)  # with the end of one epoch
        bare.append(float(run_python(BARE, project, str(WARM_UP_STEPS), "640")))
    loop = 1000 * statistics.median(bare)
    above = max(0.001, 1000 * statistics.median(ours) - loop)
    name = f"overhead: {above:.2f} ms a step above the {loop:.2f} of a bare loop (1 ms allowed)"
    return [make_row(name, 1 / above, 1.0, 1.0, "1/ms")]


def measure_loader(work: Path, repeats: int) -> list[dict[str, Any]]:
    """Compare normalized float32 batches with ImageFolder and DataLoader."""
    workers = len(os.sched_getaffinity(0))
    small, large = make_cifar_project(work), make_photo_project(work)
    rows = []
    for name, project, folder, size, batch_size, limit, goal in (
        ("CIFAR-10, batches of 256 at 32 px", small, small / "source" / "train", 32, 256, 20_000, 74.0),
        ("photographs, batches of 64 at 224 px", large, large / "source", 224, 64, 1_000, 21.0),
    ):
        ours, peer = [], []
        for _ in range(repeats):
            ours.append(float(run_python(OUR_LOADER, project, "data/normalized", str(batch_size))))
            peer.append(float(run_python(IMAGE_FOLDER, project, folder, size, batch_size, workers, limit)))
        row = make_row(f"loader: {name}", statistics.median(ours), statistics.median(peer), goal, "pictures/s")
        rows.append(row)
    return rows


def measure_fashion_mnist(work: Path, repeats: int) -> list[dict[str, Any]]:
    """Fashion-MNIST; nothing where the package with its files is not installed."""
    if not FASHION_MNIST.is_dir():
        return []
    return measure_time_to_accuracy("fashion: Fashion-MNIST", make_fashion_project(work), 0.93, epochs=5)


def measure_cifar_10(work: Path, repeats: int) -> list[dict[str, Any]]:
    """CIFAR-10, with as many epochs as the preset has."""
    return measure_time_to_accuracy("cifar: CIFAR-10", make_cifar_project(work), 0.90)


def measure_time_to_accuracy(
    name: str, project: Path, target: float, epochs: int | None = None
) -> list[dict[str, Any]]:
    """Compare the preset `fast` with Adam in a plain script, both to one test accuracy; once each."""
    import yaml

    from flows.project.paths import TEMPLATES

    fast = yaml.safe_load((TEMPLATES / "presets" / "fast.yaml").read_text())
    fast["trainer"]["max_epochs"] = epochs or fast["trainer"]["max_epochs"]
    our_accuracy, _, seconds = train_and_time(project, fast, test=True)
    ours = f"fast, {fast['trainer']['max_epochs']} epochs: {our_accuracy:.4f} after {seconds:.0f} s"
    print(f"{name}: {ours}", file=sys.stderr, flush=True)
    said = train_stock(
        project, "small_cnn", 128, {"max_epochs": 1000}, target=target, limit_s=GIVE_UP_FACTOR * seconds
    )
    peer_s, reached = said["reached_s"] or said["seconds"], said["reached_s"] is not None
    end = "" if reached else f", given up at {said['accuracy']:.4f}"
    title = f"{name} to {target}: {ours}; Adam {peer_s:.0f} s{end}"
    met = float(our_accuracy >= target)  # 0: not reached
    return [make_row(title, met / seconds, 1 / peer_s, 2.0, "1/s")]


def train_stock(
    project: Path,
    network: str,
    batch_size: int,
    trainer: Mapping[str, Any],
    label_smoothing: float = 0.0,
    optimizer: str = "adam",
    padding: int = 4,
    target: float | None = None,
    limit_s: float | None = None,
) -> dict[str, Any]:
    """Train with the plain script; it mirrors pictures where it is on its own recipe."""
    manifest = json.loads((project / "data" / "normalized" / "dataset.json").read_text())
    what = {
        "network": network, "batch_size": batch_size, "trainer": trainer, "label_smoothing": label_smoothing,
        "optimizer": optimizer, "padding": padding, "target": target, "limit_s": limit_s,
        "flip": target is not None,
        "mean": manifest["mean"], "std": manifest["std"], "num_classes": len(manifest["classes"]), "side": 32,
    }  # fmt: skip
    said: dict[str, Any] = json.loads(run_python(STOCK, project, json.dumps(what)).splitlines()[-1])
    return said


def make_cifar_project(work: Path) -> Path:
    """Make a project with CIFAR-10 as the source splits it."""
    return make_project(work / "cifar", lambda to: unpack_dataset("cifar10.tar.gz", to), split=FEW_FOR_VALIDATION)


def make_fashion_project(work: Path) -> Path:
    """Make a project with Fashion-MNIST as the source splits it."""
    return make_project(work / "fashion", lambda to: shutil.copytree(FASHION_MNIST, to), split=FEW_FOR_VALIDATION)


def make_photo_project(work: Path) -> Path:
    """Write the photographs 12 times, each time under new bytes, in two classes, at 224 px."""

    def make(to: Path) -> None:
        unpack_dataset("photos.tar.gz", work / "photos-once")
        for number, file in enumerate(sorted((work / "photos-once").rglob("*.JPEG"))):
            for turn in range(12):
                copy = to / "ab"[number % 2] / f"{turn:02d}_{number:04d}.jpg"
                copy.parent.mkdir(parents=True, exist_ok=True)
                copy.write_bytes(file.read_bytes() + b"%02d" % turn)

    return make_project(work / "photos", make, size_px=224, near_duplicate_bits=None)


if __name__ == "__main__":
    main()
