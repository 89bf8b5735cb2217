"""Top patches: the parts of a dataset's images that excite a filter most.

Source: M. Zeiler, R. Fergus, "Visualizing and Understanding Convolutional Networks", 2014, arXiv:1311.2901 (the
nine strongest responses of a filter, each with the part of the picture that causes it).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from lightning_modules.explain.activations import LayerActivation, record_responses
from lightning_modules.explain.instrumentation import IMAGES_PER_BATCH, InstrumentedModel
from lightning_modules.explain.orientation import measure_common_orientation
from lightning_modules.explain.receptive_field import Fields

NUM_PATCHES = 9
CONTEXT, CONTEXT_SHARE = 3, 0.25  # a tiny field is shown with its surroundings: so many times as wide, at most so
NUM_RANDOM_DRAWS = 200  # sets of nine images for the class share by chance
MAX_MEASURED_FILTERS = 32  # filters of a layer whose patches are measured


@dataclass(frozen=True)
class LayerResponses:
    """The strongest response of each filter of a layer to each image.

    Attributes:
        layer: the layer.
        maxima: float32 (N, filters).
        positions: int64 (N, filters, 2), row and column of the maximum on the map.
    """

    layer: LayerActivation
    maxima: np.ndarray
    positions: np.ndarray

    def find_top(self, number: int) -> np.ndarray:
        """Return the images that excite a filter most, at most nine, the strongest first; one patch an image."""
        return np.argsort(-self.maxima[:, number], kind="stable")[:NUM_PATCHES]

    def choose_filters(self, count: int) -> list[int]:
        """Return `count` filters whose response differs most from image to image, in increasing order."""
        order = np.argsort(-self.maxima.std(axis=0), kind="stable")
        return sorted(order[:count].tolist())


@dataclass(frozen=True)
class Patch:
    """A part of an image.

    Attributes:
        rows: the first pixel and the end.
        columns: likewise.
    """

    rows: tuple[int, int]
    columns: tuple[int, int]

    def cut(self, image: np.ndarray) -> np.ndarray:
        """Return the part of an image (H, W, ...)."""
        return image[self.rows[0] : self.rows[1], self.columns[0] : self.columns[1]]


@dataclass(frozen=True)
class PatchMetrics:
    """Measurements of the nine top patches of a layer's filters, each beside the same for nine drawn by chance.

    Attributes:
        num_filters: filters that were measured.
        orientation: mean over the filters of `measure_common_orientation`.
        random_orientation: of patches of the same size at random places of random images.
        class_share: mean over all filters of the share of the nine images that have their commonest class.
        random_class_share: of nine random images.
    """

    num_filters: int
    orientation: float
    random_orientation: float
    class_share: float
    random_class_share: float


@torch.no_grad()
def measure_responses(
    model: InstrumentedModel, images: np.ndarray, layers: Sequence[LayerActivation]
) -> list[LayerResponses]:
    """Run images, uint8 (N, H, W, C), through the network, and keep the maximum of each map of some layers."""
    maxima: dict[int, list[np.ndarray]] = {layer.number: [] for layer in layers}
    positions: dict[int, list[np.ndarray]] = {layer.number: [] for layer in layers}
    for start in range(0, len(images), IMAGES_PER_BATCH):
        x = model.preprocess(images[start : start + IMAGES_PER_BATCH])
        for number, maps in record_responses(model.network, x, list(maxima)).items():
            values, flat = maps.float().flatten(2).max(dim=2)  # (n, filters)
            maxima[number].append(values.numpy())
            positions[number].append(torch.stack([flat // maps.shape[3], flat % maps.shape[3]], dim=2).numpy())
    return [
        LayerResponses(layer, np.concatenate(maxima[layer.number]), np.concatenate(positions[layer.number]))
        for layer in layers
    ]


def find_field(fields: Fields, position: Sequence[int], image_shape: Sequence[int]) -> Patch:
    """Return the receptive field of a position of a map, within an image (H, W, ...)."""
    rows, columns = (
        field.pixels(int(place), size)
        for field, place, size in zip(fields, position, image_shape[:2], strict=True)
    )
    return Patch(rows, columns)


def add_context(patch: Patch, image_shape: Sequence[int]) -> Patch:
    """Return a square around a patch, within an image (H, W, ...); around a tiny one, with its surroundings."""
    sides = []
    field_px = max(end - first for first, end in (patch.rows, patch.columns))  # one at the edge is cut off
    for (first, end), size in zip((patch.rows, patch.columns), image_shape[:2], strict=True):
        wanted = max(field_px, min(CONTEXT * field_px, round(CONTEXT_SHARE * size)))
        start = min(max(0, first - (wanted - (end - first)) // 2), size - wanted)
        sides.append((start, start + wanted))
    return Patch(sides[0], sides[1])


def measure_layer(
    responses: LayerResponses, images: np.ndarray, labels: np.ndarray, num_classes: int, seed: int
) -> PatchMetrics:
    """Measure the top patches of a layer's filters.

    Args:
        responses: of the layer to the images.
        images: uint8 (N, H, W, C).
        labels: int (N,), or 0 and 1 (N, num_classes).
        num_classes: number of classes.
        seed: of the random patches and images.
    """
    draws = np.random.default_rng(seed)
    num_filters = responses.maxima.shape[1]
    has = labels > 0 if labels.ndim == 2 else np.eye(num_classes, dtype=bool)[labels]
    tops = [responses.find_top(number) for number in range(num_filters)]
    chosen = np.unique(np.linspace(0, num_filters - 1, min(num_filters, MAX_MEASURED_FILTERS)).round().astype(int))
    grey = images.mean(axis=3)
    found, by_chance = [], []
    for number in chosen.tolist() if responses.layer.fields else ():
        patches = [find_patch(responses, number, image, images.shape[1:]) for image in tops[number]]
        found.append([patch.cut(grey[i]) for patch, i in zip(patches, tops[number], strict=True)])
        by_chance.append([move_patch(patch, draws, images.shape[1:]).cut(draws.choice(grey)) for patch in patches])
    size = min(NUM_PATCHES, len(images))
    random_sets = [draws.choice(len(images), size, replace=False) for _ in range(NUM_RANDOM_DRAWS)]
    return PatchMetrics(
        num_filters=len(chosen),
        orientation=float(np.mean([measure_common_orientation(patches) for patches in found] or [0])),
        random_orientation=float(np.mean([measure_common_orientation(patches) for patches in by_chance] or [0])),
        class_share=float(np.mean([has[top].mean(axis=0).max() for top in tops])),
        random_class_share=float(np.mean([has[picked].mean(axis=0).max() for picked in random_sets])),
    )


def find_patch(responses: LayerResponses, number: int, image: int, image_shape: Sequence[int]) -> Patch:
    """Return the receptive field of a filter's strongest response to an image; without known fields, all of it."""
    fields = responses.layer.fields
    if fields is None:
        return Patch((0, image_shape[0]), (0, image_shape[1]))
    return find_field(fields, responses.positions[image, number], image_shape)


def move_patch(patch: Patch, draws: np.random.Generator, image_shape: Sequence[int]) -> Patch:
    """Return a patch of the same size at a random place of an image (H, W, ...)."""
    sides = [end - first for first, end in (patch.rows, patch.columns)]
    starts = [int(draws.integers(0, size - side + 1)) for side, size in zip(sides, image_shape[:2], strict=True)]
    return Patch((starts[0], starts[0] + sides[0]), (starts[1], starts[1] + sides[1]))
