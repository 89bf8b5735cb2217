"""The sections on filters: those of the first layer, and the patches and images that excite filters most."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from imageset.html.page import Figure
from lightning_modules.explain import activations
from lightning_modules.explain.activation_maximization import maximize_activation
from lightning_modules.explain.activations import ActivationTrace, LayerActivation
from lightning_modules.explain.instrumentation import InstrumentedModel
from lightning_modules.explain.orientation import measure_filter_orientation
from lightning_modules.explain.params import ComputeBudget
from lightning_modules.explain.sections import image_grids
from lightning_modules.explain.sections.page import ExplainPage
from lightning_modules.explain.top_patches import (
    LayerResponses,
    add_context,
    find_patch,
    measure_layer,
    measure_responses,
)

MIN_ASCENT_STEPS = 8  # fewer show noise
MAX_FIRST_FILTERS = 32
ORIENTED = 0.5  # orientation energy from which on a filter counts as one for edges
NUM_RANDOM_FILTERS = 1000
NUM_LAYERS = 3  # early, middle, late


def describe_first_filters(page: ExplainPage, trace: ActivationTrace, seed: int) -> dict[str, Any] | None:
    """Return the filters of the first convolution, those for edges first, and how many there are of them.

    Filters of random numbers are measured, too: a small one has some orientation by chance.
    """
    layer = next((layer for layer in trace.activations if layer.call is not None), None)
    if layer is None or layer.call is None or min(layer.call.weight.shape[2:]) < 2:
        return None
    filters = layer.call.weight.float().cpu().numpy()
    energy = measure_filter_orientation(filters)
    random = np.random.default_rng(seed).normal(size=(NUM_RANDOM_FILTERS, *filters.shape[1:]))
    order = np.argsort(-energy, kind="stable")[:MAX_FIRST_FILTERS]
    page.files["first_filters.png"] = image_grids.draw_filters(filters[order])
    num, channels, height, width = filters.shape
    return {
        "num": num, "height": height, "width": width, "channels": channels,
        "tiles": [Figure(image_grids.draw_filter(filters[i]), f"{energy[i]:.2f}") for i in order],
        "num_oriented": int((energy >= ORIENTED).sum()), "limit": ORIENTED,
        "random_share": float((measure_filter_orientation(random) >= ORIENTED).mean()),
    }  # fmt: skip


def describe_strongest(
    page: ExplainPage,
    model: InstrumentedModel,
    trace: ActivationTrace,
    images: np.ndarray,
    labels: np.ndarray,
    budget: ComputeBudget,
) -> list[dict[str, Any]]:
    """Return, for an early, a middle and a late layer, what excites its filters, and measurements of it.

    Args:
        page: receives the images as files.
        model: the model.
        trace: of one image.
        images: uint8 (N, H, W, C), among which the nine strongest patches of each filter are found.
        labels: int (N,), or 0 and 1 (N, num_classes).
        budget: how much is shown.
    """
    layers = activations.find_filter_layers(trace.activations, NUM_LAYERS)
    if not layers or not len(images):
        return []
    names = {1: ("only",), 2: ("early", "late")}.get(len(layers), ("early", "middle", "late"))
    every_layer = measure_responses(model, images, layers)
    return [
        describe_strongest_of_layer(page, model, name, responses, images, labels, budget)
        | {"place": find_place(trace, responses.layer)}
        for name, responses in zip(names, every_layer, strict=True)
    ]


def find_place(trace: ActivationTrace, layer: LayerActivation) -> tuple[int, int]:
    """Return which convolution comes before or is a layer, from 1 on, and the number of convolutions."""
    convolutions = [other.number for other in trace.activations if other.kind == "convolution"]
    return sum(number <= layer.number for number in convolutions), len(convolutions)


def describe_strongest_of_layer(
    page: ExplainPage,
    model: InstrumentedModel,
    name: str,
    responses: LayerResponses,
    images: np.ndarray,
    labels: np.ndarray,
    budget: ComputeBudget,
) -> dict[str, Any]:
    """Return what excites the filters of one layer."""
    filters = responses.choose_filters(budget.filters)
    maximized = maximize_filters(model, responses.layer, filters, budget)
    shown = []
    for position, number in enumerate(filters):
        tops = responses.find_top(number)
        png = image_grids.draw_patches([draw_patch(responses, number, image, images[image]) for image in tops])
        patches = page.add_figure(f"patches_{name}_{number}", png, f"{len(tops)} strongest patches")
        figure = None
        if maximized is not None:
            made = image_grids.draw_image(maximized[position])
            figure = page.add_figure(f"excites_{name}_{number}", made, "gradient ascent")
        shown.append({
            "number": number, "patches": patches, "maximized": figure,
            "classes": name_classes(labels[tops], model.info.classes),
        })  # fmt: skip
    fields = responses.layer.fields
    metrics = measure_layer(responses, images, labels, len(model.info.classes), budget.seed)
    return {
        "name": name, "filters": shown, "metrics": metrics,
        "num_filters": responses.maxima.shape[1],
        "field_px": None if fields is None else fields[1].size,
        "sees_all": fields is not None and fields[1].covers(images.shape[2]),
    }  # fmt: skip


def maximize_filters(
    model: InstrumentedModel, layer: LayerActivation, filters: list[int], budget: ComputeBudget
) -> np.ndarray | None:
    """Return an image for each filter that excites it, uint8 (n, H, W, C); None if the budget is too small."""
    if budget.steps < MIN_ASCENT_STEPS:
        return None
    side = model.maximization_px()
    shape = (len(model.info.mean), side, side)
    return maximize_activation(
        model.network, layer.number, filters, shape, model.normalize, budget.steps, budget.seed
    )


def draw_patch(responses: LayerResponses, number: int, image_number: int, image: np.ndarray) -> np.ndarray:
    """Return the patch of an image that excites a filter, uint8 RGB.

    A tiny one has a frame and its surroundings. Where the receptive field is the whole image, a cross marks the
    middle of the field with the strongest response.
    """
    field = find_patch(responses, number, image_number, image.shape)
    shown = add_context(field, image.shape)
    marks = responses.layer.fields is not None and responses.layer.fields[1].covers(image.shape[1])
    if not marks:
        return image_grids.frame_part(shown.cut(image), field, shown)
    centre = [
        field.start + place * field.step + field.size / 2
        for field, place in zip(
            responses.layer.fields or (), responses.positions[image_number, number], strict=True
        )
    ]
    return image_grids.mark_place(image, centre)


def name_classes(labels: np.ndarray, classes: Sequence[str]) -> str:
    """Return the classes of images with their counts, the commonest first: `ants: 7, bees: 2`.

    Args:
        labels: int (n,), or 0 and 1 (n, num_classes).
        classes: names.
    """
    counts = labels.sum(axis=0) if labels.ndim == 2 else np.bincount(labels, minlength=len(classes))
    order = np.argsort(-counts, kind="stable")[:3]
    return ", ".join(f"{classes[i]}: {int(counts[i])}" for i in order if counts[i])
