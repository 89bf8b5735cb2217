"""Where in a picture an answer comes from, and how far the picture may move before it changes.

Sources: R. Selvaraju et al., "Grad-CAM", 2017, arXiv:1610.02391; M. Zeiler, R. Fergus, "Visualizing and
Understanding Convolutional Networks", 2014, arXiv:1311.2901 (occlusion); both as captum computes them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from lightning_modules.calibration import thresholds as calibration_thresholds

NEAR_SHARE = 0.1  # of the side: shifts up to here make the one number of translation


def grad_cam(network: nn.Module, layer: nn.Module, x: Tensor, targets: Tensor) -> np.ndarray:
    """What speaks for a class, seen from a convolution: float32 (N, H, W), 0..1, the largest of each picture 1.

    Args:
        network: gives logits (N, num_classes).
        layer: a convolution of it, usually the last.
        x: what the network sees, (N, C, H, W).
        targets: int64 (N,): the class that is asked about.
    """
    from captum.attr import LayerAttribution, LayerGradCam

    maps = LayerGradCam(network, layer).attribute(x, target=targets, relu_attributions=True)
    heat = LayerAttribution.interpolate(maps.detach(), tuple(x.shape[-2:]), "bilinear")[:, 0]
    return (heat / heat.amax(dim=(1, 2), keepdim=True).clamp(min=1e-12)).numpy()


def occlusion(
    probabilities: Callable[[Tensor], Tensor], x: Tensor, target: int, num_windows: int, batch_size: int
) -> np.ndarray:
    """How much of the probability is lost when a grey patch hides a place: float32 (H, W), mean over the patches.

    Args:
        probabilities: (N, C, H, W) -> (N, num_classes).
        x: one picture (1, C, H, W).
        target: the class.
        windows: patches along one side; each is twice as wide as its step.
        at_once: patches that go through the network together.
    """
    from captum.attr import Occlusion

    channels, height, width = x.shape[1:]
    steps = [max(1, -(-side // num_windows)) for side in (height, width)]
    sizes = [min(2 * step, side) for step, side in zip(steps, (height, width), strict=True)]
    lost = Occlusion(probabilities).attribute(
        x, (channels, *sizes), strides=(channels, *steps), baselines=0, target=target,
        perturbations_per_eval=batch_size,
    )  # fmt: skip
    result: np.ndarray = lost[0].mean(dim=0).detach().float().numpy()
    return result


@dataclass(frozen=True)
class ShiftCurve:
    """The mean probability of the class that was said first, by how far the pictures were moved."""

    distances_px: tuple[int, ...]
    probability: tuple[float, ...]
    side_px: int

    @property
    def kept_share(self) -> float:
        """Mean share of the probability that is kept over shifts of up to a tenth of the side."""
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
    """Move pictures left, right, up and down, and follow the probability of what was said of them unmoved: of the
    best class, or of each label from its threshold on.

    Args:
        probabilities: uint8 (N, H, W, C) -> (N, num_classes).
        images: uint8 (N, H, W, C).
        distances_px: increasing, the first 0.
        thresholds: of the labels, where a picture may bear several.
    """
    unmoved = probabilities(images)
    said = unmoved == unmoved.max(axis=1, keepdims=True)
    if thresholds is not None and calibration_thresholds.apply_thresholds(unmoved, thresholds).any():
        said = calibration_thresholds.apply_thresholds(unmoved, thresholds)
    means = [float(unmoved[said].mean())]
    for distance in distances_px[1:]:
        moved = [
            shift_images(images, *way) for way in ((0, distance), (0, -distance), (distance, 0), (-distance, 0))
        ]
        means.append(float(np.mean([probabilities(one)[said].mean() for one in moved])))
    return ShiftCurve(tuple(distances_px), tuple(means), images.shape[1])


def shift_images(images: np.ndarray, down: int, right: int) -> np.ndarray:
    """Pictures (N, H, W, C) moved by whole pixels; the edge is repeated, as in training."""
    height, width = images.shape[1:3]
    rows = (np.arange(height) - down).clip(0, height - 1)
    columns = (np.arange(width) - right).clip(0, width - 1)
    return images[:, rows][:, :, columns]


def choose_shift_distances(side_px: int, most: int) -> list[int]:
    """0 and up to `most` distances to a quarter of the side, with every pixel up to a tenth if there is room."""
    reach = max(1, round(side_px / 4))
    return sorted({0, *(round(reach * i / most) for i in range(1, most + 1)), max(1, round(NEAR_SHARE * side_px))})


def make_predict_proba(network: nn.Module, temperature: float, multi_label: bool) -> Callable[[Tensor], Tensor]:
    """(N, C, H, W) -> calibrated probabilities (N, num_classes), as a function of torch."""

    def probabilities(x: Tensor) -> Tensor:
        logits = network(x).float() / temperature
        return torch.sigmoid(logits) if multi_label else torch.softmax(logits, dim=1)

    return probabilities
