"""Activation maximization: images that are changed step by step until a filter responds strongly.

Source: D. Erhan, Y. Bengio, A. Courville, P. Vincent, "Visualizing Higher-Layer Features of a Deep Network", 2009
(activation maximisation); C. Olah, A. Mordvintsev, L. Schubert, "Feature Visualization", Distill 2017 (jitter and
smoothed gradients keep the image from ending in noise).
"""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_modules.explain.activations import record_responses

STEP_SIZE, JITTER = 0.15, 1 / 16  # of a pixel's range, roughly; share of the side


def maximize_activation(
    network: nn.Module, layer_number: int, filters: list[int], shape: tuple[int, int, int], normalize: Any,
    steps: int, seed: int,
) -> np.ndarray:  # fmt: skip
    """Make an image for each filter that excites it most.

    Args:
        network: in evaluation mode.
        layer_number: of the layer, see `LayerActivation.number`.
        filters: numbers of its output channels.
        shape: (C, H, W) of the images.
        normalize: has `mean` and `std` (1, C, 1, 1), in units of 0..1.
        steps: of gradient ascent.
        seed: of the grey noise that the images start from, and of the jitter.

    Returns:
        uint8 (len(filters), H, W, C).
    """
    generator = torch.Generator().manual_seed(seed)
    free = 0.1 * torch.randn((1, *shape), generator=generator)
    free = free.repeat(len(filters), 1, 1, 1).requires_grad_()  # through a sigmoid: always an image
    rows = torch.arange(len(filters))
    for step in range(steps):
        x = (torch.sigmoid(free) - normalize.mean) / normalize.std
        responses = record_responses(network, _jitter(x, generator), [layer_number])[layer_number]
        response = responses[rows, filters]  # (len(filters), h, w)
        if step == 0:
            usual = response.detach().std(dim=(1, 2), keepdim=True).clamp(min=1e-6)
        # The square makes a few strong responses count for more than many weak ones.
        strength = F.softplus(response / usual).square().mean(dim=(1, 2))
        (gradient,) = torch.autograd.grad(strength.sum(), free)
        direction = _blur(gradient)
        free.data += STEP_SIZE * direction / direction.std(dim=(1, 2, 3), keepdim=True).clamp(min=1e-12)
        free.data -= free.data.mean(dim=(2, 3), keepdim=True)  # as much light as dark: a pattern, not brightness
    pixels = torch.sigmoid(free).detach().permute(0, 2, 3, 1)
    return (pixels * 255).round().to(torch.uint8).numpy()


def _jitter(x: Tensor, generator: torch.Generator) -> Tensor:
    reach = max(1, round(x.shape[-1] * JITTER))
    down, right = torch.randint(-reach, reach + 1, (2,), generator=generator).tolist()
    return x.roll((down, right), dims=(2, 3))


def _blur(x: Tensor) -> Tensor:
    """Average each pixel with its neighbours: differences from pixel to pixel are mostly noise."""
    return F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
