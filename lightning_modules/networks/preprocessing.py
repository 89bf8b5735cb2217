"""The layer that converts uint8 images to normalized floats."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Normalize(nn.Module):
    """Normalization of uint8 (N, H, W, C) to float32 (N, C, H, W) with mean 0 and standard deviation 1.

    Args:
        mean: of each channel, in units of 0..1.
        std: standard deviation of each channel, in units of 0..1.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(1, -1, 1, 1))
        spread = [value or 1.0 for value in std]  # 0 if all pixels are equal: they are only shifted
        self.register_buffer("std", torch.tensor(spread, dtype=torch.float32).view(1, -1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Normalize uint8 (N, H, W, C) to float32 (N, C, H, W) in channels-last memory order.

        The arithmetic runs over rows of W x C numbers, since three channels alone do not fill a processor's vector
        registers. For another runtime the plain arithmetic is traced, which that runtime fuses itself.
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
    """Convert uint8 (N, H, W, C) to float32 (N, C, H, W) from 0 to 1, in channels-last memory order."""
    return images.permute(0, 3, 1, 2).float() / 255
