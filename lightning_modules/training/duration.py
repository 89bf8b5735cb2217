"""The place where a training runs, and about how long it takes.

The stage writes how long it took to `.cache/train/duration.json`, and the next one like it expects the same for
each picture. The first one measures a forward pass of its networks. Nothing here has an effect on the result.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch

from imageset.store.reader import ImageStore
from imageset.utils.atomic_write import write_bytes
from imageset.utils.text import format_count, format_duration
from lightning_modules.classifier import Classifier
from lightning_modules.features.transfer_learning import PASSES_PER_STEP, choose_finetune_epochs, count_macs
from lightning_modules.networks.factory import evaluation_mode, make_network
from lightning_modules.networks.registry import AUTO, resolve_stem
from lightning_modules.networks.weights.installed import INSTALLED_NETWORK
from lightning_modules.tracking.local_store.location import find_cache
from lightning_modules.training.auto_network import (
    NUM_TRAIN,
    NUM_VAL,
    SCRATCH_NETWORK,
    SCRATCH_SIDE_PX,
    make_pretrained_spec,
)
from lightning_modules.training.cli import StageCLI, complete_network_spec

DURATION_FILE = Path("train", "duration.json")  # in the folder of the caches
PASSES_PER_IMAGE = 2  # of the features of a linear probe: the image and its mirror image
MEASURED_IMAGES = 16  # in the batch whose forward pass is measured


@dataclass(frozen=True)
class PastTraining:
    """How long a training took.

    Attributes:
        seconds: from its start to its end.
        num_pictures: in the training split.
        device: as `describe_device` names it.
        setting: what the time for each picture depends on, see `describe_setting`.
    """

    seconds: float
    num_pictures: int
    device: str
    setting: str

    def save(self, caches: Path) -> None:
        """Write it into the folder of the caches."""
        path = caches / DURATION_FILE
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, (json.dumps(asdict(self)) + "\n").encode())

    @classmethod
    def load(cls, caches: Path) -> PastTraining | None:
        """Return the last training; None if there is none, or if its file is of no use."""
        try:
            values = json.loads((caches / DURATION_FILE).read_text(encoding="utf-8"))
            return cls(float(values["seconds"]), int(values["num_pictures"]), values["device"], values["setting"])
        except (OSError, ValueError, KeyError, TypeError):
            return None


def describe_device(trainer: pl.Trainer) -> str:
    """Describe where a trainer trains: "CPU with 2 cores", "GPU NVIDIA H200", "4 GPUs NVIDIA H200"."""
    device, num_processes = trainer.strategy.root_device, trainer.world_size
    if device.type == "cpu":
        text = f"CPU with {format_count(torch.get_num_threads(), 'core')}"
        return text if num_processes == 1 else f"{num_processes} processes, each on a {text}"
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type.upper()
    return f"GPU {name}" if num_processes == 1 else f"{num_processes} GPUs {name}"


def describe_setting(config: Mapping[str, Any], store: ImageStore) -> str:
    """Describe what the time for each picture depends on besides the device.

    Args:
        config: the section `train` of params.yaml, before the values that `auto` stands for are in it.
        store: the dataset.
    """
    model, trainer = config["model"], config["trainer"]
    values = [model["network"], model["weights"], trainer["max_epochs"], config["budget"], store.spec.shape]
    return json.dumps(values, sort_keys=True, default=str)


def measure_seconds_per_picture(
    network: torch.nn.Module, shape: tuple[int, int, int], device: torch.device
) -> float:
    """Measure the forward pass of a batch of pictures, (H, W, C) each, after one that warms up."""
    height, width, channels = shape
    network.to(device)
    batch = torch.zeros(MEASURED_IMAGES, channels, height, width, device=device)
    with torch.no_grad(), evaluation_mode(network):
        network.forward(batch)
        start = time.perf_counter()
        network.forward(batch).sum().item()  # waits for a GPU
    return (time.perf_counter() - start) / MEASURED_IMAGES


def format_range(seconds: list[float]) -> str:
    """Format one duration, or the shortest and the longest of several: "about 3 min", "about 40 s to 3 min"."""
    low, high = (format_duration(value) for value in (min(seconds), max(seconds)))
    return low if low == high else f"{low} to {high.removeprefix('about ')}"


def scale_past(past: PastTraining | None, device: str, setting: str, num_pictures: int) -> float | None:
    """Return the seconds that a training takes if its pictures take as long as those of the past one.

    Returns:
        None if the past training ran on another device or with another setting, or is not known.
    """
    if past is None or (past.device, past.setting) != (device, setting) or not past.num_pictures:
        return None
    seconds = past.seconds * num_pictures / past.num_pictures
    return seconds if math.isfinite(seconds) else None


def start_clock(cli: StageCLI, config: Mapping[str, Any], project: Path) -> Clock:
    """Print where the training runs and about how long it takes, on rank 0; return a clock that runs from now.

    Args:
        cli: the trainer, the model and the data of the stage.
        config: the section `train` of params.yaml, as it stands there.
        project: folder of the project.
    """
    store, started_at = cli.datamodule.store, time.monotonic()
    device, setting = describe_device(cli.trainer), describe_setting(config, store)
    clock = Clock(find_cache(project), started_at, store.counts["train"], device, setting)
    if cli.trainer.is_global_zero:
        past = scale_past(PastTraining.load(clock.caches), device, setting, clock.num_pictures)
        seconds = [past] if past is not None else estimate_seconds(cli, config, store)
        duration = format_range(seconds) if seconds else "how long it takes is known after the first batches"
        print(f"train: {device}, {format_count(clock.num_pictures, 'picture')}: {duration}", flush=True)
    return clock


@dataclass(frozen=True)
class Clock:
    """A training that runs: when it started, and what its duration depends on."""

    caches: Path
    started_at: float
    num_pictures: int
    device: str
    setting: str

    def save(self) -> None:
        """Keep how long the training took."""
        seconds = time.monotonic() - self.started_at
        PastTraining(seconds, self.num_pictures, self.device, self.setting).save(self.caches)


def estimate_seconds(cli: StageCLI, config: Mapping[str, Any], store: ImageStore) -> list[float]:
    """Estimate the seconds of a training with each network that it may take; empty if one cannot be measured.

    The forward pass of a batch is measured. With `network: auto` the trials of both networks come first.
    """
    device, counts = cli.trainer.strategy.root_device, store.counts
    candidates = list_candidates(cli.model, store)
    try:
        with torch.random.fork_rng():  # leaves no trace in the random weights of the training
            costs = [
                measure_cost(network, store.spec.shape, len(store.classes), device) for network, _ in candidates
            ]
    except (TypeError, ValueError, RuntimeError):  # the stage itself reports it, when it builds the network
        return []
    estimates = []
    for (_, is_pretrained), cost in zip(candidates, costs, strict=True):
        epochs = cli.trainer.max_epochs or 0
        if is_pretrained and device.type == "cpu" and cli.model.freeze_mode == "none":
            epochs = choose_finetune_epochs(epochs, cost.macs, counts["train"], config["budget"])
        passes = max(0, epochs) * (PASSES_PER_STEP * counts["train"] + counts["val"])
        passes += PASSES_PER_IMAGE * (counts["train"] + counts["val"]) if is_pretrained else 0
        estimates.append(passes * cost.seconds)
    if len(candidates) == 1:
        return estimates
    num_tried = min(counts["train"], NUM_TRAIN) + min(counts["val"], NUM_VAL)
    trial = PASSES_PER_STEP * num_tried * max(1, (cli.trainer.max_epochs or 1) // 2) * costs[1].seconds
    scale = min(1.0, SCRATCH_SIDE_PX / store.spec.size) ** 2
    return [
        estimates[0] + trial * scale,
        estimates[1] + trial * scale + PASSES_PER_IMAGE * num_tried * costs[0].seconds,
    ]


class ForwardCost(NamedTuple):
    """The forward pass of one picture."""

    seconds: float
    macs: int


def measure_cost(
    network: Mapping[str, Any], shape: tuple[int, int, int], num_classes: int, device: torch.device
) -> ForwardCost:
    """Measure the forward pass of one picture, (H, W, C), of a network with random weights."""
    module = make_network(network, shape[2], num_classes)
    macs = count_macs(module, shape)
    return ForwardCost(measure_seconds_per_picture(module, shape, device), macs)


def list_candidates(model: Classifier, store: ImageStore) -> list[tuple[dict[str, Any], bool]]:
    """Return the networks of which the training takes one, each with whether it starts from pretrained weights."""
    if model.network_spec["class_path"] != AUTO:
        is_installed = model.network_spec["init_args"].get("name") == INSTALLED_NETWORK
        is_pretrained = is_installed if model.weights == AUTO else model.weights is not None
        return [(resolve_stem(model.network_spec, store.spec.size), is_pretrained)]
    scratch = (complete_network_spec(SCRATCH_NETWORK, "train"), False)
    if model.weights is None:
        return [scratch]
    pretrained = (make_pretrained_spec(store.spec.size), True)
    return [pretrained, scratch] if model.weights == AUTO and store.counts["val"] else [pretrained]
