"""The layer that turns uint8 images into normalized floats."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


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
        """uint8 (N, H, W, C) -> float32 (N, C, H, W), kept in channels-last order in memory.

        As rows of W C numbers: over three channels alone a processor's wide registers would stay empty. What is
        traced for another runtime is the plain arithmetic, which that runtime joins by itself.
        """
        if torch.jit.is_tracing():
            return (scale_to_unit(images) - self.mean) / self.std
        n, height, width, channels = images.shape
        factor = (1 / (255 * self.std)).flatten().repeat(width)
        offset = (-self.mean / self.std).flatten().repeat(width)
        x = images.reshape(n * height, width * channels).float()
        x = torch.addcmul(offset, x, factor, out=x)
        return x.view(n, height, width, channels).permute(0, 3, 1, 2)


def scale_to_unit(images: Tensor) -> Tensor:
    """uint8 (N, H, W, C) -> float32 (N, C, H, W) from 0 to 1, kept in channels-last order in memory."""
    return images.permute(0, 3, 1, 2).float() / 255
