"""The model that a training leaves: the best epoch or the linear probe, with its calibration."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

from imageset.store.reader import ImageStore
from lightning_modules.bundle import Bundle, BundleInfo
from lightning_modules.calibration.temperature import fit_temperature, to_probabilities
from lightning_modules.calibration.thresholds import fit_thresholds
from lightning_modules.classifier import Classifier
from lightning_modules.features.linear_probe import compute_calibrated_losses, is_correct
from lightning_modules.features.transfer_learning import Probe, set_head
from lightning_modules.scoring import Scorer
from lightning_modules.training.callbacks import SUMMARY_METRICS, MetricHistory
from lightning_modules.training.checkpointing import DigestCheckpointIO, ResumableCheckpoint


@dataclass(frozen=True)
class TrainedModel:
    """A trained network, and what is known about it.

    Attributes:
        name: how messages call it.
        network: the network that is registered.
        network_for_reference: a network that has not learned from the validation split.
        metrics: on the validation split, of a network that has not learned from it.
        epoch: number of the epoch, from 0; -1 for the probe.
        calibration: the bundle's `temperature`, and `thresholds` of the labels if the dataset is multi-label.
        val_logits: float32 (n, K) for the validation split.
        fitted_splits: the splits whose images the weights of `network` were fitted to.
    """

    name: str
    network: nn.Module
    network_for_reference: nn.Module
    metrics: dict[str, float]
    epoch: int
    calibration: dict[str, Any] = field(repr=False)
    val_logits: np.ndarray = field(repr=False)
    fitted_splits: tuple[str, ...] = ("train",)


def take_best_epoch(
    model: Classifier,
    info: BundleInfo,
    store: ImageStore,
    history: MetricHistory,
    checkpoint_callback: ResumableCheckpoint,
    batch_size: int,
) -> TrainedModel:
    """Return the network of the epoch with the lowest validation loss.

    Args:
        model: the model; it receives the weights of that epoch.
        info: a description of the model, without its metrics.
        store: the dataset.
        history: the metrics of each epoch.
        checkpoint_callback: knows the checkpoint of the best epoch.
        batch_size: of the pass over the validation split.
    """
    checkpoint = DigestCheckpointIO().load_checkpoint(checkpoint_callback.find_best_checkpoint())
    model.load_state_dict(checkpoint["state_dict"])
    row = history.rows[checkpoint["epoch"]]
    split = store.split("val")
    logits = Scorer(Bundle(info, model.serving_network, "")).split_logits(split, batch_size)
    metrics = {name: row[name] for name in SUMMARY_METRICS if name.startswith("val_") and name in row}
    return TrainedModel(
        name=f"best epoch {checkpoint['epoch'] + 1}",
        network=model.serving_network,
        network_for_reference=model.serving_network,
        metrics=metrics,
        epoch=checkpoint["epoch"],
        calibration=calibrate(logits, split.labels),
        val_logits=logits,
    )


def take_probe(pretrained: nn.Module, probe: Probe) -> TrainedModel:
    """Return the pretrained network with the head of the probe.

    Args:
        pretrained: the network before fine-tuning; it is copied.
        probe: the probe.
    """
    network, network_for_reference = copy.deepcopy(pretrained).eval(), copy.deepcopy(pretrained).eval()
    set_head(network, probe.final_head)
    set_head(network_for_reference, probe.head)
    metrics = {"val_loss": probe.score.loss, "val_accuracy": probe.score.accuracy}
    if probe.labels.ndim == 2:
        metrics["val_map"] = compute_mean_average_precision(
            probe.val_logits, probe.labels[len(probe.labels) - len(probe.val_logits) :]
        )
    return TrainedModel(
        name="linear probe",
        network=network,
        network_for_reference=network_for_reference,
        metrics={name: value for name, value in metrics.items() if np.isfinite(value)},
        epoch=-1,
        calibration=calibrate(probe.out_of_fold_logits, probe.labels),
        val_logits=probe.val_logits,
        fitted_splits=("train", "val"),
    )


def choose_better(probe: TrainedModel, fine_tuned: TrainedModel, labels: np.ndarray) -> TrainedModel:
    """Return the fine-tuned network if it beats the probe on the validation split, else the probe.

    Its calibrated loss has to be lower by one standard error of the difference, and its accuracy no worse: on a
    small split a lower loss may be chance, and the head of the probe learns from the validation split, too. Source
    of the rule of one standard error: L. Breiman et al., "Classification and Regression Trees", 1984.

    Args:
        probe: the probe's network.
        fine_tuned: the fine-tuned network.
        labels: of the validation split.
    """
    before, after = (compute_calibrated_losses(model.val_logits, labels) for model in (probe, fine_tuned))
    gains = before - after
    standard_error = gains.std() / np.sqrt(len(gains))
    is_better = gains.mean() > standard_error
    is_as_accurate = (
        is_correct(fine_tuned.val_logits, labels).mean() >= is_correct(probe.val_logits, labels).mean()
    )
    return fine_tuned if is_better and is_as_accurate else probe


def calibrate(logits: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Return the bundle's `temperature`, and `thresholds` of the labels if the dataset is multi-label.

    Args:
        logits: float32 (n, K) of images that the network has not learned from.
        labels: int (n,), or 0 and 1 (n, K).
    """
    temperature = fit_temperature(logits, labels)
    if labels.ndim == 1:
        return {"temperature": temperature}
    probabilities = to_probabilities(logits, temperature, multi_label=True)
    return {"temperature": temperature, "thresholds": fit_thresholds(probabilities, labels)}


def compute_mean_average_precision(logits: np.ndarray, labels: np.ndarray) -> float:
    """Return the mean over the labels of their average precision, as `val_map` of a training."""
    from torchmetrics.functional.classification import multilabel_average_precision

    value = multilabel_average_precision(
        torch.sigmoid(torch.from_numpy(logits)), torch.from_numpy(labels.astype(np.int64)), logits.shape[1]
    )
    return float(value)


def describe_metrics(metrics: Mapping[str, float]) -> str:
    """Return metrics as text: `val_loss 0.1234, val_accuracy 0.9876`."""
    return ", ".join(f"{name} {value:.4f}" for name, value in metrics.items())
