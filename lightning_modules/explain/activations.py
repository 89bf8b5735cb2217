"""What a network does to a picture, layer by layer: each convolution, activation and pooling that runs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from lightning_modules.networks.lenet import ScaledTanh, Subsample, TableConv

LayerKind = Literal["convolution", "activation", "pooling"]

# What torch calls them, also where a network calls the function and has no module for it.
KIND_BY_FUNCTION: dict[str, LayerKind] = {
    "conv2d": "convolution",
    **dict.fromkeys(("relu", "relu_", "relu6", "leaky_relu", "elu", "silu", "gelu", "mish", "hardswish", "tanh"),
                    "activation"),
    **dict.fromkeys(("max_pool2d", "avg_pool2d", "adaptive_avg_pool2d", "adaptive_max_pool2d"), "pooling"),
}  # fmt: skip
# Modules of ours that are one step as a whole.
COMPOSITE_MODULES: dict[type[nn.Module], tuple[LayerKind, str]] = {
    TableConv: ("convolution", "conv2d"),
    ScaledTanh: ("activation", "tanh"),
    Subsample: ("pooling", "subsampling"),
}


@dataclass(frozen=True)
class LayerActivation:
    """One layer's answer to one picture.

    Attributes:
        kind: of the layer.
        function: torch's name for what it does.
        module: the layer itself, or the innermost module that called the function.
        maps: float32 (C, H, W).
    """

    kind: LayerKind
    function: str
    module: nn.Module
    maps: Tensor


class ActivationTrace(TorchFunctionMode):
    """Records the steps of one forward pass, and counts its multiply-adds.

    Attributes:
        steps: those with maps of more than one pixel, in the order in which they ran.
        macs: multiply-adds of convolutions and linear layers.
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
            self.macs += result.numel() * args[1][0].numel()  # (out, in, k, k): products that make one number
        if name in KIND_BY_FUNCTION and not any(type(module) in COMPOSITE_MODULES for module in self.module_stack):
            self._record(KIND_BY_FUNCTION[name], name.rstrip("_"), result)
        return result

    def push_module(self, module: nn.Module, inputs: Any) -> None:
        """Forward pre-hook of every module."""
        self.module_stack.append(module)

    def pop_module(self, module: nn.Module, inputs: Any, output: Any) -> None:
        """Forward hook of every module."""
        if type(module) in COMPOSITE_MODULES:
            self._record(*COMPOSITE_MODULES[type(module)], output)
        self.module_stack.pop()

    def _record(self, kind: LayerKind, function: str, result: Any) -> None:
        if not isinstance(result, Tensor) or result.ndim != 4 or result[0, 0].numel() == 1:
            return
        maps = result[0].detach().float().clone()
        if not (self.activations and torch.equal(self.activations[-1].maps, maps)):  # a pooling to the size that is there
            self.activations.append(LayerActivation(kind, function, self.module_stack[-1], maps))


@torch.no_grad()
def trace_activations(network: nn.Module, x: Tensor) -> ActivationTrace:
    """Run one picture (1, C, H, W) through a network and record what each layer makes of it."""
    record = ActivationTrace()
    handles = [hook for module in network.modules() for hook in (
        module.register_forward_pre_hook(record.push_module), module.register_forward_hook(record.pop_module),
    )]  # fmt: skip
    try:
        with record:
            network(x)
    finally:
        for handle in handles:
            handle.remove()
    return record


def select_layers(steps: Sequence[LayerActivation], max_layers: int) -> list[LayerActivation]:
    """At most so many steps, from first to last: a convolution always with the activation and pooling after it."""
    blocks: list[list[LayerActivation]] = []
    for step in steps:
        if step.kind == "convolution" or not blocks:
            blocks.append([])
        blocks[-1].append(step)
    for count in range(len(blocks), 0, -1):
        chosen = [step for place in pick_evenly(len(blocks), count) for step in blocks[place]]
        if len(chosen) <= max_layers:
            return chosen
    return list(steps[:max_layers])


def find_convolutions(steps: Sequence[LayerActivation]) -> list[nn.Module]:
    """The convolutions whose maps have more than one pixel, in order, each once."""
    kinds = (nn.Conv2d, TableConv)
    found = [step.module for step in steps if step.kind == "convolution" and isinstance(step.module, kinds)]
    return list(dict.fromkeys(found))


def read_first_filters(network: nn.Module) -> np.ndarray:
    """The filters of the first convolution, float32 (F, channels, k, k)."""
    first = next(module for module in network.modules() if isinstance(module, nn.Conv2d))
    return first.weight.detach().float().cpu().numpy()


def pick_evenly(num: int, count: int) -> list[int]:
    """`count` of the positions 0..num-1, spread evenly, first and last among them."""
    if count == 1:
        return [0]
    return sorted({round(i * (num - 1) / (count - 1)) for i in range(count)})
