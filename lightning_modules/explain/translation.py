"""Translation: how far images may move before a prediction changes, beside a network without convolution.

Source of the measure: R. Zhang, "Making Convolutional Networks Shift-Invariant Again", 2019, arXiv:1904.11486
(consistency: how often the prediction for the moved image is the same).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_modules.calibration import thresholds as calibration_thresholds

NEAR_SHARE = 0.1  # of the side: shifts up to this distance count for `consistency`
HIDDEN_UNITS, DENSE_SIDE_PX, DENSE_IMAGES = 128, 32, 1000  # of the fully connected network
DENSE_EPOCHS, DENSE_BATCH, DENSE_LR = 20, 50, 1e-3

Predict = Callable[[np.ndarray], np.ndarray]  # uint8 (N, H, W, C) -> probabilities (N, num_classes)


@dataclass(frozen=True)
class ShiftCurve:
    """Predictions by the distance that images are moved left, right, up and down.

    Attributes:
        distances_px: increasing, the first is 0.
        same: for each distance, the share of the predictions that are as for the unmoved image.
        accuracy: for each distance, the share of correct predictions; empty if no labels are known.
        probability: for each distance, the mean probability of the classes predicted for the unmoved image.
        side_px: of the images.
    """

    distances_px: tuple[int, ...]
    same: tuple[float, ...]
    accuracy: tuple[float, ...]
    probability: tuple[float, ...]
    side_px: int

    @property
    def consistency(self) -> float:
        """The share of the predictions that stay, over shifts of up to a tenth of the side."""
        return float(
            np.mean([s for d, s in zip(self.distances_px, self.same, strict=True) if 0 < d <= self.near_px])
        )

    @property
    def near_px(self) -> int:
        """A tenth of the side, at least one pixel."""
        return max(1, round(NEAR_SHARE * self.side_px))


def measure_shift_curve(
    predict: Predict,
    images: np.ndarray,
    distances_px: Sequence[int],
    labels: np.ndarray | None = None,
    thresholds: Sequence[float] | None = None,
) -> ShiftCurve:
    """Move images left, right, up and down, and compare the predictions with the unmoved ones and with the labels.

    Args:
        predict: returns probabilities.
        images: uint8 (N, H, W, C).
        distances_px: increasing, the first 0.
        labels: int (N,), or 0 and 1 (N, num_classes) for a multi-label model; None: not known.
        thresholds: of the labels of a multi-label model, whose prediction is a set of labels.
    """
    unmoved = predict(images)
    predicted = decide(unmoved, thresholds)
    followed = predicted if predicted.any() else unmoved == unmoved.max(axis=1, keepdims=True)
    actual = None if labels is None else to_decisions(labels, unmoved.shape[1])
    same, accuracy, probability = [], [], []
    for distance in distances_px:
        shifts = ((0, distance), (0, -distance), (distance, 0), (-distance, 0)) if distance else ()
        moved = [predict(shift_images(images, down, right)) for down, right in shifts] or [unmoved]
        decided = [decide(of_shift, thresholds) for of_shift in moved]
        same.append(float(np.mean([(d == predicted).all(axis=1) for d in decided])))
        if actual is not None:
            accuracy.append(float(np.mean([(d == actual).all(axis=1) for d in decided])))
        probability.append(float(np.mean([of_shift[followed].mean() for of_shift in moved])))
    return ShiftCurve(tuple(distances_px), tuple(same), tuple(accuracy), tuple(probability), images.shape[1])


def decide(probabilities: np.ndarray, thresholds: Sequence[float] | None) -> np.ndarray:
    """Return the predicted classes, bool (N, num_classes): one of each row, or all that reach their threshold."""
    if thresholds is None:
        return to_decisions(probabilities.argmax(axis=1), probabilities.shape[1])
    return calibration_thresholds.apply_thresholds(probabilities, thresholds)


def to_decisions(labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Return labels, int (N,) or 0 and 1 (N, num_classes), as bool (N, num_classes)."""
    return labels > 0 if labels.ndim == 2 else np.eye(num_classes, dtype=bool)[labels]


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


class DenseNetwork(nn.Module):
    """A fully connected network with one hidden layer on images of at most 32 px: no convolution, no pooling.

    Every pixel has weights of its own, so the same thing elsewhere is something else to it.

    Args:
        image_shape: (H, W, C).
        num_classes: number of logits.
    """

    def __init__(self, image_shape: Sequence[int], num_classes: int) -> None:
        super().__init__()
        self.side_px = min(DENSE_SIDE_PX, image_shape[0])
        self.hidden = nn.Linear(self.side_px**2 * image_shape[2], HIDDEN_UNITS)
        self.head = nn.Linear(HIDDEN_UNITS, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (N, num_classes) of images, float (N, C, side_px, side_px) of -1..1."""
        return self.head(torch.relu(self.hidden(x.flatten(1))))

    def shrink(self, images: np.ndarray) -> Tensor:
        """Return images, uint8 (N, H, W, C), as its input."""
        x = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float() / 127.5 - 1
        if x.shape[-1] == self.side_px:
            return x
        return F.interpolate(x, size=(self.side_px, self.side_px), mode="bilinear", antialias=True)

    @torch.no_grad()
    def predict(self, images: np.ndarray) -> np.ndarray:
        """Return the sigmoid of the logits, float32 (N, num_classes), of images, uint8 (N, H, W, C)."""
        scores: np.ndarray = torch.sigmoid(self(self.shrink(images))).numpy()
        return scores


def train_dense_network(images: np.ndarray, labels: np.ndarray, num_classes: int, seed: int) -> DenseNetwork:
    """Train the fully connected network, on images that are moved by up to a tenth of the side.

    Args:
        images: uint8 (N, H, W, C).
        labels: int (N,), or 0 and 1 (N, num_classes).
        num_classes: number of classes.
        seed: of the weights, the order and the shifts.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = DenseNetwork(images.shape[1:], num_classes)
        small = network.shrink(images)
        pixels = ((small.permute(0, 2, 3, 1) + 1) * 127.5).round().to(torch.uint8).numpy()
        draws = np.random.default_rng(seed)
        optimizer = torch.optim.AdamW(network.parameters(), lr=DENSE_LR, weight_decay=0.05)
        reach = max(1, round(NEAR_SHARE * network.side_px))
        targets = torch.from_numpy(to_decisions(labels, num_classes).astype(np.float32))
        for _ in range(DENSE_EPOCHS):
            for chosen in np.array_split(draws.permutation(len(images)), -(-len(images) // DENSE_BATCH)):
                down, right = draws.integers(-reach, reach + 1, 2).tolist()
                logits = network(network.shrink(shift_images(pixels[chosen], down, right)))
                loss = compute_dense_loss(logits, targets[chosen], is_multi_label=labels.ndim == 2)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
    return network.eval()


def compute_dense_loss(logits: Tensor, targets: Tensor, is_multi_label: bool) -> Tensor:
    """Return the mean cross entropy of logits (N, num_classes), targets likewise, 0 and 1."""
    if is_multi_label:
        return F.binary_cross_entropy_with_logits(logits, targets)
    return F.cross_entropy(logits, targets)
