"""The sections on a network's layers: their sizes and weights, their feature maps, ReLU and pooling in numbers."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import nn

from imageset.exceptions import UserError
from imageset.html.page import Figure
from lightning_modules.explain import activations
from lightning_modules.explain.activations import ActivationTrace, LayerActivation
from lightning_modules.explain.instrumentation import InstrumentedModel
from lightning_modules.explain.params import ComputeBudget
from lightning_modules.explain.sections import image_grids
from lightning_modules.explain.sections.page import ExplainPage

MAX_TABLE_ROWS = 12
EXAMPLE_SIDE = 4  # of the grids before and after ReLU
POOLING_NAMES = {
    "max_pool2d": "maximum", "avg_pool2d": "average", "adaptive_avg_pool2d": "average",
    "adaptive_max_pool2d": "maximum",
}  # fmt: skip
FUNCTION_NAMES = {"relu": "ReLU", "hardtanh": "ReLU6", "relu6": "ReLU6", "silu": "SiLU", "gelu": "GELU"}


def describe_network(model: InstrumentedModel, image: np.ndarray, trace: ActivationTrace) -> dict[str, Any]:
    """Return the table of the layers with windows, the number of weights, and whether a larger picture fits."""
    layers = [layer for layer in trace.activations if layer.kind != "activation"]
    shown = layers
    if len(layers) > MAX_TABLE_ROWS:
        shown = [layers[i] for i in activations.pick_evenly(len(layers), MAX_TABLE_ROWS)]
    numbers = {id(layer): number for number, layer in enumerate(layers, 1)}
    first = next((layer for layer in trace.activations if layer.kind == "convolution"), None)
    windows = [layer.windows[0] for layer in layers if layer.kind == "convolution" and layer.windows]
    num_pixels, num_outputs = image.size, first.maps.numel() if first else 0
    return {
        "rows": [describe_row(numbers[id(layer)], layer) for layer in shown],
        "num_layers": len(layers),
        "linear": [{"inputs": i, "outputs": o, "num_weights": o * i + o} for o, i in trace.linear_shapes][-3:],
        "weights": count_weights(model.network),
        "accepts_larger": accepts_larger_images(model, image),
        "first_weights": first.call.num_weights if first and first.call else None,
        "dense_weights": num_pixels * num_outputs,
        "num_pixels": num_pixels, "num_outputs": num_outputs,
        "num_pooled": int(trace.linear_shapes[-1][1]) if trace.linear_shapes else 0,
        "pools_to_one": trace.pools_to_one,
        "num_strided": sum(window.stride > 1 for window in windows),
        "num_padded": sum(window.padding > 0 for window in windows) + sum(any(layer.zeros) for layer in layers),
        "num_pooling": sum(layer.kind == "pooling" for layer in layers),
        "has_depthwise": any(layer.call is not None and layer.call.groups > 1 for layer in layers),
        "side_px": model.spec.size,
    }  # fmt: skip


def describe_row(number: int, layer: LayerActivation) -> dict[str, Any]:
    """Return the row of a convolution or a pooling."""
    windows, call = layer.windows, layer.call
    channels, height, width = layer.maps.shape
    name = layer.kind if layer.kind == "convolution" else f"pooling, {describe_pooling(layer)}"
    is_depthwise = call is not None and call.groups > 1
    field = layer.fields[1].size if layer.fields else None
    return {
        "number": number,
        "name": f"{name}, depthwise" if is_depthwise else name,
        "window": f"{windows[0].kernel} x {windows[1].kernel}" if windows else "",
        "stride": str(windows[1].stride) if windows else "",
        "padding": describe_zeros(layer),
        "output": f"{channels} x {height} x {width}",
        "num_weights": call.num_weights if call else (0 if layer.kind == "pooling" else None),
        "sees": f"{field:.4g} px" if field else "",
    }


def describe_zeros(layer: LayerActivation) -> str:
    """Return how many zeros are added on each side of a row; `0 + 1` if not as many after it as before."""
    if layer.windows is None:
        return ""
    before, after = (layer.windows[1].padding + added for added in layer.zeros)
    return str(before) if before == after else f"{before} + {after}"


def count_weights(network: nn.Module) -> dict[str, int]:
    """Return the number of weights of convolutions, of fully connected layers, of the rest and of all."""

    def count(kind: type[nn.Module]) -> int:
        parameters = {p for m in network.modules() if isinstance(m, kind) for p in m.parameters(recurse=False)}
        return sum(p.numel() for p in parameters)

    total = sum(parameter.numel() for parameter in network.parameters())
    convolutions, linear = count(nn.Conv2d), count(nn.Linear)
    return {"convolutions": convolutions, "linear": linear, "rest": total - convolutions - linear, "total": total}


@torch.no_grad()
def accepts_larger_images(model: InstrumentedModel, image: np.ndarray) -> bool:
    """Return whether the network runs, as it is, on a picture of twice the width and height."""
    height, width, channels = image.shape
    try:
        model.network(torch.zeros(1, channels, 2 * height, 2 * width))
    except (UserError, RuntimeError, AssertionError, ValueError):
        return False
    return True


def describe_feature_maps(
    page: ExplainPage, layers: Sequence[LayerActivation], budget: ComputeBudget
) -> dict[str, Any]:
    """Return feature maps after each convolution, activation and pooling, with their sizes."""
    shown = activations.select_layers(layers, budget.layers)
    drawn = [draw_layer(page, number, layer, budget.maps) for number, layer in enumerate(shown, 1)]
    return {
        "kinds": {layer.kind for layer in shown}, "layers": drawn, "num_layers": len(layers),
        "rectified": describe_rectified(layers), "pooled": describe_pooled(layers),
    }  # fmt: skip


def draw_layer(page: ExplainPage, number: int, layer: LayerActivation, max_maps: int) -> dict[str, Any]:
    """Return a heading for a layer, and the maps that vary most as tiles, each with the range of its colours."""
    channels, height, width = layer.maps.shape
    chosen = choose_maps(layer.maps.numpy(), max_maps)
    tiles = []
    for index in chosen:
        pixels, (low, high) = image_grids.scale_map(layer.maps[index].numpy())
        tiles.append(
            Figure(image_grids.draw_map(pixels), f"{low:.2g} to {high:.2g}" if high > low else f"{low:.2g}")
        )
    page.files[f"layer_{number:02d}_{layer.kind}.png"] = image_grids.draw_feature_maps(layer.maps[chosen].numpy())
    return {
        "title": f"{number}. {describe_layer(layer)}: {channels} maps of {height} x {width}",
        "tiles": tiles, "num_maps": channels,
    }  # fmt: skip


def choose_maps(maps: np.ndarray, count: int) -> list[int]:
    """Return the numbers of the `count` maps of (C, H, W) that vary most, in increasing order."""
    return sorted(np.argsort(-maps.std(axis=(1, 2)), kind="stable")[:count].tolist())


def describe_layer(layer: LayerActivation) -> str:
    """Return a layer's kind in plain words."""
    if layer.kind == "convolution":
        return "after convolution"
    if layer.kind == "activation":
        name = FUNCTION_NAMES.get(layer.function, layer.function)
        return f"after {name} (rectified)" if layer.function == "relu" else f"after activation ({name})"
    return f"after pooling ({describe_pooling(layer)})"


def describe_pooling(layer: LayerActivation) -> str:
    """Return what a pooling computes of each window."""
    if getattr(layer.module, "kind", None) == "sum":  # an average times the size of the window
        return "sum"
    return POOLING_NAMES.get(layer.function, layer.function)


def describe_rectified(layers: Sequence[LayerActivation]) -> dict[str, Any] | None:
    """Return a part of a map before and after the first activation, where both signs lie close together."""
    layer = next((layer for layer in layers if layer.kind == "activation"), None)
    if layer is None or min(layer.maps.shape[1:]) < EXAMPLE_SIDE:
        return None
    before, after = layer.responses.numpy(), layer.maps.numpy()
    number = int(np.minimum((before > 0).mean(axis=(1, 2)), (before < 0).mean(axis=(1, 2))).argmax())
    top, left = find_mixed_signs(before[number])
    part = (number, slice(top, top + EXAMPLE_SIDE), slice(left, left + EXAMPLE_SIDE))
    return {
        "name": FUNCTION_NAMES.get(layer.function, layer.function), "number": number,
        "before": before[part].tolist(), "after": after[part].tolist(),
        "is_relu": layer.function == "relu",
        "is_relu6": FUNCTION_NAMES.get(layer.function) == "ReLU6",
        "share_negative": float((before < 0).mean()),
    }  # fmt: skip


def find_mixed_signs(values: np.ndarray) -> tuple[int, int]:
    """Return the corner of the square of `EXAMPLE_SIDE` where positive and negative numbers are most balanced."""
    squares = np.lib.stride_tricks.sliding_window_view(values, (EXAMPLE_SIDE, EXAMPLE_SIDE))
    size = np.abs(squares).sum(axis=(2, 3))
    balance = np.minimum(squares.clip(min=0).sum(axis=(2, 3)), -squares.clip(max=0).sum(axis=(2, 3)))
    row, column = np.unravel_index((balance + 1e-6 * size).argmax(), balance.shape)
    return int(row), int(column)


def describe_pooled(layers: Sequence[LayerActivation]) -> dict[str, Any] | None:
    """Return the windows of the first pooling that give 2 x 2 numbers, and these numbers; None: there is none."""
    for before, layer in pairwise(layers):
        if layer.kind != "pooling" or layer.windows is None or layer.function not in POOLING_NAMES:
            continue
        down, across = layer.windows
        if min(layer.maps.shape[1:]) < 4 or before.maps.shape[0] != layer.maps.shape[0] or down != across:
            continue
        number = int(layer.maps.numpy().std(axis=(1, 2)).argmax())
        inner = layer.maps.numpy()[number, 1:-2, 1:-2]  # away from the padding
        row, column = (int(i) + 1 for i in np.unravel_index(inner.argmax(), inner.shape))
        side = down.stride + down.extent
        top, left = row * down.stride - down.padding, column * across.stride - across.padding
        return {
            "name": describe_pooling(layer), "number": number, "kernel": down.kernel, "stride": down.stride,
            "before": before.maps[number, top : top + side, left : left + side].tolist(),
            "after": layer.maps[number, row : row + 2, column : column + 2].tolist(),
            "sizes": (before.maps.shape[-1], layer.maps.shape[-1]),
        }  # fmt: skip
    return None
