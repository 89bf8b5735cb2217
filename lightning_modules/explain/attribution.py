"""Attribution: which places of an image decide a prediction.

Sources: R. Selvaraju et al., "Grad-CAM", 2017, arXiv:1610.02391; M. Zeiler, R. Fergus, "Visualizing and
Understanding Convolutional Networks", 2014, arXiv:1311.2901 (occlusion); both as captum computes them.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn


def grad_cam(network: nn.Module, layer: nn.Module, x: Tensor, targets: Tensor) -> np.ndarray:
    """Compute Grad-CAM: the evidence for a class at each place, seen from a convolution.

    Args:
        network: gives logits (N, num_classes).
        layer: a convolution of the network, usually the last.
        x: the network's input, (N, C, H, W).
        targets: int64 (N,), the class to attribute in each image.

    Returns:
        float32 (N, H, W) of 0..1; the largest value of each image is 1.
    """
    from captum.attr import LayerAttribution, LayerGradCam

    maps = LayerGradCam(network, layer).attribute(x, target=targets, relu_attributions=True)
    heat = LayerAttribution.interpolate(maps.detach(), tuple(x.shape[-2:]), "bilinear")[:, 0]
    return (heat / heat.amax(dim=(1, 2), keepdim=True).clamp(min=1e-12)).numpy()


def occlusion(
    probabilities: Callable[[Tensor], Tensor], x: Tensor, target: int, num_windows: int, batch_size: int
) -> np.ndarray:
    """Compute how much probability a class loses when a grey patch hides a place.

    Args:
        probabilities: (N, C, H, W) -> (N, num_classes).
        x: one image (1, C, H, W).
        target: the class.
        num_windows: patches along one side; each patch is twice as wide as its step.
        batch_size: patches that go through the network together.

    Returns:
        float32 (H, W): the mean loss over the patches that cover each place.
    """
    from captum.attr import Occlusion

    channels, height, width = x.shape[1:]
    steps = [max(1, -(-side // num_windows)) for side in (height, width)]
    sizes = [min(2 * step, side) for step, side in zip(steps, (height, width), strict=True)]
    loss = Occlusion(probabilities).attribute(
        x, (channels, *sizes), strides=(channels, *steps), baselines=0, target=target,
        perturbations_per_eval=batch_size,
    )  # fmt: skip
    result: np.ndarray = loss[0].mean(dim=0).detach().float().numpy()
    return result


def make_predict_proba(
    compute_logits: Callable[[Tensor], Tensor], temperature: float, multi_label: bool
) -> Callable[[Tensor], Tensor]:
    """Return a differentiable function (N, C, H, W) -> calibrated probabilities (N, num_classes)."""

    def predict_proba(x: Tensor) -> Tensor:
        logits = compute_logits(x).float() / temperature
        return torch.sigmoid(logits) if multi_label else torch.softmax(logits, dim=1)

    return predict_proba
