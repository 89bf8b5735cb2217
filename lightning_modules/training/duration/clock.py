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
from typing import Any

import pytorch_lightning as pl
import torch

from imageset.store.reader import ImageStore
from imageset.utils.integrity.checked_file import is_json_object, read_checked, write_checked
from imageset.utils.text import format_count, format_duration
from lightning_modules.tracking.local_store.location import find_cache
from lightning_modules.training.auto_network import SCRATCH_NETWORK
from lightning_modules.training.cli import StageCLI
from lightning_modules.training.duration.estimate import estimate_seconds

DURATION_FILE = Path("train", "duration.json")  # in the folder of the caches
CONSEQUENCE = "how long a training takes is estimated again"  # of a damaged file


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
        write_checked(caches / DURATION_FILE, (json.dumps(asdict(self)) + "\n").encode())

    @classmethod
    def load(cls, caches: Path) -> PastTraining | None:
        """Return the last training; None if there is none, or if its file is of no use."""
        try:
            data = read_checked(caches / DURATION_FILE, CONSEQUENCE, print, is_json_object)
            values = json.loads(data or b"")
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


def format_estimates(seconds: list[float]) -> str:
    """Format the result of `estimate_seconds`: "about 3 min", "about 3 min, about 10 min if ConvNet is better"."""
    if not seconds:
        return "how long it takes is known after the first batches"
    texts = [format_duration(value) for value in seconds]
    return texts[0] if len(set(texts)) == 1 else f"{texts[0]}, {texts[1]} if {SCRATCH_NETWORK} is better"


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
        pictures = format_count(clock.num_pictures, "picture")
        print(f"train: {device}, {pictures}: {format_estimates(seconds)}", flush=True)
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
