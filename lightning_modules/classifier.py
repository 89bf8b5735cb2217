"""The LightningModule: a network, how it is optimized, and what is measured."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from pytorch_lightning.cli import OptimizerCallable
from torch import Tensor, nn

from lightning_modules.augment import random_flip, random_shift

NetworkCallable = Callable[[int, int], nn.Module]  # (in_channels, num_classes) -> network


class Normalize(nn.Module):
    """Bytes to what a network sees: uint8 (N, H, W, C) -> float32 (N, C, H, W), mean 0 and deviation 1.

    Args:
        mean, std: of each channel, in units of 0..1.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(1, -1, 1, 1))
        spread = [value or 1.0 for value in std]  # all pixels alike: nothing to bring to deviation 1
        self.register_buffer("std", torch.tensor(spread, dtype=torch.float32).view(1, -1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """uint8 (N, H, W, C) -> float32 (N, C, H, W), kept in channels-last order in memory."""
        return (images.permute(0, 3, 1, 2).float() / 255 - self.mean) / self.std


class Classifier(pl.LightningModule):
    """Trains a network on batches of an `ImageDataModule`.

    Args:
        network: builds the network from (in_channels, num_classes).
        optimizer: builds the optimizer from the parameters.
        warmup: part of all steps in which the learning rate rises; after it a cosine brings it to zero.
        label_smoothing: part of the probability that the loss spreads over all classes.
        shift, flip: augmentation, see `lightning_modules.augment`.
    """

    def __init__(
        self,
        network: NetworkCallable,
        optimizer: OptimizerCallable,
        warmup: float,
        label_smoothing: float,
        shift: float,
        flip: bool,
    ) -> None:
        super().__init__()
        self.make_network, self.make_optimizer = network, optimizer
        self.warmup, self.label_smoothing = warmup, label_smoothing
        self.shift, self.flip = shift, flip
        self.seed = 0

    def build(self, mean: Sequence[float], std: Sequence[float], num_classes: int) -> None:
        """Make the network for a dataset: its channels (as many as `mean` has) and its classes."""
        self.normalize = Normalize(mean, std)
        self.network = self.make_network(len(mean), num_classes).to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> Tensor:
        """uint8 (N, H, W, C) -> logits (N, num_classes)."""
        return self.network(self.normalize(images))

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Draws (augmentation, dropout) depend on where training stands and on nothing before it."""
        place = (self.seed, self.current_epoch, batch_idx, self.global_rank)
        torch.manual_seed(hash(place) % 2**63)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Cross entropy of an augmented batch."""
        images, labels = batch
        x = random_shift(self.normalize(images), self.shift)
        if self.flip:
            x = random_flip(x)
        logits = self.network(x)
        self._log("train", logits, labels)
        return F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Logs val_loss, val_accuracy and val_error."""
        images, labels = batch
        self._log("val", self(images), labels)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Logs test_loss, test_accuracy and test_error."""
        images, labels = batch
        self._log("test", self(images), labels)

    def configure_optimizers(self) -> Any:
        """The optimizer with a learning rate that rises, then falls as a cosine, step by step."""
        optimizer = self.make_optimizer(self.parameters())
        total = int(self.trainer.estimated_stepping_batches)
        scheduler = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: warmup_cosine(step, total, self.warmup)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def _log(self, split: str, logits: Tensor, labels: Tensor) -> None:
        right = (logits.argmax(1) == labels).float().mean()
        values = {"loss": F.cross_entropy(logits, labels), "accuracy": right, "error": 1 - right}
        self.log_dict(
            {f"{split}_{name}": value.detach() for name, value in values.items()},
            on_step=False, on_epoch=True, sync_dist=True, batch_size=len(labels), prog_bar=split == "val",
        )  # fmt: skip


def warmup_cosine(step: int, total: int, warmup: float) -> float:
    """Factor of the learning rate, 0..1, at `step` of `total` with the first part `warmup` rising."""
    rise = warmup * total
    if step < rise:
        return (step + 1) / (rise + 1)
    return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, total - rise)))
