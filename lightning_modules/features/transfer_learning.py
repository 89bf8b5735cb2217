"""Transfer learning: a linear probe on pretrained features, then fine-tuning from its head where its work fits.

The probe is deterministic and its features are cached, so each process of a training computes the same one, and a
resumed training computes it again.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from imageset.exceptions import UserError
from imageset.store.reader import ImageStore, StoreSplit
from imageset.utils.file_lock import file_lock
from imageset.utils.progress import Progress
from lightning_modules.classifier import Classifier
from lightning_modules.features.frozen_features import (
    FeatureCache,
    FeatureNetwork,
    FrozenFeatures,
    compute_features,
)
from lightning_modules.features.linear_probe import (
    NUM_FOLDS,
    LinearHead,
    ProbeScore,
    choose_strength,
    compute_calibrated_losses,
    fit_head,
    is_correct,
    predict_out_of_fold,
)
from lightning_modules.networks.factory import evaluation_mode
from lightning_modules.networks.pretrained import find_head

PASSES_PER_STEP = 3  # work of a training step in forward passes
# Of fine-tuning within a budget: fewer do not reach low learning rates, more take minutes for little.
MIN_FINETUNE_EPOCHS, MAX_FINETUNE_EPOCHS = 3, 5
MAX_MIRROR_DROP = 0.02  # accuracy that a probe may lose on mirror images


@dataclass(frozen=True)
class Probe:
    """A linear probe of a network on a dataset.

    Attributes:
        head: fitted to the training split.
        final_head: fitted to the training and the validation split, with the same strength.
        score: of `head` on the validation split.
        mirror: whether the features are means over an image and its mirror image.
        mirror_is_same: whether `head` recognizes mirror images as well.
        labels: of the images of both splits: int (n,), or 0 and 1 (n, K).
        out_of_fold_logits: float32 (n, K) for these images.
        val_logits: float32 (n, K) of `head` for the validation split.
    """

    head: LinearHead
    final_head: LinearHead
    score: ProbeScore
    mirror: bool
    mirror_is_same: bool
    labels: np.ndarray
    out_of_fold_logits: np.ndarray
    val_logits: np.ndarray


def has_linear_head(network: nn.Module, shape: tuple[int, int, int], num_classes: int) -> bool:
    """Return whether the logits are a linear function of the input of the last layer.

    Args:
        network: the network.
        shape: (H, W, C) of its images.
        num_classes: number of logits.
    """
    try:
        head = network.get_submodule(find_head(network, num_classes))
    except UserError:
        return False
    outputs: list[Tensor] = []
    hook = head.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    height, width, channels = shape
    try:
        with torch.no_grad(), evaluation_mode(network):
            logits = network.forward(torch.zeros(1, channels, height, width))
    finally:
        hook.remove()
    return isinstance(head, nn.Linear) and head.bias is not None and torch.equal(outputs[-1], logits)


def set_head(network: nn.Module, head: LinearHead) -> None:
    """Set the weights of a network's last layer."""
    layer = network.get_submodule(find_head(network, len(head.bias)))
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(head.weight))  # type: ignore[operator]
        layer.bias.copy_(torch.from_numpy(head.bias))  # type: ignore[operator]


def make_feature_cache(
    cache: Path, model: Classifier, store: ImageStore, weights_digest: str, device: torch.device
) -> FeatureCache:
    """Return the cache of the features of a model's network, in the project's `.cache`."""
    key = {
        "weights": weights_digest,
        "network": {name: value for name, value in model.network_spec["init_args"].items() if name != "mirror"},
        "class_path": model.network_spec["class_path"],
        "mean": list(model.mean),
        "std": list(model.std),
        "decode": store.spec.to_dict(),
        "device": device.type,
    }
    return FeatureCache(cache / "features", key)


def fit_probe(model: Classifier, store: ImageStore, cache: FeatureCache, device: torch.device, seed: int) -> Probe:
    """Fit a linear probe of the model's network.

    Args:
        model: the network with its pretrained weights.
        store: the dataset.
        cache: features that were computed before.
        device: where the features are computed.
        seed: of the folds.
    """
    splits = [store.split("train"), store.split("val")]
    train, val = features = read_features(model, store, splits, cache, device)
    labels, val_labels = splits[0].labels, splits[1].labels
    num_classes = len(store.classes)
    with Progress("train", unit="fits") as progress:
        progress.begin(NUM_FOLDS + 3, step="linear probe")  # of the strength, the mirror image, the final head
        can_mirror = hasattr(model.network, "mirror")
        strength, head, score = choose_strength(
            train.mean if can_mirror else train.plain,
            labels,
            val.mean if can_mirror else val.plain,
            val_labels,
            num_classes,
        )
        plain_head = fit_head(train.plain, labels, num_classes, strength) if can_mirror else head
        progress.advance()
        mirror = can_mirror and len(val) > 0 and mirror_helps(head, plain_head, val, val_labels)
        if not mirror:
            strength, head, score = choose_strength(train.plain, labels, val.plain, val_labels, num_classes)
        progress.advance()
        everything = FrozenFeatures.concat([part for part in features if len(part)])
        vectors = everything.mean if mirror else everything.plain
        all_labels = np.concatenate([labels, val_labels])
        groups = np.concatenate([read_groups(split) for split in splits])
        final_head = fit_head(vectors, all_labels, num_classes, strength)
        progress.advance()
        return Probe(
            head=head,
            final_head=final_head,
            score=score,
            mirror=mirror,
            mirror_is_same=recognizes_mirror_images(plain_head, val, val_labels),
            labels=all_labels,
            val_logits=head.logits(val.mean if mirror else val.plain),
            out_of_fold_logits=predict_out_of_fold(
                vectors, all_labels, groups, num_classes, strength, seed, progress
            ),
        )


def mirror_helps(head: LinearHead, plain_head: LinearHead, features: FrozenFeatures, labels: np.ndarray) -> bool:
    """Return whether the mean over an image and its mirror image has no higher calibrated loss than the image.

    Args:
        head: fitted to such means.
        plain_head: fitted to images alone.
        features: of the validation images.
        labels: of the validation images.
    """
    losses = [
        compute_calibrated_losses(logits, labels).mean()
        for logits in (head.logits(features.mean), plain_head.logits(features.plain))
    ]
    return bool(losses[0] <= losses[1])


def recognizes_mirror_images(head: LinearHead, features: FrozenFeatures, labels: np.ndarray) -> bool:
    """Return whether a head that was fitted to images recognizes their mirror images about as well.

    It may lose `MAX_MIRROR_DROP` of its accuracy and one standard deviation of the difference (McNemar's test).

    Args:
        head: fitted to other images, without mirror images.
        features: of the images.
        labels: of the images.
    """
    if not len(features):
        return False
    plain, mirrored = (is_correct(head.logits(part), labels) for part in (features.plain, features.mirrored))
    num_lost, num_gained = int((plain & ~mirrored).sum()), int((~plain & mirrored).sum())
    allowed = MAX_MIRROR_DROP * len(features) + math.sqrt(num_lost + num_gained)
    return num_lost - num_gained <= allowed


def read_features(
    model: Classifier,
    store: ImageStore,
    splits: list[StoreSplit],
    cache: FeatureCache,
    device: torch.device,
) -> list[FrozenFeatures]:
    """Return the features of the model's network for some splits; one process at a time computes missing ones."""
    network = FeatureNetwork(model.normalize, model.network, len(store.classes))
    cache.folder.mkdir(parents=True, exist_ok=True)
    with file_lock(cache.folder / "lock"), Progress("train") as progress:
        return compute_features(network, splits, cache, device, progress)


def read_groups(split: StoreSplit) -> np.ndarray:
    """Return the group of each image as text; an image without a group is a group of its own."""
    groups = split.rows["group"].to_pylist()
    return np.array([group or f"\0{image_id}" for group, image_id in zip(groups, split.image_ids, strict=True)])


def count_macs(network: nn.Module, shape: tuple[int, int, int]) -> int:
    """Return the multiply-adds of one image, (H, W, C), through a network."""
    height, width, channels = shape
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), evaluation_mode(network), counter:
        network.forward(torch.zeros(1, channels, height, width))
    return counter.get_total_flops() // 2


def choose_finetune_epochs(max_epochs: int, macs: int, num_images: int, budget_tmacs: float | None) -> int:
    """Return how many epochs of fine-tuning the budget allows: up to MAX_FINETUNE_EPOCHS, or 0 if too few.

    Args:
        max_epochs: number of epochs without a budget; -1: any number.
        macs: multiply-adds of one image through the network.
        num_images: number of training images.
        budget_tmacs: multiply-adds that fine-tuning may take, in 10^12; None: any number.
    """
    if budget_tmacs is None:
        return max_epochs
    wanted = MAX_FINETUNE_EPOCHS if max_epochs < 0 else min(max_epochs, MAX_FINETUNE_EPOCHS)
    allowed = int(budget_tmacs * 1e12 / (PASSES_PER_STEP * macs * max(1, num_images)))
    return min(wanted, allowed) if allowed >= min(MIN_FINETUNE_EPOCHS, wanted) else 0
