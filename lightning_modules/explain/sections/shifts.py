"""The section on translation: predictions for moved images, beside those of a fully connected network."""

from __future__ import annotations

from typing import Any

import numpy as np

from lightning_modules.explain.instrumentation import InstrumentedModel
from lightning_modules.explain.params import NUM_SHIFTS
from lightning_modules.explain.sections import image_grids
from lightning_modules.explain.sections.page import ExplainPage
from lightning_modules.explain.translation import (
    HIDDEN_UNITS,
    ShiftCurve,
    choose_shift_distances,
    measure_shift_curve,
    train_dense_network,
)

LabelledImages = tuple[np.ndarray, np.ndarray]  # uint8 (N, H, W, C) and int (N,), or 0 and 1 (N, num_classes)


def describe_shifts(
    page: ExplainPage, model: InstrumentedModel, images: np.ndarray, labels: np.ndarray | None = None
) -> tuple[dict[str, Any], ShiftCurve]:
    """Return the section and the curve of predictions over the distance that images are moved.

    Args:
        page: receives the plot.
        model: the model.
        images: uint8 (N, H, W, C).
        labels: int (N,), or 0 and 1 (N, num_classes); None: not known.
    """
    distances = choose_shift_distances(model.spec.size, NUM_SHIFTS)
    curve = measure_shift_curve(model.probabilities, images, distances, labels, model.info.thresholds)
    section = {
        "num_images": len(images), "consistency": curve.consistency, "near_px": curve.near_px,
        "probability": list(zip(curve.distances_px, curve.probability, strict=True)),
        "accuracy": list(curve.accuracy), "dense": None,
    }  # fmt: skip
    if labels is None:
        section["figure"] = plot_shifts(page, {"probability of the prediction": curve.probability}, curve)
    else:
        section["figure"] = plot_shifts(page, {"this network": curve.accuracy}, curve)
    return section, curve


def add_dense_network(
    page: ExplainPage,
    section: dict[str, Any],
    curve: ShiftCurve,
    model: InstrumentedModel,
    test: LabelledImages,
    train: LabelledImages,
    seed: int,
) -> ShiftCurve:
    """Train a fully connected network, and add its accuracy for the same moved images to the section."""
    num_classes = len(model.info.classes)
    network = train_dense_network(*train, num_classes, seed)
    thresholds = None if model.info.thresholds is None else [0.5] * num_classes
    dense = measure_shift_curve(network.predict, test[0], curve.distances_px, test[1], thresholds)
    names = {"this network": curve.accuracy, "fully connected": dense.accuracy}
    section["figure"] = plot_shifts(page, names, curve)
    section["dense"] = {
        "accuracy": list(dense.accuracy), "num_train": len(train[0]), "hidden": HIDDEN_UNITS,
        "side_px": network.side_px, "num_weights": sum(p.numel() for p in network.parameters()),
    }  # fmt: skip
    return dense


def plot_shifts(page: ExplainPage, curves: dict[str, tuple[float, ...]], curve: ShiftCurve) -> Any:
    """Return the plot of curves of values of 0..1 over the distance in percent of the side."""
    percent = [100 * distance / curve.side_px for distance in curve.distances_px]
    is_accuracy = len(curves) > 1 or bool(curve.accuracy)
    png = image_grids.plot_curves(
        {name: (percent, list(values)) for name, values in curves.items()},
        "moved by, % of the side", "accuracy" if is_accuracy else "probability",
    )  # fmt: skip
    caption = "accuracy" if is_accuracy else "probability of the prediction for the unmoved picture"
    return page.add_figure("shift", png, f"{caption}, by the distance that the pictures are moved", is_plot=True)
