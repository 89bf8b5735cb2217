"""Record the feature maps of a network: the output of each convolution, activation and pooling that runs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from lightning_modules.networks.lenet import ScaledTanh, Subsample, TableConv

LayerKind = Literal["convolution", "activation", "pooling"]

# By torch's function names, because a network may call a function and have no module for it.
KIND_BY_FUNCTION: dict[str, LayerKind] = {
    "conv2d": "convolution",
    **dict.fromkeys(("relu", "relu_", "relu6", "leaky_relu", "elu", "silu", "gelu", "mish", "hardswish", "tanh"),
                    "activation"),
    **dict.fromkeys(("max_pool2d", "avg_pool2d", "adaptive_avg_pool2d", "adaptive_max_pool2d"), "pooling"),
}  # fmt: skip
# Our own modules that count as one layer each.
COMPOSITE_MODULES: dict[type[nn.Module], tuple[LayerKind, str]] = {
    TableConv: ("convolution", "conv2d"),
    ScaledTanh: ("activation", "tanh"),
    Subsample: ("pooling", "subsampling"),
}


@dataclass(frozen=True)
class LayerActivation:
    """The output of one layer for one image.

    Attributes:
        kind: of the layer.
        function: the name of the torch function that ran.
        module: the layer itself, or the innermost module that called the function.
        maps: float32 (C, H, W).
    """

    kind: LayerKind
    function: str
    module: nn.Module
    maps: Tensor


class ActivationTrace(TorchFunctionMode):
    """A recorder of one forward pass: the layers that ran, and the number of multiply-adds.

    Attributes:
        activations: outputs with maps of more than one pixel, in the order in which the layers ran.
        macs: multiply-adds of convolutions and linear layers.
        module_stack: the modules that are running, the innermost last.
    """

    def __init__(self) -> None:
        super().__init__()
        self.activations: list[LayerActivation] = []
        self.macs = 0
        self.module_stack: list[nn.Module] = []

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "")
        if name in ("conv2d", "linear"):
            self.macs += result.numel() * args[1][0].numel()  # weight (out, in, k, k): products for one number
        if name in KIND_BY_FUNCTION and not any(type(module) in COMPOSITE_MODULES for module in self.module_stack):
            self._record(KIND_BY_FUNCTION[name], name.rstrip("_"), result)
        return result

    def push_module(self, module: nn.Module, inputs: Any) -> None:
        """Note that a module starts; the forward pre-hook of every module."""
        self.module_stack.append(module)

    def pop_module(self, module: nn.Module, inputs: Any, output: Any) -> None:
        """Note that a module ends; the forward hook of every module."""
        if type(module) in COMPOSITE_MODULES:
            self._record(*COMPOSITE_MODULES[type(module)], output)
        self.module_stack.pop()

    def _record(self, kind: LayerKind, function: str, result: Any) -> None:
        if not isinstance(result, Tensor) or result.ndim != 4 or result[0, 0].numel() == 1:
            return
        maps = result[0].detach().float().clone()
        # A pooling to the present size changes nothing and is left out.
        if not (self.activations and torch.equal(self.activations[-1].maps, maps)):
            self.activations.append(LayerActivation(kind, function, self.module_stack[-1], maps))


@torch.no_grad()
def trace_activations(network: nn.Module, x: Tensor) -> ActivationTrace:
    """Run one image (1, C, H, W) through a network and record the output of each layer."""
    trace = ActivationTrace()
    handles = [hook for module in network.modules() for hook in (
        module.register_forward_pre_hook(trace.push_module), module.register_forward_hook(trace.pop_module),
    )]  # fmt: skip
    try:
        with trace:
            network(x)
    finally:
        for handle in handles:
            handle.remove()
    return trace


def select_layers(layers: Sequence[LayerActivation], max_layers: int) -> list[LayerActivation]:
    """Select at most `max_layers` layers, spread from first to last.

    A convolution is always selected with the activation and the pooling after it, unless a single such block is
    longer than `max_layers`.
    """
    blocks: list[list[LayerActivation]] = []
    for layer in layers:
        if layer.kind == "convolution" or not blocks:
            blocks.append([])
        blocks[-1].append(layer)
    for count in range(len(blocks), 0, -1):
        chosen = [layer for position in pick_evenly(len(blocks), count) for layer in blocks[position]]
        if len(chosen) <= max_layers:
            return chosen
    return list(layers[:max_layers])


def find_convolutions(layers: Sequence[LayerActivation]) -> list[nn.Module]:
    """Return the convolutions whose maps have more than one pixel, in order and without repetition."""
    kinds = (nn.Conv2d, TableConv)
    modules = [layer.module for layer in layers if layer.kind == "convolution" and isinstance(layer.module, kinds)]
    return list(dict.fromkeys(modules))


def read_first_filters(network: nn.Module) -> np.ndarray:
    """Return the filters of the first convolution, float32 (F, channels, k, k)."""
    first = next(module for module in network.modules() if isinstance(module, nn.Conv2d))
    return first.weight.detach().float().cpu().numpy()


def pick_evenly(num: int, count: int) -> list[int]:
    """Return `count` of the positions 0..num-1, spread evenly; the first and the last are among them."""
    if count == 1:
        return [0]
    return sorted({round(i * (num - 1) / (count - 1)) for i in range(count)})
