"""A small network for minutes on a CPU: whitened patches, then three blocks with two convolutions each.

The plan is that of Keller Jordan, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU", 2024, arXiv:2404.00498: a
first layer that is computed from the pictures and not trained, filters that begin by passing on what they get,
biases that learn quickly, pooling early, a last layer without bias and with small logits, and logits that are the
mean over a picture and its mirror image.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

PATCH_PX = 2
GREY_WIDTHS = (32, 96, 192)
COLOUR_WIDTHS = (64, 256, 256)
MIN_VARIANCE = 5e-4  # added to each; directions with hardly any would be blown up to noise


class QuickBias(nn.BatchNorm2d):
    """Batch normalization whose scale is 1 and whose bias learns 64 times as fast as other weights do: it counts
    8-fold, so its gradient is 8 times as large, and so is what a step of it does."""

    TIMES = 8.0

    def __init__(self, num_features: int) -> None:
        super().__init__(num_features)
        self.weight.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        return nn.functional.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias * self.TIMES, self.training,
            self.momentum or 0.0, self.eps,
        )  # fmt: skip


class SpeedNet(nn.Module):
    """Three blocks over whitened patches; for pictures of 16 px and more, made for 28 and 32.

    Args:
        in_channels: 1 or 3.
        num_classes: how many logits come out.
        widths: feature maps of each block; None: GREY_WIDTHS or COLOUR_WIDTHS, four times the work.
        scale: factor of the logits; small ones make the first steps calm at a high learning rate.
        mirror: in evaluation the logits are the mean over the picture and its mirror image.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        widths: Sequence[int] | None = None,
        scale: float = 0.125,
        mirror: bool = True,
    ) -> None:
        super().__init__()
        if widths is None:
            widths = GREY_WIDTHS if in_channels == 1 else COLOUR_WIDTHS
        num_patches = 2 * in_channels * PATCH_PX**2  # each direction and its opposite
        self.patches = nn.Conv2d(in_channels, num_patches, PATCH_PX, bias=False)
        self.patches.weight.requires_grad_(False)
        self.blocks = nn.Sequential(*(_make_block(a, b) for a, b in pairwise([num_patches, *widths])))
        self.pool = nn.AdaptiveMaxPool2d(1)
        self.classifier = nn.Linear(widths[-1], num_classes, bias=False)
        self.scale, self.mirror = scale, mirror

    @torch.no_grad()
    def whiten(self, x: Tensor) -> None:
        """Compute the first layer from normalized pictures (N, in_channels, H, W): over their patches its outputs
        have variance 1 and no correlation."""
        patches = x.unfold(2, PATCH_PX, PATCH_PX).unfold(3, PATCH_PX, PATCH_PX)  # (N, C, h, w, 2, 2)
        rows = patches.permute(0, 2, 3, 1, 4, 5).flatten(0, 2).flatten(1)  # (N h w, C 2 2)
        variances, directions = torch.linalg.eigh(rows.T.double() @ rows.double() / len(rows))
        filters = (directions / (variances + MIN_VARIANCE).sqrt()).T.float()
        filters = filters.reshape(-1, *self.patches.weight.shape[1:])
        self.patches.weight.copy_(torch.cat([filters, -filters]))

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> logits (N, num_classes)."""
        if self.mirror and not self.training:
            return (self._logits(x) + self._logits(x.flip(-1))) / 2
        return self._logits(x)

    def probabilities(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> softmax of the logits (N, num_classes); each row sums to 1."""
        return torch.softmax(self(x), dim=1)

    def _logits(self, x: Tensor) -> Tensor:
        x = self.blocks(nn.functional.gelu(self.patches(x)))
        logits: Tensor = self.classifier(self.pool(x).flatten(1)) * self.scale
        return logits


def _make_block(before: int, after: int) -> nn.Sequential:
    """(N, before, H, W) -> (N, after, H // 2, W // 2)."""
    return nn.Sequential(
        _make_convolution(before, after), nn.MaxPool2d(2), QuickBias(after), nn.GELU(),
        _make_convolution(after, after), QuickBias(after), nn.GELU(),
    )  # fmt: skip


def _make_convolution(before: int, after: int) -> nn.Conv2d:
    """Its first filters pass the maps before them on, as they are; the others are drawn."""
    convolution = nn.Conv2d(before, after, 3, padding=1, bias=False)
    nn.init.dirac_(convolution.weight.data[:before])
    return convolution
