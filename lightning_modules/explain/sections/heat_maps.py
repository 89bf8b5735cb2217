"""The sections on places that decide a prediction: Grad-CAM and occlusion, of one picture and of several."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from imageset.html.images import encode_compact
from imageset.html.page import Figure
from imageset.store.reader import StoreSplit
from lightning_modules.calibration import thresholds
from lightning_modules.explain import activations
from lightning_modules.explain.activations import ActivationTrace
from lightning_modules.explain.attribution import grad_cam, occlusion
from lightning_modules.explain.instrumentation import IMAGES_PER_BATCH, InstrumentedModel
from lightning_modules.explain.params import ComputeBudget
from lightning_modules.explain.sections import image_grids
from lightning_modules.explain.sections.page import ExplainPage
from lightning_modules.explain.sections.prediction import NUM_TOP_CLASSES


def describe_attribution(
    page: ExplainPage, model: InstrumentedModel, image: np.ndarray, trace: ActivationTrace, budget: ComputeBudget
) -> dict[str, Any]:
    """Return Grad-CAM and occlusion of one image."""
    x = model.preprocess(image[None])
    targets = model.choose_targets(model.probabilities(image[None])[0])
    figures = [Figure(encode_compact(image_grids.draw_image(image)), "the picture")]
    convolutions = activations.find_convolutions(trace.activations)
    for number, target in enumerate(targets[:NUM_TOP_CLASSES] if convolutions else (), 1):
        heat = grad_cam(model.network, convolutions[-1], x, torch.tensor([target]))[0]
        file = f"grad_cam_{number}" if number > 1 else "grad_cam"
        caption = f"Grad-CAM: places that speak for {model.info.classes[target]}"
        figures.append(page.add_figure(file, image_grids.draw_heat_map(image, heat), caption))
    loss = compute_occlusion(model, image, targets[0], budget.windows)
    name = model.info.classes[targets[0]]
    caption = f"occlusion: probability of {name} that is lost when the place is hidden"
    figures.append(page.add_figure("occlusion", image_grids.draw_heat_map(image, loss), caption))
    return {
        "figures": figures, "max_loss": max(float(loss.max()), 0.0), "max_gain": max(float(-loss.min()), 0.0),
        "name": name, "scale": image_grids.draw_heat_scale(), "has_grad_cam": bool(convolutions),
    }  # fmt: skip


@torch.no_grad()
def compute_occlusion(model: InstrumentedModel, image: np.ndarray, target: int, num_windows: int) -> np.ndarray:
    """Return the loss of a class's probability at each place of an image: uint8 (H, W, C) -> float32 (H, W)."""
    return occlusion(model.predict_proba, model.preprocess(image[None]), target, num_windows, IMAGES_PER_BATCH)


def describe_examples(
    page: ExplainPage,
    model: InstrumentedModel,
    trace: ActivationTrace,
    test: StoreSplit,
    chosen: dict[str, list[int]],
    budget: ComputeBudget,
) -> dict[str, list[dict[str, Any]]] | None:
    """Return heat maps of test images: `chosen` holds positions of the right and of the wrong predictions.

    Returns:
        For each kind of prediction its images; None for a network without a convolution.
    """
    convolutions = activations.find_convolutions(trace.activations)
    if not convolutions or not budget.answers:
        return None
    return {
        kind: draw_examples(page, model, convolutions[-1], test, kind, positions, budget) if positions else []
        for kind, positions in chosen.items()
    }


def draw_examples(
    page: ExplainPage,
    model: InstrumentedModel,
    layer: torch.nn.Module,
    test: StoreSplit,
    kind: str,
    positions: list[int],
    budget: ComputeBudget,
) -> list[dict[str, Any]]:
    """Return the picture, Grad-CAM at a convolution and occlusion of test images; `kind` is "right" or "wrong"."""
    images = test.read_batch(np.array(positions))
    probabilities = model.probabilities(images)
    targets = [
        choose_target_class(model, row, test, position)
        for row, position in zip(probabilities, positions, strict=True)
    ]
    heat = grad_cam(model.network, layer, model.preprocess(images), torch.tensor(targets))
    examples = []
    for i, (target, position) in enumerate(zip(targets, positions, strict=True)):
        loss = compute_occlusion(model, images[i], target, budget.example_windows)
        cam = image_grids.draw_heat_map(images[i], heat[i])
        hidden = image_grids.draw_heat_map(images[i], loss)
        examples.append({
            "name": model.info.classes[target], "probability": float(probabilities[i, target]),
            "actual": test.rows["label"][position].as_py() or "(none)",
            "figures": [
                Figure(encode_compact(image_grids.draw_image(images[i])), "picture"),
                page.add_figure(f"grad_cam_{kind}_{i + 1}", cam, "Grad-CAM"),
                page.add_figure(f"occlusion_{kind}_{i + 1}", hidden, f"occlusion, up to {max(loss.max(), 0):.2f}"),
            ],
        })  # fmt: skip
    return examples


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
