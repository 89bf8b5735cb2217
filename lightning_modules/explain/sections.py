"""The sections of the explain page: images, numbers and captions for the template explain.html.

Everything is computed on the CPU; the same model and images give the same page.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from imageset.html.page import Figure
from imageset.store.reader import StoreSplit
from lightning_modules.calibration import thresholds
from lightning_modules.explain import activations, image_grids
from lightning_modules.explain.activation_maximization import maximize_activation, top_activations
from lightning_modules.explain.activations import ActivationTrace, LayerActivation
from lightning_modules.explain.attribution import (
    ShiftCurve,
    choose_shift_distances,
    grad_cam,
    measure_shift_curve,
    occlusion,
)
from lightning_modules.explain.instrumentation import IMAGES_PER_BATCH, InstrumentedModel
from lightning_modules.explain.params import NUM_SHIFTS, ComputeBudget

MIN_ASCENT_STEPS = 8  # fewer show noise
NUM_TOP_CLASSES = 5  # classes whose probabilities are shown
PATCH_PX = 8  # side of the patch that is shown as numbers
MAX_FIRST_FILTERS = 64
MAXIMIZED_PX = 96  # side of an image that excites a filter, on the page
POOLING_NAMES = {
    "max_pool2d": "maximum", "avg_pool2d": "average", "adaptive_avg_pool2d": "average",
    "adaptive_max_pool2d": "maximum",
}  # fmt: skip


@dataclass
class ExplainPage:
    """The page while it is put together.

    Attributes:
        sections: the values of each section, by its name in the template.
        files: the PNG files that are also written beside the page, by name.
        shift_curve: the curve of the section on translation, once it is measured.
    """

    sections: dict[str, Any] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    shift_curve: ShiftCurve | None = None

    def add_figure(self, name: str, png: bytes, caption: str, is_plot: bool = False) -> Figure:
        """Keep an image as a file and return it as a figure."""
        self.files[f"{name}.png"] = png
        return Figure(png, caption, is_plot)


def add_image_sections(
    page: ExplainPage,
    model: InstrumentedModel,
    image: np.ndarray,
    name: str,
    trace: ActivationTrace,
    budget: ComputeBudget,
) -> None:
    """Add the sections on one image, from its pixels to the places that decided the prediction."""
    page.sections |= {
        "pixels": describe_pixels(page, image, name),
        "first_filters": describe_first_filters(page, model),
        "feature_maps": describe_feature_maps(page, trace.activations, budget),
        "prediction": describe_prediction(model, image),
        "attribution": describe_attribution(page, model, image, trace, budget),
    }


def describe_pixels(page: ExplainPage, image: np.ndarray, name: str) -> dict[str, Any]:
    """Return the image, uint8 (H, W, C), and a patch of it as numbers."""
    height, width, channels = image.shape
    top, left = (max(0, side // 2 - PATCH_PX // 2) for side in (height, width))
    patch = np.rint(image[top : top + PATCH_PX, left : left + PATCH_PX].mean(axis=2)).astype(np.uint8)
    figure = page.add_figure("picture", image_grids.draw_image(image), f"{name}, {height} x {width} x {channels}")
    return {"height": height, "width": width, "channels": channels, "figure": figure, "patch": patch.tolist()}


def describe_first_filters(page: ExplainPage, model: InstrumentedModel) -> dict[str, Any]:
    """Return the filters of the first convolution."""
    filters = activations.read_first_filters(model.network)
    num, _, height, width = filters.shape
    shown = f"; the first {MAX_FIRST_FILTERS} are shown" if num > MAX_FIRST_FILTERS else ""
    caption = f"{num} filters of {height} x {width}, bright: positive, dark: negative{shown}"
    figure = page.add_figure("first_filters", image_grids.draw_filters(filters, MAX_FIRST_FILTERS), caption)
    return {"num": num, "height": height, "width": width, "figure": figure}


def describe_feature_maps(
    page: ExplainPage, layers: Sequence[LayerActivation], budget: ComputeBudget
) -> dict[str, Any]:
    """Return feature maps after each convolution, activation and pooling, with their sizes."""
    shown = activations.select_layers(layers, budget.layers)
    figures = [draw_layer(page, number, layer, budget.maps) for number, layer in enumerate(shown, 1)]
    return {"kinds": {layer.kind for layer in shown}, "layers": figures, "num_layers": len(layers)}


def draw_layer(page: ExplainPage, number: int, layer: LayerActivation, max_maps: int) -> tuple[str, Figure]:
    """Return a heading for a layer and the figure of its feature maps."""
    channels, height, width = layer.maps.shape
    maps = layer.maps.numpy()
    signed = layer.kind == "convolution" or bool((maps < 0).any())
    title = f"{number}. {describe_layer(layer)}: {channels} maps of {height} x {width}"
    scale = "grey is 0, bright above, dark below" if signed else "black is 0"
    shown = f"the first {max_maps} of {channels}; " if channels > max_maps else ""
    png = image_grids.draw_feature_maps(maps, max_maps, signed)
    return title, page.add_figure(f"layer_{number:02d}_{layer.kind}", png, shown + scale)


def describe_layer(layer: LayerActivation) -> str:
    """Return a layer's kind in plain words."""
    if layer.kind == "convolution":
        return "after convolution"
    if layer.kind == "activation":
        return "after ReLU (rectified)" if layer.function == "relu" else f"after activation ({layer.function})"
    return f"after pooling ({POOLING_NAMES.get(layer.function, layer.function)})"


def describe_prediction(model: InstrumentedModel, image: np.ndarray) -> dict[str, Any]:
    """Return the probabilities of the most likely classes."""
    probabilities = model.probabilities(image[None])[0]
    best = probabilities.argsort(kind="stable")[::-1][:NUM_TOP_CLASSES].tolist()
    names = [model.info.classes[i] for i in best]
    if model.info.thresholds is not None:
        predicted = thresholds.apply_thresholds(probabilities, model.info.thresholds)
        names = [
            f"{name} ({'' if predicted[i] else 'not '}predicted, threshold {model.info.thresholds[i]:.2f})"
            for i, name in zip(best, names, strict=True)
        ]
    shares = [(name, float(probabilities[i])) for i, name in zip(best, names, strict=True)]
    return {"multi_label": model.info.thresholds is not None, "shares": shares}


def describe_attribution(
    page: ExplainPage, model: InstrumentedModel, image: np.ndarray, trace: ActivationTrace, budget: ComputeBudget
) -> dict[str, Any]:
    """Return Grad-CAM and occlusion of one image."""
    x = model.preprocess(image[None])
    targets = model.choose_targets(model.probabilities(image[None])[0])
    figures = [Figure(image_grids.draw_image(image), "the picture")]
    convolutions = activations.find_convolutions(trace.activations)
    for number, target in enumerate(targets[:NUM_TOP_CLASSES] if convolutions else (), 1):
        heat = grad_cam(model.network, convolutions[-1], x, torch.tensor([target]))[0]
        file = f"grad_cam_{number}" if number > 1 else "grad_cam"
        caption = f"Grad-CAM: what spoke for {model.info.classes[target]}"
        figures.append(page.add_figure(file, image_grids.draw_heat_map(image, heat), caption))
    with torch.no_grad():
        loss = occlusion(model.predict_proba, x, targets[0], budget.windows, IMAGES_PER_BATCH)
    name = model.info.classes[targets[0]]
    caption = f"occlusion: yellow where hiding a patch costs {name} probability, blue where it adds some"
    figures.append(page.add_figure("occlusion", image_grids.draw_heat_map(image, loss), caption))
    return {"figures": figures, "max_loss": max(float(loss.max()), 0.0)}


def add_activation_maximization(
    page: ExplainPage, model: InstrumentedModel, trace: ActivationTrace, budget: ComputeBudget
) -> None:
    """Add images that excite filters of an early, a middle and a late convolution; none if they cost too much."""
    figures: list[Figure] = []
    page.sections["maximization"] = figures
    convolutions = activations.find_convolutions(trace.activations)
    if not convolutions or budget.steps < MIN_ASCENT_STEPS:
        return
    maps_by_module = {layer.module: layer.maps for layer in trace.activations}
    side = model.maximization_px()
    shape = (len(model.info.mean), side, side)
    positions = activations.pick_evenly(len(convolutions), min(3, len(convolutions)))
    for name, position in zip(("early", "middle", "late")[-len(positions) :], positions, strict=True):
        layer = convolutions[position]
        filters = top_activations(maps_by_module[layer], budget.filters)
        images = maximize_activation(
            model.network, layer, filters, shape, model.normalize, budget.steps, budget.seed
        )
        numbers = ", ".join(map(str, filters))
        caption = f"{name}: convolution {position + 1} of {len(convolutions)}, filters {numbers}"
        figures.append(page.add_figure(f"excites_{name}", image_grids.draw_images(images, MAXIMIZED_PX), caption))


def add_grad_cam_examples(
    page: ExplainPage,
    model: InstrumentedModel,
    trace: ActivationTrace,
    test: StoreSplit,
    chosen: dict[str, list[int]],
) -> None:
    """Add Grad-CAM of test images: `chosen` holds positions of the right and of the wrong predictions."""
    convolutions = activations.find_convolutions(trace.activations)
    if convolutions:
        page.sections["examples"] = {
            kind: draw_examples(page, model, convolutions[-1], test, kind, positions) if positions else []
            for kind, positions in chosen.items()
        }


def draw_examples(
    page: ExplainPage,
    model: InstrumentedModel,
    layer: torch.nn.Module,
    test: StoreSplit,
    kind: str,
    positions: list[int],
) -> list[Figure]:
    """Return Grad-CAM of test images at a convolution; `kind` is "right" or "wrong"."""
    images = test.read_batch(np.array(positions))
    probabilities = model.probabilities(images)
    targets = [
        choose_target_class(model, row, test, position)
        for row, position in zip(probabilities, positions, strict=True)
    ]
    heat = grad_cam(model.network, layer, model.preprocess(images), torch.tensor(targets))
    figures = []
    for i, (target, position) in enumerate(zip(targets, positions, strict=True)):
        caption = f"{model.info.classes[target]} {probabilities[i, target]:.2f}"
        if kind == "wrong":
            caption += f", is {test.rows['label'][position].as_py() or '(none)'}"
        png = image_grids.draw_heat_map(images[i], heat[i])
        figures.append(page.add_figure(f"grad_cam_{kind}_{i + 1}", png, caption))
    return figures


def choose_target_class(
    model: InstrumentedModel, probabilities: np.ndarray, test: StoreSplit, position: int
) -> int:
    """Return the class to attribute in a test image.

    That is the likeliest class. In a multi-label dataset it is the label whose wrong decision has the largest
    error, or, if all decisions are correct, the predicted label that is rarest in the test split.
    """
    if model.info.thresholds is None:
        return int(probabilities.argmax())
    actual = test.labels[position] > 0
    wrong = thresholds.apply_thresholds(probabilities, model.info.thresholds) != actual
    if wrong.any():
        return int((abs(probabilities - actual) * wrong).argmax())
    counts = test.labels.sum(axis=0, dtype=np.int64)
    return min(model.choose_targets(probabilities), key=lambda i: int(counts[i]))


def add_shift_curve(page: ExplainPage, model: InstrumentedModel, images: np.ndarray) -> None:
    """Add the curve of the probability over the distance by which images (N, H, W, C) are shifted."""
    curve = measure_shift_curve(
        model.probabilities, images, choose_shift_distances(model.spec.size, NUM_SHIFTS), model.info.thresholds
    )
    percent = [100 * distance / curve.side_px for distance in curve.distances_px]
    png = image_grids.plot_curve(percent, list(curve.probability), "moved by, % of the side", "probability")
    shown = "the picture" if len(images) == 1 else f"{len(images)} test pictures"
    caption = f"probability of the prediction for {shown}, unmoved"
    page.shift_curve = curve
    page.sections["shift"] = {
        "num_images": len(images), "kept_share": curve.kept_share, "near_px": curve.near_px,
        "figure": page.add_figure("shift", png, caption, is_plot=True),
    }  # fmt: skip
