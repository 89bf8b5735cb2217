"""The LightningModule: a network, how it is optimized, and what is measured."""

import copy
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from pytorch_lightning.cli import OptimizerCallable
from torch import Tensor, nn
from torchmetrics.classification import MultilabelAveragePrecision

from imageset.exceptions import UserError
from lightning_modules.augmentation import apply_mixup_cutmix, rand_augment, random_erasing, shift_and_flip
from lightning_modules.lr_schedules import one_cycle, warmup_cosine
from lightning_modules.networks.factory import make_network
from lightning_modules.networks.preprocessing import Normalize, scale_to_unit
from lightning_modules.networks.pretrained import (
    IMAGENET_STATISTICS,
    PretrainedWeights,
    adapt_statistics,
    find_head,
    list_backbone_layers,
    load_pretrained,
)


class Classifier(pl.LightningModule):
    """Trains a network on batches of an `ImageDataModule`.

    Args:
        network: {"class_path", "init_args"}, see `lightning_modules.networks.registry`.
        weights: trained weights to begin with, see `lightning_modules.networks.pretrained`; null: random ones.
        mean_std: what pictures are normalized with: `dataset`, its own; `imagenet`; `auto`: what the weights have
            seen, and the dataset's own without weights. Filters trained for one scale misread another.
        freeze: `backbone`: only the head is trained; `gradual`: the head first, then in the first half of the
            epochs one quarter of the layers after another, from the last to the first.
        backbone_lr: factor of the learning rate of everything but the head.
        optimizer: builds the optimizer from the parameters.
        schedule: `cosine`, see `warmup_cosine`, or `one_cycle`, see `one_cycle`.
        warmup: part of all steps in which the learning rate rises.
        decay_norm_and_bias: whether weight decay pulls at biases and at the scales of normalization layers too.
        ema: an average of the weights is kept that forgets 1 - ema a step; it is what is evaluated and registered.
            null: none.
        label_smoothing: part of the probability that the loss spreads over all classes; where a picture may bear
            several labels, over yes and no of each.
        imbalance: `weights`: the loss of a rare class counts more; `sampler`: its pictures are drawn more often;
            either so that all classes count alike. `none`: every picture once, all alike. Where a picture may bear
            several labels, `weights` lets those that bear a label count as much as those that do not, and
            `sampler` draws a picture by the rarest of its labels.
        channels_last: memory order of activations and filters; faster on most devices, the same numbers.
        compile: torch.compile; worth its minute of start-up in a long training.
        shift, flip, rand_augment, strength, erasing, mixup, cutmix: augmentation, see `lightning_modules.augmentation`.
    """

    class_weights: Tensor  # (K,); of several labels a picture: how much a picture that bears it counts
    multi_label = False  # whether a picture may bear several of the classes, or none

    def __init__(
        self,
        network: dict[str, Any],
        weights: str | None,
        mean_std: Literal["auto", "dataset", "imagenet"],
        freeze: Literal["none", "backbone", "gradual"],
        backbone_lr: float,
        optimizer: OptimizerCallable,
        schedule: Literal["cosine", "one_cycle"],
        warmup: float,
        decay_norm_and_bias: bool,
        ema: float | None,
        label_smoothing: float,
        imbalance: Literal["none", "weights", "sampler"],
        channels_last: bool,
        compile: bool,
        shift: float,
        flip: bool,
        rand_augment: int,
        strength: float,
        erasing: float,
        mixup: float,
        cutmix: float,
    ) -> None:
        super().__init__()
        parts = {"warmup": warmup, "ema": ema or 0, "label_smoothing": label_smoothing, "shift": shift,
                 "strength": strength, "erasing": erasing}  # fmt: skip
        for name, value in parts.items():
            if not 0 <= value <= 1:
                raise UserError(f"model.{name} is {value}; give a number from 0 to 1")
        if freeze != "none" and weights is None:
            raise UserError(f"model.freeze: {freeze} keeps what was never trained; give model.weights too")
        self.network_spec, self.make_optimizer = network, optimizer
        self.weights, self.mean_std, self.freeze_mode, self.backbone_lr = weights, mean_std, freeze, backbone_lr
        self.frozen_epoch = -1  # the epoch that the layers are frozen for
        self.schedule, self.warmup = schedule, warmup
        self.decay_norm_and_bias, self.ema = decay_norm_and_bias, ema
        self.label_smoothing, self.imbalance = label_smoothing, imbalance
        self.channels_last, self.is_compiled = channels_last, compile
        self.shift, self.flip = shift, flip
        self.rand_augment, self.strength, self.erasing = rand_augment, strength, erasing
        self.mixup, self.cutmix = mixup, cutmix
        self.seed = 0

    def build(
        self,
        mean: Sequence[float],
        std: Sequence[float],
        classes: Sequence[str],
        labels: Sequence[int] | np.ndarray | None = None,
        source: PretrainedWeights | None = None,
        pictures: Tensor | None = None,
    ) -> str:
        """Make the network for a dataset: its channels (as many as `mean` has) and its classes.

        Args:
            mean, std: of the dataset; the model's attributes of these names are what it uses.
            classes: names.
            labels: of the training split: int (n,), or 0 and 1 (n, K) where a picture may bear several.
            source: of trained weights.
            pictures: uint8 (N, H, W, C) of the training split; SpeedNet computes its first layer from them.

        Returns:
            One line that says what became of the weights; empty without any.
        """
        seen = source.statistics if source is not None and self.mean_std == "auto" else IMAGENET_STATISTICS
        own = self.mean_std == "dataset" or (self.mean_std == "auto" and source is None)
        self.mean, self.std = (tuple(mean), tuple(std)) if own else adapt_statistics(seen, len(mean))
        self.normalize = Normalize(self.mean, self.std)
        self.network = make_network(self.network_spec, len(mean), len(classes))
        said = load_pretrained(self.network, source, classes) if source is not None else ""
        whiten = getattr(self.network, "whiten", None)
        if source is None and pictures is not None and whiten is not None:
            whiten(self.normalize(pictures))
        if self.channels_last:
            self.network.to(memory_format=torch.channels_last)
        self.multi_label = labels is not None and np.ndim(labels) == 2
        if self.multi_label:
            self.val_map = MultilabelAveragePrecision(len(classes), average="macro", thresholds=None)
        class_weights = torch.ones(len(classes))
        if self.imbalance == "weights" and labels is not None:
            class_weights = compute_class_weights(torch.as_tensor(labels), len(classes))
        self.register_buffer("class_weights", class_weights, persistent=False)
        if self.ema is not None:
            self.average = copy.deepcopy(self.network).requires_grad_(False)
        if self.is_compiled:
            self.network.compile()
        if self.freeze_mode != "none":
            self._freeze(0)
        return said

    @property
    def serving_network(self) -> nn.Module:
        """The network that is evaluated and registered: the average of the weights where one is kept."""
        return self._modules.get("average") or self.network

    def forward(self, images: Tensor) -> Tensor:
        """uint8 (N, H, W, C) -> logits (N, num_classes) of the network that is served."""
        logits: Tensor = self.serving_network(self.normalize(images))
        return logits

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Draws (augmentation, dropout) depend on where training stands and on nothing before it."""
        place = (self.seed, self.current_epoch, batch_idx, self.global_rank)
        seed = hash(place) % 2**63
        if self.device.type == "cpu":
            torch.default_generator.manual_seed(seed)  # a hundredth of the time: no other device is asked
        else:
            torch.manual_seed(seed)
        if self.freeze_mode == "gradual" and self.frozen_epoch != self.current_epoch:
            self._freeze(self._free_quarters())

    def _free_quarters(self) -> int:
        """How many quarters of the backbone are trained in this epoch; all of them from half of the epochs on."""
        self.frozen_epoch, epochs = self.current_epoch, self.trainer.max_epochs or -1
        return min(4, 8 * self.current_epoch // epochs if epochs > 0 else self.current_epoch)

    def _freeze(self, free_quarters: int) -> None:
        """Train the head and the last quarters of the backbone; the others keep their weights and statistics."""
        layers = list_backbone_layers(self.network, len(self.class_weights))
        for number, layer in enumerate(layers):
            free = number >= len(layers) - len(layers) * free_quarters // 4
            layer.train(free)
            for weight in layer.parameters(recurse=False):
                weight.requires_grad_(free)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Cross entropy of an augmented batch; of several labels a picture that of each, their mean."""
        images, labels = batch
        if self.multi_label:
            x, targets = self.augment(images, labels.float())
            logits = self.network(x)
            smoothed = targets * (1 - self.label_smoothing) + self.label_smoothing / 2
            self._log_metrics("train", logits, labels, F.binary_cross_entropy_with_logits(logits, targets))
            return F.binary_cross_entropy_with_logits(logits, smoothed, pos_weight=self.class_weights)
        x, targets = self.augment(images, F.one_hot(labels, len(self.class_weights)).float())
        logits = self.network(x)
        weights = targets @ self.class_weights  # (N,)
        loss = F.cross_entropy(logits, targets, label_smoothing=self.label_smoothing, reduction="none")
        self._log_metrics("train", logits, labels, F.cross_entropy(logits, targets))
        return (loss * weights).mean()

    def augment(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 (N, H, W, C) and float32 (N, K) -> normalized (N, C, H, W) and the targets of what they show."""
        images = shift_and_flip(images, self.shift, self.flip)
        if self.rand_augment:
            x = rand_augment(scale_to_unit(images), self.rand_augment, self.strength)
            x = (x - self.normalize.mean) / self.normalize.std
        else:
            x = self.normalize(images)
        return apply_mixup_cutmix(random_erasing(x, self.erasing), targets, self.mixup, self.cutmix)

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """The mean of the ranks' gradients becomes that over the pictures, also where a rank had one more."""
        if self.trainer.world_size > 1:
            loader: Any = self.trainer.train_dataloader
            loss = loss * loader.sampler.share(self.trainer.fit_loop.batch_idx)
        super().backward(loss, *args, **kwargs)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Logs val_loss, val_accuracy and val_error; of several labels a picture val_map too, the mean over the
        labels of their average precision."""
        images, labels = batch
        logits = self(images)
        self._log_metrics("val", logits, labels)
        if self.multi_label:
            self.val_map.update(torch.sigmoid(logits.float()), labels.long())
            self.log("val_map", self.val_map, on_step=False, on_epoch=True)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Logs test_loss, test_accuracy and test_error."""
        images, labels = batch
        self._log_metrics("test", self(images), labels)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """One step of the optimizer, and of the average of the weights."""
        super().optimizer_step(*args, **kwargs)
        if self.ema is not None:
            self._update_average(self.ema)

    @torch.no_grad()
    def _update_average(self, ema: float) -> None:
        """Move the average towards the weights. It begins with a short memory, else it would keep the first,
        random weights for long."""
        step = self.trainer.global_step
        keep = min(ema, (1 + step) / (10 + step))
        now = self.network.state_dict()
        for name, mean in self.average.state_dict().items():
            if mean.is_floating_point():
                mean.lerp_(now[name].to(mean.dtype), 1 - keep)
            else:
                mean.copy_(now[name])

    def configure_optimizers(self) -> Any:
        """The optimizer with a learning rate that rises, then falls, step by step."""
        if self.freeze_mode == "gradual" and self.trainer.world_size > 1:
            raise UserError("model.freeze: gradual is for one device; set trainer.devices: 1, or backbone")
        optimizer = self.make_optimizer(self.parameter_groups())
        for group in optimizer.param_groups:
            group["lr"] *= group.get("lr_factor", 1.0)
        total = int(self.trainer.estimated_stepping_batches)
        factor = {"cosine": warmup_cosine, "one_cycle": one_cycle}[self.schedule]
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: factor(step, total, self.warmup))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The parameters, in groups by whether they are the head's and whether weight decay pulls at them; the
        head first, since the learning rate of the first group is the one that is logged."""
        head = f"{find_head(self.network, len(self.class_weights))}." if self.backbone_lr != 1 else ""
        named = list(self.network.named_parameters())
        groups: list[dict[str, Any]] = []
        for inside in (True, False):
            mine = [p for name, p in named if name.startswith(head) is inside]
            decayed = [p for p in mine if self.decay_norm_and_bias or p.ndim > 1]
            others = [p for p in mine if not self.decay_norm_and_bias and p.ndim <= 1]
            factor = 1.0 if inside else self.backbone_lr
            groups += [{"params": decayed, "lr_factor": factor}]
            groups += [{"params": others, "lr_factor": factor, "weight_decay": 0.0}]
        return [group for group in groups if group["params"]]

    def _log_metrics(self, split: str, logits: Tensor, labels: Tensor, loss: Tensor | None = None) -> None:
        """The accuracy of several labels a picture is that of whole sets, each label said from one half on."""
        if self.multi_label:
            right = ((logits >= 0) == (labels > 0)).all(1).float().mean()
            loss = F.binary_cross_entropy_with_logits(logits, labels.float()) if loss is None else loss
        else:
            right = (logits.argmax(1) == labels).float().mean()
            loss = F.cross_entropy(logits, labels) if loss is None else loss
        values = {"loss": loss, "accuracy": right, "error": 1 - right}
        num: Any = float(len(labels))  # not an integer: Lightning rounds the mean of the ranks' sums of these down
        values = {f"{split}_{name}": value.detach() for name, value in values.items()}
        if split == "train" and self._add_to_sums(values, num):
            return
        self.log_dict(
            values, on_step=False, on_epoch=True, sync_dist=True, batch_size=num, prog_bar=split == "val"
        )

    def _add_to_sums(self, values: dict[str, Tensor], num: float) -> bool:
        """Add to the sums behind an epoch's means that `log_dict` began, as it would: its checks of arguments and
        names take longer than the step of a small network. False where it has not begun yet."""
        if self._trainer is None:
            return False
        results = self._trainer.fit_loop.epoch_loop._results
        metrics: list[Any] = [results.get(f"training_step.{name}") for name in values]
        if any(metric is None or metric.has_reset for metric in metrics):
            return False
        for metric, value in zip(metrics, values.values(), strict=True):
            metric.value = metric.value + value.to(metric.value.dtype) * num
            metric.cumulated_batch_size = metric.cumulated_batch_size + num
            metric._computed = None
        return True


def compute_class_weights(labels: Tensor, num_classes: int) -> Tensor:
    """What lets rare classes count as much as others, float32 (K,).

    Args:
        labels: int (n,): the mean of the weights over the pictures is 1; or 0 and 1 (n, K): how many pictures do
            not bear a label for each that does.
    """
    if labels.ndim == 2:
        num = labels.sum(0)
        return (len(labels) - num).clamp(min=1) / num.clamp(min=1)
    counts = torch.bincount(labels, minlength=num_classes)
    return counts.sum() / (num_classes * counts.clamp(min=1))
