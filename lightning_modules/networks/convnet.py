"""The plain convolutional network: convolution, ReLU, pooling, fully connected layers, softmax."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from imageset.exceptions import UserError

PoolKind = Literal["max", "avg", "sum"]


class Pool(nn.Module):
    """Spatial pooling over windows that do not overlap: their largest value, their mean or their sum.

    A feature map smaller than the window is passed on as it is.
    """

    def __init__(self, kind: PoolKind, window: int) -> None:
        super().__init__()
        self.kind = kind
        self.window = window

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H // window, W // window)."""
        if min(x.shape[-2:]) < self.window:
            return x
        if self.kind == "max":
            return F.max_pool2d(x, self.window)
        return F.avg_pool2d(x, self.window, divisor_override=1 if self.kind == "sum" else None)

    def extra_repr(self) -> str:
        return f"{self.kind}, window={self.window}"


class ConvNet(nn.Module):
    """Convolution, ReLU and pooling, as often as there are `filters`; then fully connected layers.

    By its plain name it is the network that params.yaml spells out.

    Args:
        in_channels: 1 or 3.
        num_classes: how many logits come out.
        filters: number of filters of each convolution.
        kernel_size, stride, padding: one number for all convolutions (px), or a list with one for each.
        pool: `max`, `avg` or `sum` over windows of `pool_window` px after each ReLU.
        grid: the last feature maps are averaged to `grid` x `grid`, so pictures of any size fit.
        hidden: widths of the fully connected layers before the last one.
        dropout: part of the hidden activations set to zero in training.
        batch_norm: normalize each feature map over the batch, between convolution and ReLU.

    Raises:
        UserError: lists of different lengths, or an unknown kind of pooling.
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
        for (before, after), kernel, step, zeros in zip(pairwise(widths), kernels, strides, paddings, strict=True):
            layers.append(nn.Conv2d(before, after, kernel, step, zeros, bias=not batch_norm))
            if batch_norm:
                layers.append(nn.BatchNorm2d(after))
            layers += [nn.ReLU(), Pool(pool, pool_window)]
        self.features = nn.Sequential(*layers)
        self.grid = Grid(grid)

        head: list[nn.Module] = []
        sizes = [widths[-1] * grid * grid, *hidden]
        for before, after in pairwise(sizes):
            head += [nn.Linear(before, after), nn.ReLU(), nn.Dropout(dropout)]
        self.classifier = nn.Sequential(*head, nn.Linear(sizes[-1], num_classes))

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> logits (N, num_classes)."""
        x = self.features(x)  # (N, filters[-1], h, w)
        x = self.grid(x).flatten(1)  # (N, filters[-1] * grid * grid)
        return self.classifier(x)

    def probabilities(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> softmax of the logits (N, num_classes); each row sums to 1."""
        return torch.softmax(self(x), dim=1)


class Grid(nn.AdaptiveAvgPool2d):
    """Adaptive average pooling that leaves maps alone which have that size already: PyTorch would copy them, and
    copy their gradient, for a twentieth of the step."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, grid, grid)."""
        as_wanted = not torch.jit.is_tracing() and tuple(x.shape[-2:]) == (self.output_size, self.output_size)
        return x if as_wanted else super().forward(x)


def _expand_per_layer(name: str, value: int | list[int], count: int) -> list[int]:
    values = [value] * count if isinstance(value, int) else list(value)
    if len(values) != count:
        raise UserError(
            f"ConvNet: {name} has {len(values)} entries for {count} filters; give one number or one for each"
        )
    return values
