"""The time that a training takes, from the time of a forward pass of each network that it may take."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch

from imageset.store.reader import ImageStore
from lightning_modules.classifier import Classifier
from lightning_modules.features.transfer_learning import PASSES_PER_STEP, choose_finetune_epochs, count_macs
from lightning_modules.networks.factory import evaluation_mode, make_network
from lightning_modules.networks.registry import AUTO, resolve_stem
from lightning_modules.networks.weights.installed import INSTALLED_NETWORK
from lightning_modules.training.auto_network import (
    NUM_TRAIN,
    NUM_VAL,
    SCRATCH_NETWORK,
    SCRATCH_SIDE_PX,
    make_pretrained_spec,
)
from lightning_modules.training.cli import StageCLI, complete_network_spec

PASSES_PER_IMAGE = 2  # of the features of a linear probe: the image and its mirror image
MEASURED_IMAGES = 16  # in the batch whose forward pass is measured


class ForwardCost(NamedTuple):
    """The forward pass of one picture."""

    seconds: float
    macs: int


def estimate_seconds(cli: StageCLI, config: Mapping[str, Any], store: ImageStore) -> list[float]:
    """Estimate the seconds of a training with each network that it may take; empty if one cannot be measured.

    The forward pass of a batch is measured. With `network: auto` the trials of both networks come first.
    """
    device, counts = cli.trainer.strategy.root_device, store.counts
    candidates = list_candidates(cli.model, store, config, device)
    try:
        with torch.random.fork_rng():  # leaves no trace in the random weights of the training
            costs = [
                measure_cost(network, store.spec.shape, len(store.classes), device) for network, _ in candidates
            ]
    except Exception:  # of a network of the user's; the stage itself reports it, when it builds the network
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


def list_candidates(
    model: Classifier, store: ImageStore, config: Mapping[str, Any], device: torch.device
) -> list[tuple[dict[str, Any], bool]]:
    """Return the networks of which the training takes one, each with whether it starts from pretrained weights."""
    if model.network_spec["class_path"] != AUTO:
        is_installed = model.network_spec["init_args"].get("name") == INSTALLED_NETWORK
        is_pretrained = is_installed if model.weights == AUTO else model.weights is not None
        return [(resolve_stem(model.network_spec, store.spec.size), is_pretrained)]
    scratch = (complete_network_spec(SCRATCH_NETWORK, "train"), False)
    if model.weights is None:
        return [scratch]
    pretrained = (make_pretrained_spec(model, store, config, device), True)
    return [pretrained, scratch] if model.weights == AUTO and store.counts["val"] else [pretrained]


def measure_cost(
    network: Mapping[str, Any], shape: tuple[int, int, int], num_classes: int, device: torch.device
) -> ForwardCost:
    """Measure the forward pass of one picture, (H, W, C), of a network with random weights."""
    module = make_network(network, shape[2], num_classes)
    macs = count_macs(module, shape)
    return ForwardCost(measure_seconds_per_picture(module, shape, device), macs)


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
