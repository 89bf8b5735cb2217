"""A small network that trains in minutes on a CPU: whitened patches, then three blocks of two convolutions each.

The design follows Keller Jordan, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU", 2024, arXiv:2404.00498: a
first layer that is computed from the images and not trained, convolutions that are initialized as identities,
biases that learn quickly, early pooling, a last layer without bias and with small logits, and logits that are the
mean over an image and its mirror image.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

PATCH_PX = 2
GREY_WIDTHS = (32, 96, 192)
COLOUR_WIDTHS = (64, 256, 256)
MIN_VARIANCE = 5e-4  # added to each variance; directions with almost none would become noise


class QuickBias(nn.BatchNorm2d):
    """Batch normalization with scale 1 and a bias that learns 64 times as fast as other weights.

    The bias is multiplied by 8, so its gradient is 8 times as large, and so is the effect of each step of it.
    """

    TIMES = 8.0

    def __init__(self, num_features: int) -> None:
        super().__init__(num_features)
        self.weight.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """Normalize (N, C, H, W) over the batch; the shape stays."""
        return nn.functional.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias * self.TIMES, self.training,
            self.momentum or 0.0, self.eps,
        )  # fmt: skip


class SpeedNet(nn.Module):
    """Three blocks over whitened patches, for images of 16 px and more, designed for 28 and 32 px.

    Args:
        in_channels: 1 or 3.
        num_classes: number of logits.
        widths: number of feature maps of each block; None: GREY_WIDTHS for 1 channel, else COLOUR_WIDTHS, which
            take four times the computation.
        scale: factor of the logits; small logits keep the first steps stable at a high learning rate.
        mirror: in evaluation, return the mean of the logits over the image and its mirror image.
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
        self.blocks = nn.Sequential(
            *(_make_block(num_in, num_out) for num_in, num_out in pairwise([num_patches, *widths]))
        )
        self.pool = nn.AdaptiveMaxPool2d(1)
        self.classifier = nn.Linear(widths[-1], num_classes, bias=False)
        self.scale, self.mirror = scale, mirror

    @torch.no_grad()
    def whiten(self, x: Tensor) -> None:
        """Compute the first layer from normalized images (N, in_channels, H, W).

        Over the patches of these images its outputs have variance 1 and no correlation.
        """
        patches = x.unfold(2, PATCH_PX, PATCH_PX).unfold(3, PATCH_PX, PATCH_PX)  # (N, C, h, w, 2, 2)
        rows = patches.permute(0, 2, 3, 1, 4, 5).flatten(0, 2).flatten(1)  # (N h w, C 2 2)
        variances, directions = torch.linalg.eigh(rows.T.double() @ rows.double() / len(rows))
        filters = (directions / (variances + MIN_VARIANCE).sqrt()).T.float()
        filters = filters.reshape(-1, *self.patches.weight.shape[1:])
        self.patches.weight.copy_(torch.cat([filters, -filters]))

    def forward(self, x: Tensor) -> Tensor:
        """Compute logits (N, num_classes) from images (N, in_channels, H, W)."""
        if self.mirror and not self.training:
            return (self._logits(x) + self._logits(x.flip(-1))) / 2
        return self._logits(x)

    def probabilities(self, x: Tensor) -> Tensor:
        """Compute the softmax of the logits (N, num_classes) from images (N, in_channels, H, W)."""
        return torch.softmax(self(x), dim=1)

    def _logits(self, x: Tensor) -> Tensor:
        x = self.blocks(nn.functional.gelu(self.patches(x)))
        logits: Tensor = self.classifier(self.pool(x).flatten(1)) * self.scale
        return logits


def _make_block(num_in: int, num_out: int) -> nn.Sequential:
    """Build a block from (N, num_in, H, W) to (N, num_out, H // 2, W // 2)."""
    return nn.Sequential(
        _make_convolution(num_in, num_out), nn.MaxPool2d(2), QuickBias(num_out), nn.GELU(),
        _make_convolution(num_out, num_out), QuickBias(num_out), nn.GELU(),
    )  # fmt: skip


def _make_convolution(num_in: int, num_out: int) -> nn.Conv2d:
    """Build a 3x3 convolution whose first `num_in` filters are identities; the others are random."""
    convolution = nn.Conv2d(num_in, num_out, 3, padding=1, bias=False)
    nn.init.dirac_(convolution.weight.data[:num_in])
    return convolution
