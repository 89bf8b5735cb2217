"""What a filter looks for: a picture that is changed, step by step, until the filter answers strongly.

Source: D. Erhan, Y. Bengio, A. Courville, P. Vincent, "Visualizing Higher-Layer Features of a Deep Network", 2009
(activation maximisation); C. Olah, A. Mordvintsev, L. Schubert, "Feature Visualization", Distill 2017 (jitter and
smoothed gradients keep it from ending in noise).
"""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

STEP_SIZE, JITTER = 0.15, 1 / 16  # of a pixel's range, roughly; part of the side


class _LayerReached(Exception):
    """The layer has answered; what comes after it need not run."""


def maximize_activation(
    network: nn.Module, layer: nn.Module, filters: list[int], shape: tuple[int, int, int], normalize: Any,
    steps: int, seed: int,
) -> np.ndarray:  # fmt: skip
    """A picture for each filter that excites it most, uint8 (len(filters), H, W, C).

    Args:
        network: in evaluation mode.
        layer: a convolution of it.
        filters: numbers of its output channels.
        shape: (C, H, W) of the pictures.
        normalize: has `mean` and `std` (1, C, 1, 1), in units of 0..1.
        steps: of gradient ascent.
        seed: of the grey noise that it starts from, and of the jitter.
    """
    draws = torch.Generator().manual_seed(seed)
    free = 0.1 * torch.randn((1, *shape), generator=draws)
    free = free.repeat(len(filters), 1, 1, 1).requires_grad_()  # through a sigmoid: always a picture
    places = torch.arange(len(filters))
    for step in range(steps):
        x = (torch.sigmoid(free) - normalize.mean) / normalize.std
        answer = _forward_to_layer(network, layer, _jitter(x, draws))[places, filters]  # (len(filters), h, w)
        if step == 0:
            usual = answer.detach().std(dim=(1, 2), keepdim=True).clamp(min=1e-6)
        strength = F.softplus(answer / usual).square().mean(dim=(1, 2))  # few strong answers beat many weak ones
        (gradient,) = torch.autograd.grad(strength.sum(), free)
        way = _blur(gradient)
        free.data += STEP_SIZE * way / way.std(dim=(1, 2, 3), keepdim=True).clamp(min=1e-12)
        free.data -= free.data.mean(dim=(2, 3), keepdim=True)  # as much light as dark: a pattern, not brightness
    pixels = torch.sigmoid(free).detach().permute(0, 2, 3, 1)
    return (pixels * 255).round().to(torch.uint8).numpy()


def top_activations(maps: Tensor, count: int) -> list[int]:
    """Which filters of a layer tell most in a picture: numbers of the channels of (C, H, W) that vary most."""
    order = torch.argsort(maps.std(dim=(1, 2)), descending=True, stable=True)
    return sorted(order[:count].tolist())


def _forward_to_layer(network: nn.Module, layer: nn.Module, x: Tensor) -> Tensor:
    caught: list[Tensor] = []

    def catch(module: nn.Module, inputs: Any, output: Tensor) -> None:
        caught.append(output)
        raise _LayerReached

    handle = layer.register_forward_hook(catch)
    try:
        network(x)
    except _LayerReached:
        pass
    finally:
        handle.remove()
    return caught[0]


def _jitter(x: Tensor, draws: torch.Generator) -> Tensor:
    reach = max(1, round(x.shape[-1] * JITTER))
    down, right = torch.randint(-reach, reach + 1, (2,), generator=draws).tolist()
    return x.roll((down, right), dims=(2, 3))


def _blur(x: Tensor) -> Tensor:
    """Each pixel averaged with its neighbours: what changes from pixel to pixel is mostly noise."""
    return F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
