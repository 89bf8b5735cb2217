"""The LightningModule: a network, its optimization and its metrics."""

import copy
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from pytorch_lightning.cli import OptimizerCallable
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torchmetrics.classification import MultilabelAveragePrecision

from imageset.exceptions import UserError
from lightning_modules.augmentation import (
    apply_mixup_cutmix,
    rand_augment,
    random_erasing,
    random_resized_crop,
    shift_and_flip,
)
from lightning_modules.lr_schedules import one_cycle, warmup_cosine
from lightning_modules.networks.factory import make_network
from lightning_modules.networks.preprocessing import Normalize, scale_to_unit
from lightning_modules.networks.pretrained import (
    PretrainedWeights,
    adapt_statistics,
    list_backbone_layers,
    load_pretrained,
)
from lightning_modules.networks.weights.training_images import IMAGENET_STATISTICS

AUTO_CROP_AREA = 0.5
NUM_LAYER_GROUPS = 8  # of pretrained layers, each with a learning rate of its own


class Classifier(pl.LightningModule):
    """Training and evaluation of a network on batches of an `ImageDataModule`.

    Args:
        network: {"class_path", "init_args"}, see `lightning_modules.networks.registry`.
            `auto`: chosen before `build`, see `lightning_modules.training.auto_network`.
        weights: pretrained weights, see `lightning_modules.networks.pretrained`; null: random weights; `auto`:
            those that are installed with Convoy, if the network is EfficientNet-Lite0, else null.
        mean_std: mean and standard deviation that normalize the images: `dataset`, those of the dataset;
            `imagenet`; `auto`, those of the pretrained weights, or of the dataset without weights. Filters trained
            for one scale do not work for another.
        freeze: `backbone`: only the head is trained; `gradual`: the head first, then in the first half of the
            epochs one more quarter of the layers at a time, from the last to the first; `none`: all layers are
            trained.
        backbone_lr: factor of the learning rate of pretrained layers, which are all but the head; of the head as
            well if it was fitted to their features. Source: A. Kumar et al., "Fine-Tuning can Distort Pretrained
            Features and Underperform Out-of-Distribution", 2022, arXiv:2202.10054.
        layer_decay: further factor of the learning rate from each eighth of the pretrained layers to the one
            before it. Source: J. Howard, S. Ruder, "Universal Language Model Fine-tuning for Text Classification",
            2018, arXiv:1801.06146 (discriminative fine-tuning).
        optimizer: builds the optimizer from the parameters.
        schedule: `cosine`, see `warmup_cosine`, or `one_cycle`, see `one_cycle`.
        warmup: share of all steps in which the learning rate rises.
        decay_norm_and_bias: whether weight decay applies to biases and to the scales of normalization layers too.
        ema: decay of an exponential moving average of the weights, which is then evaluated and registered in place
            of the weights; a step changes it by 1 - ema. null: no average.
        label_smoothing: share of the probability that the loss spreads over all classes; for multi-label datasets,
            over presence and absence of each label.
        imbalance: `weights`: the loss of a rare class counts more; `sampler`: its images are drawn more often;
            with either, all classes count the same. `none`: every image is drawn once and counts the same. For
            multi-label datasets, `weights` lets the images with a label count as much as those without it, and
            `sampler` draws an image by the rarest of its labels.
        channels_last: memory order of activations and filters; faster on most devices, with the same results.
        compile: torch.compile, whose minute of start-up pays in a long training.
        shift: augmentation, see `lightning_modules.augmentation.shift_and_flip`.
        flip: likewise; `auto`: if a probe trained on images recognizes their mirror images, too, which only
            networks with pretrained weights find out, else false.
        crop_area: see `lightning_modules.augmentation.random_resized_crop`; `auto`: 0.5 with pretrained weights,
            else 1.
        rand_augment: number of operations, see `lightning_modules.augmentation.rand_augment`.
        strength: strength of the operations, likewise.
        erasing: probability, see `lightning_modules.augmentation.random_erasing`.
        mixup: see `lightning_modules.augmentation.apply_mixup_cutmix`.
        cutmix: likewise.
    """

    class_weights: Tensor  # (K,); multi-label: weight of the images with a label, against 1 for those without it
    multi_label = False  # whether an image has any number of the classes instead of exactly one

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
        flip: bool | Literal["auto"],
        rand_augment: int,
        strength: float,
        erasing: float,
        mixup: float,
        cutmix: float,
        layer_decay: float = 1.0,
        crop_area: float | Literal["auto"] = 1.0,
    ) -> None:
        super().__init__()
        shares = {"warmup": warmup, "ema": ema or 0, "label_smoothing": label_smoothing, "shift": shift,
                  "strength": strength, "erasing": erasing, "layer_decay": layer_decay,
                  "crop_area": 1 if crop_area == "auto" else crop_area}  # fmt: skip
        for name, value in shares.items():
            if not 0 <= value <= 1:
                raise UserError(f"model.{name} is {value}; give a number from 0 to 1")
        if freeze != "none" and weights is None:
            raise UserError(
                f"model.freeze: {freeze} would freeze weights that were never trained; give model.weights too"
            )
        self.network_spec, self.make_optimizer = network, optimizer
        self.weights, self.mean_std, self.freeze_mode = weights, mean_std, freeze
        self.backbone_lr, self.layer_decay = backbone_lr, layer_decay
        self.is_pretrained = self.has_fixed_statistics = False
        self.is_head_fitted = False  # to the features of the pretrained layers, as theirs to their input
        self.frozen_epoch = -1  # the epoch that the frozen layers were last chosen for
        self.schedule, self.warmup = schedule, warmup
        self.decay_norm_and_bias, self.ema = decay_norm_and_bias, ema
        self.label_smoothing, self.imbalance = label_smoothing, imbalance
        self.channels_last, self.is_compiled = channels_last, compile
        self.shift, self.flip, self.crop_area = shift, flip, crop_area
        self.rand_augment, self.strength, self.erasing = rand_augment, strength, erasing
        self.mixup, self.cutmix = mixup, cutmix
        self.seed = 0

    def build(
        self,
        mean: Sequence[float],
        std: Sequence[float],
        classes: Sequence[str],
        labels: Sequence[int] | np.ndarray | None = None,
        pretrained: PretrainedWeights | None = None,
        images: Tensor | None = None,
    ) -> str:
        """Build the network for a dataset, with a channel for each entry of `mean` and a logit for each class.

        The attributes `mean` and `std` of the model are those that it normalizes images with, see `mean_std`.

        Args:
            mean: of each channel of the dataset, in units of 0..1.
            std: standard deviation of each channel of the dataset, in units of 0..1.
            classes: names of the classes.
            labels: of the training split: int (n,), or 0 and 1 (n, K) of a multi-label dataset.
            pretrained: the pretrained weights, if there are any.
            images: uint8 (N, H, W, C) of the training split; SpeedNet computes its first layer from them.

        Returns:
            A line that describes what was loaded of the pretrained weights; empty without any.
        """
        self.is_pretrained = pretrained is not None
        statistics = IMAGENET_STATISTICS
        if pretrained is not None and self.mean_std == "auto":
            statistics = pretrained.images.statistics
        own = self.mean_std == "dataset" or (self.mean_std == "auto" and pretrained is None)
        self.mean, self.std = (tuple(mean), tuple(std)) if own else adapt_statistics(statistics, len(mean))
        self.normalize = Normalize(self.mean, self.std)
        self.network = make_network(self.network_spec, len(mean), len(classes))
        loaded = load_pretrained(self.network, pretrained, classes) if pretrained is not None else None
        self.keeps_head = loaded is not None and loaded.keeps_head
        whiten = getattr(self.network, "whiten", None)
        if pretrained is None and images is not None and whiten is not None:
            whiten(self.normalize(images))
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
        return loaded.summary if loaded is not None else ""

    @property
    def serving_network(self) -> nn.Module:
        """The network that is evaluated and registered: the average of the weights, if there is one."""
        average: nn.Module | None = getattr(self, "average", None)
        return self.network if average is None else average

    def forward(self, images: Tensor) -> Tensor:
        """Compute logits (N, num_classes) from uint8 images (N, H, W, C), with `serving_network`."""
        logits: Tensor = self.serving_network(self.normalize(images))
        return logits

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Seed the random draws of the batch, and unfreeze layers if an epoch begins.

        Augmentation and dropout thus depend only on the position of the batch and not on earlier batches.
        """
        position = (self.seed, self.current_epoch, batch_idx, self.global_rank)
        seed = hash(position) % 2**63
        if self.device.type == "cpu":
            torch.default_generator.manual_seed(seed)  # a hundredth of the time: seeds no other device
        else:
            torch.manual_seed(seed)
        if self.freeze_mode == "gradual" and self.frozen_epoch != self.current_epoch:
            self._freeze(self._count_free_quarters())

    def _count_free_quarters(self) -> int:
        """Return how many quarters of the backbone are trained in this epoch; all from half of the epochs on."""
        self.frozen_epoch, epochs = self.current_epoch, self.trainer.max_epochs or -1
        return min(4, 8 * self.current_epoch // epochs if epochs > 0 else self.current_epoch)

    def _freeze(self, free_quarters: int) -> None:
        """Freeze the weights and statistics of all layers but the head and the last quarters of the backbone."""
        layers = list_backbone_layers(self.network, len(self.class_weights))
        for number, layer in enumerate(layers):
            is_free = number >= len(layers) - len(layers) * free_quarters // 4
            layer.train(is_free and not (self.has_fixed_statistics and isinstance(layer, _BatchNorm)))
            for weight in layer.parameters(recurse=False):
                weight.requires_grad_(is_free)

    def fix_batch_statistics(self) -> None:
        """Keep the statistics of batch normalization in training: those that the features of a probe come from.

        With the statistics of batches, fine-tuning would begin with other features than its head was fitted to.
        """
        self.has_fixed_statistics = True
        for layer in self.network.modules():
            if isinstance(layer, _BatchNorm):
                layer.eval()

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Return the cross entropy of an augmented batch; for multi-label datasets, the mean over the labels."""
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
        """Augment and normalize a batch.

        Args:
            images: uint8 (N, H, W, C).
            targets: float32 (N, K).

        Returns:
            Normalized images (N, C, H, W), and the targets (N, K) of the augmented images.
        """
        images = shift_and_flip(images, self.shift, self.flip is True)
        min_area = self.min_crop_area
        if self.rand_augment or min_area < 1:
            x = random_resized_crop(scale_to_unit(images), min_area)
            x = rand_augment(x, self.rand_augment, self.strength)
            x = (x - self.normalize.mean) / self.normalize.std
        else:
            x = self.normalize(images)
        return apply_mixup_cutmix(random_erasing(x, self.erasing), targets, self.mixup, self.cutmix)

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Weight the loss so that the mean of the ranks' gradients is the mean over all images.

        The ranks' batches may differ by an image.
        """
        if self.trainer.world_size > 1:
            loader: Any = self.trainer.train_dataloader
            loss = loss * loader.sampler.compute_rank_share(self.trainer.fit_loop.batch_idx)
        super().backward(loss, *args, **kwargs)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Log val_loss, val_accuracy and val_error; for multi-label datasets also val_map.

        val_map is the mean over the labels of their average precision.
        """
        images, labels = batch
        logits = self(images)
        self._log_metrics("val", logits, labels)
        if self.multi_label:
            self.val_map.update(torch.sigmoid(logits.float()), labels.long())
            self.log("val_map", self.val_map, on_step=False, on_epoch=True)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Log test_loss, test_accuracy and test_error."""
        images, labels = batch
        self._log_metrics("test", self(images), labels)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Do a step of the optimizer, and update the average of the weights."""
        super().optimizer_step(*args, **kwargs)
        if self.ema is not None:
            self._update_average(self.ema)

    @torch.no_grad()
    def _update_average(self, ema: float) -> None:
        """Move the average towards the weights.

        The first steps use a smaller decay than `ema`, so that the average forgets the initial, random weights.
        """
        step = self.trainer.global_step
        decay = min(ema, (1 + step) / (10 + step))
        weights = self.network.state_dict()
        for name, mean in self.average.state_dict().items():
            if mean.is_floating_point():
                mean.lerp_(weights[name].to(mean.dtype), 1 - decay)
            else:
                mean.copy_(weights[name])

    def configure_optimizers(self) -> Any:
        """Return the optimizer and the schedule of its learning rate, which changes with every step."""
        if self.freeze_mode == "gradual" and self.trainer.world_size > 1:
            raise UserError("model.freeze: gradual is for one device; set trainer.devices: 1, or backbone")
        optimizer = self.make_optimizer(self.build_parameter_groups())
        for group in optimizer.param_groups:
            group["lr"] *= group.get("lr_factor", 1.0)
        total = int(self.trainer.estimated_stepping_batches)
        factor = {"cosine": warmup_cosine, "one_cycle": one_cycle}[self.schedule]
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: factor(step, total, self.warmup))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    @property
    def min_crop_area(self) -> float:
        """The smallest share of the area of a random crop; `crop_area` with `auto` replaced."""
        if self.crop_area == "auto":
            return AUTO_CROP_AREA if self.is_pretrained else 1.0
        return self.crop_area

    def build_parameter_groups(self) -> list[dict[str, Any]]:
        """Group the parameters by the factor of their learning rate and by whether weight decay applies to them.

        The head is the first group, since the learning rate of the first group is logged.
        """
        groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
        for weights, factor in self._iter_learning_rate_factors():
            is_decayed = self.decay_norm_and_bias or weights.ndim > 1
            groups.setdefault((factor, is_decayed), []).append(weights)
        return [
            {"params": members, "lr_factor": factor} | ({} if is_decayed else {"weight_decay": 0.0})
            for (factor, is_decayed), members in groups.items()
        ]

    def _iter_learning_rate_factors(self) -> Iterator[tuple[nn.Parameter, float]]:
        """Yield all parameters, those of the head first, with the factor of their learning rate."""
        if not self.is_pretrained or (self.backbone_lr == 1 and self.layer_decay == 1):
            yield from ((weights, 1.0) for weights in self.network.parameters())
            return
        layers = list_backbone_layers(self.network, len(self.class_weights))
        factors: dict[int, tuple[nn.Parameter, float]] = {}
        for number, layer in enumerate(layers):
            depth = NUM_LAYER_GROUPS - 1 - number * NUM_LAYER_GROUPS // len(layers)  # 0: nearest to the head
            for weights in layer.parameters(recurse=False):
                factors[id(weights)] = weights, self.backbone_lr * self.layer_decay**depth
        head_factor = self.backbone_lr if self.is_head_fitted else 1.0
        yield from ((weights, head_factor) for weights in self.network.parameters() if id(weights) not in factors)
        yield from factors.values()

    def _log_metrics(self, split: str, logits: Tensor, labels: Tensor, loss: Tensor | None = None) -> None:
        """Log loss, accuracy and error of a batch.

        For multi-label datasets, an image is correct if all its labels are; a label is predicted from 0.5 on.
        """
        if self.multi_label:
            correct = ((logits >= 0) == (labels > 0)).all(1).float().mean()
            loss = F.binary_cross_entropy_with_logits(logits, labels.float()) if loss is None else loss
        else:
            correct = (logits.argmax(1) == labels).float().mean()
            loss = F.cross_entropy(logits, labels) if loss is None else loss
        values = {"loss": loss, "accuracy": correct, "error": 1 - correct}
        num: Any = float(len(labels))  # a float, since Lightning rounds the ranks' mean of integers down
        values = {f"{split}_{name}": value.detach() for name, value in values.items()}
        if split == "train" and self._add_to_sums(values, num):
            return
        self.log_dict(
            values, on_step=False, on_epoch=True, sync_dist=True, batch_size=num, prog_bar=split == "val"
        )

    def _add_to_sums(self, values: dict[str, Tensor], num: float) -> bool:
        """Add to the sums behind an epoch's means as `log_dict` does, but without its checks.

        The checks of arguments and names take longer than the step of a small network.

        Returns:
            Whether the values were added; False until `log_dict` has created the sums.
        """
        # private API: pytorch_lightning (_trainer, _results) and torchmetrics (_computed), read in 2.6.6 and 1.9.0
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
    """Compute weights with which rare classes count as much as others, float32 (K,).

    Args:
        labels: int (n,), or 0 and 1 (n, K) of a multi-label dataset.
        num_classes: K.

    Returns:
        For single labels, the weight of each class; their mean over the images is 1. For a multi-label dataset,
        the number of images without a label for each image with it.
    """
    if labels.ndim == 2:
        num = labels.sum(0)
        return (len(labels) - num).clamp(min=1) / num.clamp(min=1)
    counts = torch.bincount(labels, minlength=num_classes)
    return counts.sum() / (num_classes * counts.clamp(min=1))
