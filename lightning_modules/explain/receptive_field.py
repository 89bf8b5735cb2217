"""Receptive fields: the part of a picture that one number of a feature map depends on, and the sizes of maps.

Sources: V. Dumoulin, F. Visin, "A guide to convolution arithmetic for deep learning", 2016, arXiv:1603.07285
(sizes); A. Araujo, W. Norris, J. Sim, "Computing Receptive Fields of Convolutional Neural Networks", Distill 2019
(the recurrence for size, step and position).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

# The positions of the arguments kernel or weight, stride, padding and dilation, from 1 on.
ARGUMENT_NAMES: dict[str, tuple[str, ...]] = {
    "conv2d": ("weight", "bias", "stride", "padding", "dilation", "groups"),
    "max_pool2d": ("kernel_size", "stride", "padding", "dilation", "ceil_mode"),
    "avg_pool2d": ("kernel_size", "stride", "padding", "ceil_mode"),
}
ZEROS_ATTRIBUTE = "_convoy_zeros"  # of a map to which zeros were added in a call of their own: (before, after)
FIELDS_ATTRIBUTE = "_convoy_receptive_fields"  # of a map, while a trace runs


@dataclass(frozen=True)
class Window:
    """The window that a convolution or a pooling slides over a map, along one axis.

    Attributes:
        kernel: its side in numbers of the map.
        stride: numbers from one position to the next.
        padding: numbers added before the first one.
        dilation: distance between neighbouring numbers of the window.
    """

    kernel: int
    stride: int = 1
    padding: int = 0
    dilation: int = 1

    @property
    def extent(self) -> int:
        """The side that the window covers, gaps of the dilation included."""
        return self.dilation * (self.kernel - 1) + 1

    def output_size(self, size: int) -> int:
        """Return the number of positions on a map of `size` numbers: (n + 2p - k) / s + 1, rounded down."""
        return (size + 2 * self.padding - self.extent) // self.stride + 1


@dataclass(frozen=True)
class ReceptiveField:
    """The receptive fields of a feature map along one axis, in pixels of the picture.

    Position i of the map sees the pixels from `start + i * step` on, `size` of them; some may lie outside of the
    picture, where padding is.

    Attributes:
        size: of each field.
        step: from one field to the next.
        start: the first pixel of the first field; negative where padding was added.
    """

    size: float = 1
    step: float = 1
    start: float = 0

    def through(self, window: Window) -> ReceptiveField:
        """Return the receptive fields after a convolution or a pooling with this window."""
        return ReceptiveField(
            self.size + (window.extent - 1) * self.step,
            self.step * window.stride,
            self.start - window.padding * self.step,
        )

    def padded(self, before: int) -> ReceptiveField:
        """Return the receptive fields after `before` numbers were added in front."""
        return ReceptiveField(self.size, self.step, self.start - before * self.step)

    def shifted(self, pixels: float) -> ReceptiveField:
        """Return the receptive fields in pixels that are counted from another one."""
        return ReceptiveField(self.size, self.step, self.start + pixels)

    def resized(self, old_size: int, new_size: int) -> ReceptiveField:
        """Return the receptive fields after the map was resized (bilinear: two neighbours make one number)."""
        scale = old_size / new_size
        step = self.step * scale
        return ReceptiveField(self.size + self.step, step, self.start + (step - self.step) / 2 - self.step / 2)

    def pixels(self, position: int, picture_size: int) -> tuple[int, int]:
        """Return the range (first, end) of the pixels that a position sees, cut off at the picture's edge."""
        first = self.start + position * self.step
        return max(0, round(first)), min(picture_size, max(round(first + self.size), round(max(0, first)) + 1))

    def lies_within(self, position: int, picture_size: int) -> bool:
        """Return whether a position sees pixels of the picture only, and no padding."""
        first = self.start + position * self.step
        return first >= 0 and first + self.size <= picture_size

    def covers(self, picture_size: int) -> bool:
        """Return whether a field is at least as large as the picture."""
        return self.size >= picture_size


Fields = tuple[ReceptiveField, ReceptiveField]  # down and across
Windows = tuple[Window, Window]


def follow_windows(fields: Fields, windows: Windows) -> Fields:
    """Return the receptive fields after a window, down and across."""
    return fields[0].through(windows[0]), fields[1].through(windows[1])


def read_windows(function: str, args: Any, kwargs: Any) -> Windows | None:
    """Return the windows of a call of a convolution or a pooling, down and across; None for other functions."""
    if function not in ARGUMENT_NAMES:
        return None
    if function == "conv2d":
        kernel = tuple(get_argument(function, args, kwargs, "weight", None).shape[2:])
    else:
        kernel = _to_pair(get_argument(function, args, kwargs, "kernel_size", 1))
    stride = get_argument(function, args, kwargs, "stride", None)
    steps = _to_pair(stride) if stride not in (None, [], ()) else ((1, 1) if function == "conv2d" else kernel)
    dilation = _to_pair(get_argument(function, args, kwargs, "dilation", 1))
    padding = get_argument(function, args, kwargs, "padding", 0)
    if padding == "same":
        padding = [d * (k - 1) // 2 for k, d in zip(kernel, dilation, strict=True)]
    pads = (0, 0) if padding == "valid" else _to_pair(padding)
    down, across = (Window(*values) for values in zip(kernel, steps, pads, dilation, strict=True))
    return down, across


def follow_call(name: str, args: Any, kwargs: Any, result: Tensor) -> Fields | None:
    """Return the receptive fields of a result; of several inputs, those of the one that sees most."""
    inputs = [item for arg in args for item in (arg if isinstance(arg, list | tuple) else [arg])]
    known = [item for item in inputs if get_fields(item) is not None]
    if not known:
        return None
    source = max(known, key=lambda item: get_fields(item)[0].size)  # type: ignore[index]
    fields: Fields = getattr(source, FIELDS_ATTRIBUTE)
    if windows := read_windows(name, args, kwargs):
        return follow_windows(fields, windows)
    if name in ("pad", "_pad"):
        pads = kwargs.get("pad", args[1] if len(args) > 1 else (0, 0, 0, 0))
        return fields[0].padded(pads[2] if len(pads) > 2 else 0), fields[1].padded(pads[0])
    if result.shape[-2:] != source.shape[-2:]:
        if name != "interpolate":
            return None  # a part of a map, an adaptive pooling or another arrangement
        down, across = (
            pair.resized(old, new)
            for pair, old, new in zip(fields, source.shape[-2:], result.shape[-2:], strict=True)
        )
        return down, across
    return fields


def get_argument(function: str, args: Any, kwargs: Any, name: str, default: Any) -> Any:
    """Return an argument of a call of `conv2d` or of a pooling, by position or by name."""
    names = ARGUMENT_NAMES[function]
    if name not in names:
        return default
    position = 1 + names.index(name)
    return args[position] if len(args) > position else kwargs.get(name, default)


def _to_pair(value: Any) -> tuple[int, int]:
    values = list(value) if isinstance(value, list | tuple | torch.Size) else [value]
    return int(values[0]), int(values[-1])


def get_fields(value: Any) -> Fields | None:
    """Return the receptive fields that a map carries, if they are known."""
    return getattr(value, FIELDS_ATTRIBUTE, None) if isinstance(value, Tensor) else None


def set_fields(maps: Tensor, fields: Fields | None) -> None:
    """Let a map carry its receptive fields."""
    setattr(maps, FIELDS_ATTRIBUTE, fields)
