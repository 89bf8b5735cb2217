"""`network: auto`: EfficientNet-Lite0 with ImageNet weights, or ConvNet with random ones.

Both are tried on a sample of the training images, and the one that is better on a sample of the validation images
trains on the whole dataset. If the dataset is larger than the sample, both are tried on a quarter of it, too, and
their errors are extrapolated: random weights gain more from more images. The test split plays no part. Work is
limited in multiply-adds, not in seconds, so the choice does not depend on the speed of the machine.

Source of the extrapolation: J. Hestness et al., "Deep Learning Scaling is Predictable, Empirically", 2017,
arXiv:1712.00409 (the error falls as a power of the number of images).
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
import torch.nn.functional as F

from imageset.stage_code import digest_stage_code
from imageset.store.reader import ImageStore, StoreSplit
from imageset.utils.file_lock import file_lock
from imageset.utils.integrity.checked_file import read_checked, write_checked
from lightning_modules.classifier import Classifier
from lightning_modules.datamodule import BatchLoader, BatchSampler
from lightning_modules.features.linear_probe import ProbeScore, choose_strength, compute_score
from lightning_modules.features.transfer_learning import (
    PASSES_PER_STEP,
    choose_finetune_epochs,
    count_macs,
    make_feature_cache,
    read_features,
)
from lightning_modules.networks.factory import make_network
from lightning_modules.networks.pretrained import read_weights
from lightning_modules.networks.registry import AUTO, INSTALLED_ALIAS, resolve_stem
from lightning_modules.project_code.modules import copy_modules, find_project_modules, hash_files
from lightning_modules.tracking.local_store.location import find_cache
from lightning_modules.tracking.model_download import load_bundle
from lightning_modules.training.callbacks import TrainingProgress
from lightning_modules.training.cli import complete_network_spec

SCRATCH_NETWORK = "ConvNet"
NUM_TRAIN, NUM_VAL = 1500, 500  # images of the samples
RESIZE_PX = {32: 64, 224: 224}  # largest side of the images -> side to which EfficientNet-Lite0 enlarges them
MIN_FINETUNE_PX = 128  # side to which smaller images, of more than 32 px, are enlarged for fine-tuning on a CPU
SCRATCH_SIDE_PX = 64  # larger images are made smaller for the trial of the network with random weights
SHRUNK_TMACS = 0.15  # multiply-adds of that trial then, in 10^12; otherwise it has half of the epochs


@dataclass(frozen=True)
class NetworkChoice:
    """The network that `auto` stands for on a dataset.

    Attributes:
        network: {"class_path", "init_args"}.
        weights: the value of `model.weights`.
        summary: a line with the reason.
    """

    network: dict[str, Any]
    weights: str | None
    summary: str


def choose_network(
    model: Classifier,
    store: ImageStore,
    config: Mapping[str, Any],
    project: Path,
    device: torch.device,
) -> NetworkChoice:
    """Choose the network for a dataset. The choice is kept, so each process of a training makes the same one.

    Args:
        model: the model with `network: auto`.
        store: the dataset.
        config: the section `train` of params.yaml.
        project: folder of the project.
        device: where features are computed.
    """
    scratch = complete_network_spec(SCRATCH_NETWORK, "train")
    if model.weights is None:
        return NetworkChoice(scratch, None, f"network: {SCRATCH_NETWORK}, since weights is null")
    pretrained = make_pretrained_spec(model, store, config, device)
    if model.weights != AUTO or not store.counts["val"]:
        reason = "there are no validation pictures" if model.weights == AUTO else f"weights is {model.weights}"
        return NetworkChoice(pretrained, "DEFAULT", f"network: {INSTALLED_ALIAS}, since {reason}")
    folder = find_cache(project) / "train"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"network-{_compute_key(store, config, project)}.json"
    with file_lock(folder / "network.lock"):
        if (data := read_checked(path, "the networks are compared again", _print_line)) is not None:
            return NetworkChoice(**json.loads(data))
        choice = _compare_networks(model, store, config, project, device, pretrained, scratch)
        write_checked(path, json.dumps(asdict(choice)).encode())
    return choice


def _print_line(line: str) -> None:
    print(f"train: {line}", flush=True)


def make_pretrained_spec(
    model: Classifier, store: ImageStore, config: Mapping[str, Any], device: torch.device
) -> dict[str, Any]:
    """Return the specification of EfficientNet-Lite0 for a dataset.

    Frozen features are best at the size that the filters were trained on, so smaller images are enlarged to it. On
    a CPU they are not where fine-tuning fits `train.budget` only at a smaller size: it gains more than the size.

    Args:
        model: the model.
        store: the dataset.
        config: the section `train` of params.yaml.
        device: where the network is trained.
    """

    def fits_budget(side_px: int) -> bool:
        network = make_network(_make_lite0_spec(store.spec.size, side_px), store.spec.channels, len(store.classes))
        macs = count_macs(network, store.spec.shape)
        max_epochs = config["trainer"]["max_epochs"] or -1
        return choose_finetune_epochs(max_epochs, macs, store.counts["train"], config["budget"]) != 0

    has_limit = device.type == "cpu" and model.freeze_mode == "none"
    return _make_lite0_spec(store.spec.size, choose_side(store.spec.size, fits_budget if has_limit else None))


def choose_side(side_px: int, fits_budget: Callable[[int], bool] | None) -> int:
    """Return the side at which EfficientNet-Lite0 sees images of `side_px`.

    Args:
        side_px: side of the images.
        fits_budget: whether fine-tuning at a side fits the budget; None if there is no limit.
    """
    enlarged_px = next((px for largest, px in RESIZE_PX.items() if side_px <= largest), side_px)
    finetune_px = min(enlarged_px, max(side_px, MIN_FINETUNE_PX))
    if fits_budget is None or finetune_px == enlarged_px or fits_budget(enlarged_px):
        return enlarged_px
    return finetune_px if fits_budget(finetune_px) else enlarged_px


def _make_lite0_spec(side_px: int, shown_px: int) -> dict[str, Any]:
    """Return the specification of EfficientNet-Lite0 that sees images of `side_px` with a side of `shown_px`."""
    network = complete_network_spec(INSTALLED_ALIAS, "train")
    network["init_args"]["resize_px"] = shown_px if shown_px > side_px else None
    return resolve_stem(network, side_px)


def _compute_key(store: ImageStore, config: Mapping[str, Any], project: Path) -> str:
    code = digest_stage_code("train") + hash_files(copy_modules(find_project_modules(config, project)))
    text = json.dumps([store.fingerprint, code, config], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _compare_networks(
    model: Classifier,
    store: ImageStore,
    config: Mapping[str, Any],
    project: Path,
    device: torch.device,
    pretrained: dict[str, Any],
    scratch: dict[str, Any],
) -> NetworkChoice:
    num_all = store.counts["train"]
    val = take_sample(store.split("val"), NUM_VAL)
    sizes = [NUM_TRAIN] if num_all <= NUM_TRAIN else [NUM_TRAIN // 4, NUM_TRAIN]
    accuracies: dict[str, list[float]] = {INSTALLED_ALIAS: [], SCRATCH_NETWORK: []}
    with torch.random.fork_rng():  # the trials leave no trace in the random weights of the training
        for size in sizes:
            train = take_sample(store.split("train"), size)
            score = _try_probe(model, store, train, val, project, device, pretrained)
            accuracies[INSTALLED_ALIAS].append(score.accuracy)
            score = _try_scratch(model, store, train, val, config, scratch)
            accuracies[SCRATCH_NETWORK].append(score.accuracy)
    expected = {name: extrapolate(sizes, values, num_all) for name, values in accuracies.items()}
    winner = max(expected, key=lambda name: expected[name])  # of equals the first
    loser = next(name for name in expected if name != winner)
    kind = "validation accuracy" if len(sizes) == 1 else f"expected validation accuracy with {num_all:,} pictures"
    summary = (
        f"network: {winner}, {kind} {expected[winner]:.4f} ({loser}: {expected[loser]:.4f}); "
        f"tried on {min(sizes[-1], num_all):,} pictures"
    )
    if winner == INSTALLED_ALIAS:
        return NetworkChoice(pretrained, "DEFAULT", summary)
    return NetworkChoice(scratch, None, summary)


def extrapolate(sizes: Sequence[int], accuracies: Sequence[float], num_images: int) -> float:
    """Return the accuracy that is expected of a training on `num_images`.

    The error is a power of the number of images through the last two trials; it never rises with more images.

    Args:
        sizes: number of training images of each trial, increasing.
        accuracies: of the trials; a single one is returned as it is.
        num_images: number of images of the whole training split.
    """
    if len(sizes) < 2 or accuracies[-1] >= 1:
        return accuracies[-1]
    before, last = 1 - accuracies[-2], 1 - accuracies[-1]
    exponent = math.log(min(1.0, last / before)) / math.log(sizes[-1] / sizes[-2]) if before > 0 else 0.0
    return 1 - last * (num_images / sizes[-1]) ** exponent


def take_sample(split: StoreSplit, num_images: int) -> StoreSplit:
    """Return at most `num_images` images of a split, in its order: the first by image_id, which is a hash."""
    chosen = np.sort(np.argsort(np.array(split.image_ids))[:num_images])
    return StoreSplit(split.store, split.rows.take(chosen))


def _try_probe(
    model: Classifier,
    store: ImageStore,
    train: StoreSplit,
    val: StoreSplit,
    project: Path,
    device: torch.device,
    network: dict[str, Any],
) -> ProbeScore:
    """Return the score of a linear probe on pretrained features."""
    trial = copy.deepcopy(model)
    trial.network_spec, trial.ema, trial.is_compiled = network, None, False
    weights = read_weights("DEFAULT", network, load_bundle)
    trial.build(store.mean, store.std, store.classes, train.labels, weights)
    cache = make_feature_cache(find_cache(project), trial, store, weights.digest, device)
    features = read_features(trial, store, [train, val], cache, device)
    _, _, score = choose_strength(features[0].mean, train.labels, features[1].mean, val.labels, len(store.classes))
    return score


def _try_scratch(
    model: Classifier,
    store: ImageStore,
    train: StoreSplit,
    val: StoreSplit,
    config: Mapping[str, Any],
    network: dict[str, Any],
) -> ProbeScore:
    """Return the score of a network that is trained from random weights, with limited work."""
    trial = copy.deepcopy(model)
    trial.network_spec, trial.weights, trial.is_compiled = network, None, False
    torch.manual_seed(trial.seed)
    trial.build(store.mean, store.std, store.classes, train.labels)
    train, val = (ShrunkSplit(split, SCRATCH_SIDE_PX) for split in (train, val))
    macs = count_macs(trial.network, (train.side_px, train.side_px, store.spec.channels))
    steps_work = PASSES_PER_STEP * macs * len(train)
    epochs = math.ceil((config["trainer"]["max_epochs"] or 1) / 2)
    if store.spec.size > SCRATCH_SIDE_PX:
        epochs = max(1, min(epochs, int(SHRUNK_TMACS * 1e12 / steps_work)))
    sampler = BatchSampler(len(train), config["data"]["batch_size"], seed=trial.seed)
    trainer = pl.Trainer(
        max_epochs=epochs, accelerator="cpu", devices=1, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
        gradient_clip_val=config["trainer"]["gradient_clip_val"],
        callbacks=[TrainingProgress("train", f"trial of {SCRATCH_NETWORK}")],
    )  # fmt: skip
    trainer.fit(trial, BatchLoader(train, sampler))
    trial.eval()
    starts = range(0, len(val), config["data"]["batch_size"])
    with torch.no_grad():
        logits = [
            trial(torch.from_numpy(val.read_batch(np.arange(i, min(i + sampler.batch_size, len(val))))))
            for i in starts
        ]
    return compute_score(torch.cat(logits).float().numpy(), val.labels)


class ShrunkSplit(StoreSplit):
    """A split whose images are made smaller when they are read.

    Args:
        split: the images.
        max_side_px: images with a larger side are shrunk to this side.
    """

    def __init__(self, split: StoreSplit, max_side_px: int) -> None:
        super().__init__(split.store, split.rows)
        self.side_px = min(max_side_px, split.store.spec.size)

    def read_batch(self, positions: np.ndarray) -> np.ndarray:
        """Return images as uint8 (B, side_px, side_px, C)."""
        images = super().read_batch(positions)
        if self.side_px == self.store.spec.size:
            return images
        x = torch.from_numpy(images).permute(0, 3, 1, 2).float()
        x = F.interpolate(x, size=(self.side_px, self.side_px), mode="bilinear", antialias=True)
        return x.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
