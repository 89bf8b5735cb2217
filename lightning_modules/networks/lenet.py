"""LeNet-5: LeCun, Bottou, Bengio, Haffner, "Gradient-Based Learning Applied to Document Recognition", 1998.

As in the paper: 32x32 images, the scaled tanh, subsampling with a trained coefficient and bias, and the table of
the maps of S2 that each map of C3 reads. Not as in the paper: the last layer is linear with softmax (the paper
uses distances to fixed 7x12 drawings of the digits), and colour images are accepted too.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Table I of the paper: the maps of S2 (0-5) that feed each of the 16 maps of C3.
C3_INPUTS = (
    (0, 1, 2), (1, 2, 3), (2, 3, 4), (3, 4, 5), (0, 4, 5), (0, 1, 5),
    (0, 1, 2, 3), (1, 2, 3, 4), (2, 3, 4, 5), (0, 3, 4, 5), (0, 1, 4, 5), (0, 1, 2, 5),
    (0, 1, 3, 4), (1, 2, 4, 5), (0, 2, 3, 5),
    (0, 1, 2, 3, 4, 5),
)  # fmt: skip


class ScaledTanh(nn.Module):
    """The squashing function of the paper: A tanh(S a) with A = 1.7159 and S = 2/3."""

    def forward(self, x: Tensor) -> Tensor:
        """Apply the function element by element; the result is within (-1.7159, 1.7159)."""
        return 1.7159 * torch.tanh(x * (2 / 3))


class Subsample(nn.Module):
    """The sum of each 2x2 window times a trained coefficient plus a trained bias, one of both for each map."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.coefficient = nn.Parameter(torch.full((channels, 1, 1), 0.25))
        self.bias = nn.Parameter(torch.zeros(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Subsample (N, C, H, W) to (N, C, H // 2, W // 2)."""
        return F.avg_pool2d(x, 2, divisor_override=1) * self.coefficient + self.bias


class TableConv(nn.Module):
    """The layer C3: 5x5 convolutions, each over the input maps of its row in C3_INPUTS; 1,516 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.maps = nn.ModuleList(nn.Conv2d(len(inputs), 1, 5) for inputs in C3_INPUTS)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve (N, 6, H, W) to (N, 16, H - 4, W - 4)."""
        return torch.cat([conv(x[:, list(inputs)]) for conv, inputs in zip(self.maps, C3_INPUTS, strict=True)], 1)


class LeNet5(nn.Module):
    """LeNet-5 for 1 or 3 channels: 60,000 trained parameters up to F6 for grey images, and the last layer.

    The maps before C5 are averaged to 5x5, which changes nothing for 32x32 images, so images of any size from
    16 px fit.

    Args:
        in_channels: 1 or 3.
        num_classes: number of logits.
    """

    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(in_channels, 6, 5),  # C1: 32x32 -> 28x28
            ScaledTanh(),
            Subsample(6),  # S2: 14x14
            ScaledTanh(),
            TableConv(),  # C3: 10x10
            ScaledTanh(),
            Subsample(16),  # S4: 5x5
            ScaledTanh(),
            nn.AdaptiveAvgPool2d(5),
            nn.Conv2d(16, 120, 5),  # C5: 1x1
            ScaledTanh(),
        )
        self.classifier = nn.Sequential(nn.Linear(120, 84), ScaledTanh(), nn.Linear(84, num_classes))

    def forward(self, x: Tensor) -> Tensor:
        """Compute logits (N, num_classes) from images (N, in_channels, H, W)."""
        return self.classifier(self.features(x).flatten(1))

    def probabilities(self, x: Tensor) -> Tensor:
        """Compute the softmax of the logits (N, num_classes) from images (N, in_channels, H, W)."""
        return torch.softmax(self(x), dim=1)
