"""Augmentation of whole batches on the device; each picture has its own draw."""

import torch
from torch import Tensor


def random_shift(images: Tensor, part: float) -> Tensor:
    """Move each picture by up to `part` of its side in both directions; the edge is repeated.

    (N, C, H, W) -> (N, C, H, W), whole pixels, so no value is new.
    """
    n, channels, height, width = images.shape
    if part <= 0:
        return images
    rows = _moved(n, height, part, images.device)  # (N, H)
    columns = _moved(n, width, part, images.device)  # (N, W)
    images = images.gather(2, rows[:, None, :, None].expand(-1, channels, -1, width))
    return images.gather(3, columns[:, None, None, :].expand(-1, channels, height, -1))


def random_flip(images: Tensor) -> Tensor:
    """Turn each picture left-right with a chance of one half. (N, C, H, W) -> (N, C, H, W)."""
    turned = torch.rand(len(images), device=images.device) < 0.5
    return torch.where(turned[:, None, None, None], images.flip(-1), images)


def _moved(n: int, side: int, part: float, device: torch.device) -> Tensor:
    reach = round(side * part)
    offset = torch.randint(-reach, reach + 1, (n, 1), device=device)
    return (torch.arange(side, device=device) + offset).clamp(0, side - 1)
