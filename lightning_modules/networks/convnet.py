"""A plain convolutional network: convolution, ReLU, pooling, fully connected layers, softmax."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from imageset.exceptions import UserError

PoolKind = Literal["max", "avg", "sum"]


class Pool(nn.Module):
    """Spatial pooling over windows that do not overlap: the maximum, the mean or the sum of each.

    A feature map that is smaller than the window is returned unchanged.
    """

    def __init__(self, kind: PoolKind, window: int) -> None:
        super().__init__()
        self.kind = kind
        self.window = window

    def forward(self, x: Tensor) -> Tensor:
        """Pool (N, C, H, W) to (N, C, H // window, W // window)."""
        if min(x.shape[-2:]) < self.window:
            return x
        if self.kind == "max":
            return F.max_pool2d(x, self.window)
        return F.avg_pool2d(x, self.window, divisor_override=1 if self.kind == "sum" else None)

    def extra_repr(self) -> str:
        """Return the arguments for the printed network."""
        return f"{self.kind}, window={self.window}"


class ConvNet(nn.Module):
    """A block of convolution, ReLU and pooling for each entry of `filters`, then fully connected layers.

    Its defaults are the network that params.yaml spells out.

    Args:
        in_channels: 1 or 3.
        num_classes: number of logits.
        filters: number of filters of each convolution.
        kernel_size: of the convolutions, in px: one number for all, or a list with one for each.
        stride: of the convolutions, in px, likewise.
        padding: of the convolutions, in px, likewise.
        pool: `max`, `avg` or `sum` over windows of `pool_window` px after each ReLU.
        pool_window: side of the windows, in px.
        grid: the last feature maps are averaged to `grid` x `grid`, so images of any size fit.
        hidden: widths of the fully connected layers before the last one.
        dropout: share of the hidden activations that is set to zero in training.
        batch_norm: normalize each feature map over the batch, between convolution and ReLU.

    Raises:
        UserError: a list has another length than `filters`, or the kind of pooling is unknown.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        filters: Sequence[int] = (32, 64, 128),
        kernel_size: int | list[int] = 3,
        stride: int | list[int] = 1,
        padding: int | list[int] = 1,
        pool: PoolKind = "max",
        pool_window: int = 2,
        grid: int = 4,
        hidden: Sequence[int] = (128,),
        dropout: float = 0.2,
        batch_norm: bool = True,
    ) -> None:
        super().__init__()
        if pool not in ("max", "avg", "sum"):
            raise UserError(f"ConvNet: pool is {pool!r}; choose max, avg or sum")
        widths = [in_channels, *filters]
        kernels = _expand_per_layer("kernel_size", kernel_size, len(filters))
        strides = _expand_per_layer("stride", stride, len(filters))
        paddings = _expand_per_layer("padding", padding, len(filters))

        layers: list[nn.Module] = []
        for (num_in, num_out), size, step, pad in zip(pairwise(widths), kernels, strides, paddings, strict=True):
            layers.append(nn.Conv2d(num_in, num_out, size, step, pad, bias=not batch_norm))
            if batch_norm:
                layers.append(nn.BatchNorm2d(num_out))
            layers += [nn.ReLU(), Pool(pool, pool_window)]
        self.features = nn.Sequential(*layers)
        self.grid = Grid(grid)

        head: list[nn.Module] = []
        sizes = [widths[-1] * grid * grid, *hidden]
        for num_in, num_out in pairwise(sizes):
            head += [nn.Linear(num_in, num_out), nn.ReLU(), nn.Dropout(dropout)]
        self.classifier = nn.Sequential(*head, nn.Linear(sizes[-1], num_classes))

    def forward(self, x: Tensor) -> Tensor:
        """Compute logits (N, num_classes) from images (N, in_channels, H, W)."""
        x = self.features(x)  # (N, filters[-1], h, w)
        x = self.grid(x).flatten(1)  # (N, filters[-1] * grid * grid)
        return self.classifier(x)

    def probabilities(self, x: Tensor) -> Tensor:
        """Compute the softmax of the logits (N, num_classes) from images (N, in_channels, H, W)."""
        return torch.softmax(self(x), dim=1)


class Grid(nn.AdaptiveAvgPool2d):
    """Adaptive average pooling that returns maps of the right size unchanged.

    PyTorch would copy them and their gradient, which takes a twentieth of the step.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Average (N, C, H, W) to (N, C, grid, grid)."""
        has_size = not torch.jit.is_tracing() and tuple(x.shape[-2:]) == (self.output_size, self.output_size)
        return x if has_size else super().forward(x)


def _expand_per_layer(name: str, value: int | list[int], count: int) -> list[int]:
    values = [value] * count if isinstance(value, int) else list(value)
    if len(values) != count:
        raise UserError(
            f"ConvNet: {name} has {len(values)} entries for {count} filters; give one number or one for each"
        )
    return values
