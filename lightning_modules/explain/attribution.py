"""Attribution: which places of an image decide a prediction, and how far the image may move before it changes.

Sources: R. Selvaraju et al., "Grad-CAM", 2017, arXiv:1610.02391; M. Zeiler, R. Fergus, "Visualizing and
Understanding Convolutional Networks", 2014, arXiv:1311.2901 (occlusion); both as captum computes them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from lightning_modules.calibration import thresholds as calibration_thresholds

NEAR_SHARE = 0.1  # of the side: shifts up to this distance count for `kept_share`


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


@dataclass(frozen=True)
class ShiftCurve:
    """The mean probability of the unmoved images' prediction, by the distance that the images are moved.

    Attributes:
        distances_px: increasing, the first is 0.
        probability: for each distance.
        side_px: of the images.
    """

    distances_px: tuple[int, ...]
    probability: tuple[float, ...]
    side_px: int

    @property
    def kept_share(self) -> float:
        """The mean share of the probability that is kept over shifts of up to a tenth of the side."""
        near = [p for d, p in zip(self.distances_px, self.probability, strict=True) if 0 < d <= self.near_px]
        return float(np.mean(near) / max(self.probability[0], 1e-12))

    @property
    def near_px(self) -> int:
        """A tenth of the side, at least one pixel."""
        return max(1, round(NEAR_SHARE * self.side_px))


def measure_shift_curve(
    probabilities: Callable[[np.ndarray], np.ndarray],
    images: np.ndarray,
    distances_px: Sequence[int],
    thresholds: Sequence[float] | None = None,
) -> ShiftCurve:
    """Move images left, right, up and down, and measure the probability of the prediction for the unmoved images.

    Args:
        probabilities: uint8 (N, H, W, C) -> (N, num_classes).
        images: uint8 (N, H, W, C).
        distances_px: increasing, the first 0.
        thresholds: of the labels, for a multi-label model: then all predicted labels are followed, else the
            likeliest class.
    """
    unmoved = probabilities(images)
    predicted = unmoved == unmoved.max(axis=1, keepdims=True)
    if thresholds is not None and calibration_thresholds.apply_thresholds(unmoved, thresholds).any():
        predicted = calibration_thresholds.apply_thresholds(unmoved, thresholds)
    means = [float(unmoved[predicted].mean())]
    for distance in distances_px[1:]:
        shifts = ((0, distance), (0, -distance), (distance, 0), (-distance, 0))
        moved = [probabilities(shift_images(images, down, right)) for down, right in shifts]
        means.append(float(np.mean([of_shift[predicted].mean() for of_shift in moved])))
    return ShiftCurve(tuple(distances_px), tuple(means), images.shape[1])


def shift_images(images: np.ndarray, down: int, right: int) -> np.ndarray:
    """Move images (N, H, W, C) by whole pixels; the edge is repeated, as in training."""
    height, width = images.shape[1:3]
    rows = (np.arange(height) - down).clip(0, height - 1)
    columns = (np.arange(width) - right).clip(0, width - 1)
    return images[:, rows][:, :, columns]


def choose_shift_distances(side_px: int, max_distances: int) -> list[int]:
    """Return 0 and distances up to a quarter of the side, in pixels.

    Args:
        side_px: of the images.
        max_distances: how many distances above 0 are spread evenly; a tenth of the side is always among them.
    """
    reach = max(1, round(side_px / 4))
    even = (round(reach * i / max_distances) for i in range(1, max_distances + 1))
    return sorted({0, *even, max(1, round(NEAR_SHARE * side_px))})


def make_predict_proba(
    compute_logits: Callable[[Tensor], Tensor], temperature: float, multi_label: bool
) -> Callable[[Tensor], Tensor]:
    """Return a differentiable function (N, C, H, W) -> calibrated probabilities (N, num_classes)."""

    def predict_proba(x: Tensor) -> Tensor:
        logits = compute_logits(x).float() / temperature
        return torch.sigmoid(logits) if multi_label else torch.softmax(logits, dim=1)

    return predict_proba
