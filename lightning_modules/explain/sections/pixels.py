"""The sections on a picture's numbers and on one convolution, worked out with them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch.nn.functional as F

from lightning_modules.explain.activations import ActivationTrace, ConvolutionCall, LayerActivation
from lightning_modules.explain.instrumentation import InstrumentedModel
from lightning_modules.explain.orientation import measure_filter_orientation
from lightning_modules.explain.sections import image_grids
from lightning_modules.explain.sections.page import ExplainPage

PATCH_PX = 8  # side of the patch that is shown as numbers
MAX_WORKED_KERNEL = 7  # larger windows are too many numbers to read
CHANNEL_NAMES = {1: ("grey",), 3: ("red", "green", "blue")}
FIT_WORDS = {"crop": "the rest cut off", "pad": "black edges added", "stretch": "sides stretched"}


def describe_pixels(page: ExplainPage, model: InstrumentedModel, image: np.ndarray, name: str) -> dict[str, Any]:
    """Return the image, uint8 (H, W, C), and the patch of it with the most contrast, one grid for each channel."""
    height, width, channels = image.shape
    top, left = find_contrast(image, PATCH_PX)
    patch = image[top : top + PATCH_PX, left : left + PATCH_PX]
    png = image_grids.draw_image(image, [(top, left, *patch.shape[:2])])
    return {
        "height": height, "width": width, "channels": channels,
        "figure": page.add_figure("picture", png, f"{name}, {width} x {height} pixels; the square is below"),
        "grids": [
            {"name": channel, "pixels": patch[..., number].tolist()}
            for number, channel in enumerate(CHANNEL_NAMES[channels])
        ],
        "fit": FIT_WORDS.get(model.spec.fit, model.spec.fit),
    }  # fmt: skip


def find_contrast(image: np.ndarray, side: int) -> tuple[int, int]:
    """Return the corner (top, left) of the square whose brightness varies most; of equals the first."""
    grey = image.mean(axis=2)
    step = max(1, side // 2)
    corners = [
        (top, left)
        for top in range(0, max(1, grey.shape[0] - side + 1), step)
        for left in range(0, max(1, grey.shape[1] - side + 1), step)
    ]
    return max(corners, key=lambda c: float(grey[c[0] : c[0] + side, c[1] : c[1] + side].std()))


def describe_worked_convolution(
    page: ExplainPage, model: InstrumentedModel, image: np.ndarray, trace: ActivationTrace
) -> dict[str, Any] | None:
    """Return one position of the first convolution, number by number; None if there is none to show.

    The filter is the one with an edge in the picture: of high orientation energy, and with a map that varies.
    """
    layer = next((layer for layer in trace.activations if layer.call is not None), None)
    if layer is None or layer.call is None or layer.windows is None or layer.fields is None:
        return None
    place = choose_position(layer, image.shape, find_contrast(image, PATCH_PX))
    if place is None:
        return None
    number, row, column = place
    window, weights = read_window(layer, number, row, column)
    products = window * weights
    bias = 0.0 if layer.call.bias is None else float(layer.call.bias[number])
    rows, columns = (
        field.pixels(position, size)
        for field, position, size in zip(layer.fields, (row, column), image.shape[:2], strict=True)
    )
    pixels = image[rows[0] : rows[1], columns[0] : columns[1]]
    names = CHANNEL_NAMES[image.shape[2]]
    png = image_grids.draw_image(image, [(rows[0], columns[0], *pixels.shape[:2])])
    is_readable = max(window.shape[1:]) <= MAX_WORKED_KERNEL
    return {
        "figure": page.add_figure("worked_window", png, f"the window: rows {rows[0]} to {rows[1] - 1}, columns "
                                                        f"{columns[0]} to {columns[1] - 1}"),
        "number": number, "row": row, "column": column, "bias": bias,
        "channels": [
            {
                "name": name, "pixels": pixels[..., c].tolist() if pixels.shape[:2] == window.shape[1:] else None,
                "window": window[c].tolist(), "weights": weights[c].tolist(), "products": products[c].tolist(),
                "sum": float(products[c].sum()),
            }
            for c, name in enumerate(names)
        ] if is_readable else [],
        "first_name": names[0],
        "has_bias": layer.call.bias is not None,
        "mean": float(model.info.mean[0]), "std": float(model.info.std[0] or 1.0),
        "num_products": products.size, "total": float(products.sum()) + bias,
        "response": float(layer.maps[number, row, column]),
        "kernel": window.shape[1:],
        "output": describe_output_size(layer, layer.call),
    }  # fmt: skip


def choose_position(
    layer: LayerActivation, image_shape: tuple[int, ...], corner: tuple[int, int]
) -> tuple[int, int, int] | None:
    """Return (filter, row, column) of a strong response whose window lies within the image.

    If it can, the window lies in the square of `PATCH_PX` at `corner`. None: there is no such window.
    """
    assert layer.call is not None and layer.fields is not None
    maps = layer.maps.numpy()
    sides = list(zip(layer.fields, maps.shape[1:], image_shape[:2], corner, strict=True))
    usable = np.zeros(maps.shape[1:], bool)
    for in_square in (True, False):
        if usable.any():
            break
        down, across = (
            np.array(
                [
                    field.lies_within(i, size)
                    and (not in_square or field.shifted(-first).lies_within(i, PATCH_PX))
                    for i in range(n)
                ]
            )
            for field, n, size, first in sides
        )
        usable = down[:, None] & across[None, :]
    if not usable.any() or layer.call.groups != 1 or layer.call.weight.shape[1] != image_shape[2]:
        return None
    energy = measure_filter_orientation(layer.call.weight.float().numpy())
    number = int((energy * maps.std(axis=(1, 2))).argmax())
    score = abs(maps[number]) * measure_contrast(layer)  # a flat window shows little
    row, column = np.unravel_index(np.where(usable, score, -1).argmax(), usable.shape)
    return number, int(row), int(column)


def measure_contrast(layer: LayerActivation) -> np.ndarray:
    """Return the standard deviation of the numbers in each window of a convolution, float32 (H', W')."""
    assert layer.call is not None and layer.windows is not None
    down, across = layer.windows
    columns = F.unfold(
        layer.call.inputs.float().contiguous(), (down.kernel, across.kernel), (down.dilation, across.dilation),
        (down.padding, across.padding), (down.stride, across.stride),
    )  # fmt: skip
    contrast: np.ndarray = columns[0].std(dim=0, correction=0).reshape(layer.maps.shape[1:]).numpy()
    return contrast


def read_window(layer: LayerActivation, number: int, row: int, column: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the numbers under a filter at a position, and the filter: both float64 (C, k, k)."""
    assert layer.call is not None and layer.windows is not None
    down, across = layer.windows
    padded = F.pad(layer.call.inputs[0], (across.padding, across.padding, down.padding, down.padding))
    top, left = row * down.stride, column * across.stride
    window = padded[:, top : top + down.extent : down.dilation, left : left + across.extent : across.dilation]
    return window.double().numpy(), layer.call.weight[number].double().numpy()


def describe_output_size(layer: LayerActivation, call: ConvolutionCall) -> dict[str, Any]:
    """Return the numbers of the formula for the size of a convolution's maps, across."""
    assert layer.windows is not None
    window = layer.windows[1]
    size = int(call.inputs.shape[-1])
    return {
        "n": size, "p": window.padding, "k": window.extent, "s": window.stride, "size": window.output_size(size),
        "filters": int(layer.maps.shape[0]),
    }  # fmt: skip
