"""Record the layers of a network while it runs: the output of each convolution, activation and pooling.

Layers are found by the functions of PyTorch that run, so networks of any origin are understood: those of
torchvision and timm, and those that a user wrote.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from lightning_modules.explain.receptive_field import (
    ZEROS_ATTRIBUTE,
    Fields,
    ReceptiveField,
    Window,
    Windows,
    follow_call,
    follow_windows,
    get_argument,
    get_fields,
    read_windows,
    set_fields,
)
from lightning_modules.networks.lenet import ScaledTanh, Subsample, TableConv

LayerKind = Literal["convolution", "activation", "pooling"]

# By torch's function names, because a network may call a function and have no module for it.
KIND_BY_FUNCTION: dict[str, LayerKind] = {
    "conv2d": "convolution",
    **dict.fromkeys(("relu", "relu_", "relu6", "hardtanh", "leaky_relu", "elu", "silu", "gelu", "mish",
                     "hardswish", "tanh"), "activation"),
    **dict.fromkeys(("max_pool2d", "avg_pool2d", "adaptive_avg_pool2d", "adaptive_max_pool2d"), "pooling"),
}  # fmt: skip
# Our own modules that count as one layer each, with the window of each where there is one.
COMPOSITE_MODULES: dict[type[nn.Module], tuple[LayerKind, str, Window | None]] = {
    TableConv: ("convolution", "conv2d", Window(5)),
    ScaledTanh: ("activation", "tanh", None),
    Subsample: ("pooling", "subsampling", Window(2, 2)),
}


class _LayerReached(Exception):
    """The signal that ends a forward pass once the last wanted layer has run."""


@dataclass(frozen=True)
class ConvolutionCall:
    """The tensors of one call of `conv2d`.

    Attributes:
        inputs: float32 (1, C, H, W).
        weight: float32 (filters, C / groups, k, k).
        bias: float32 (filters,), or None.
        groups: number of groups of input maps; each filter reads one group.
    """

    inputs: Tensor
    weight: Tensor
    bias: Tensor | None
    groups: int

    @property
    def num_weights(self) -> int:
        """The number of weights, biases included."""
        return self.weight.numel() + (0 if self.bias is None else self.bias.numel())


@dataclass(frozen=True)
class LayerActivation:
    """The output of one layer for one image.

    Attributes:
        kind: of the layer.
        function: the name of the torch function that ran.
        module: the layer itself, or the innermost module that called the function.
        maps: float32 (C, H, W).
        number: counts the calls of all layers, from 0.
        responses: float32 (C, H, W): the input of an activation function, else `maps`.
        windows: of a convolution or a pooling, down and across; None: it has none.
        fields: receptive fields of the maps, down and across; None: not known.
        zeros: added before and after each row in a call of its own, beside the window's padding.
        call: the tensors of a convolution; None: another layer, or several convolutions in one.
    """

    kind: LayerKind
    function: str
    module: nn.Module
    maps: Tensor
    number: int = 0
    responses: Tensor = field(default_factory=lambda: torch.empty(0))
    windows: Windows | None = None
    fields: Fields | None = None
    call: ConvolutionCall | None = None
    zeros: tuple[int, int] = (0, 0)


class LayerObserver(TorchFunctionMode):
    """A mode that sees every function call of a forward pass, and knows which module made it.

    Attributes:
        module_stack: the modules that are running, the innermost last.
        num_layers: calls of layers so far.
    """

    def __init__(self) -> None:
        super().__init__()
        self.module_stack: list[nn.Module] = []
        self.num_layers = 0

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        is_layer = name in KIND_BY_FUNCTION and not self.is_in_composite()
        if is_layer and KIND_BY_FUNCTION[name] == "activation":
            before = args[0].clone() if name.endswith("_") or kwargs.get("inplace") else args[0]
        result = func(*args, **kwargs)
        self.see_call(name, args, kwargs, result)
        if is_layer:
            kind = KIND_BY_FUNCTION[name]
            self.see_layer(
                kind, name.rstrip("_"), before if kind == "activation" else result, result, args, kwargs
            )
            self.num_layers += 1
        return result

    def is_in_composite(self) -> bool:
        """Return whether a module is running that counts as one layer."""
        return any(type(module) in COMPOSITE_MODULES for module in self.module_stack)

    def push_module(self, module: nn.Module, inputs: Any) -> None:
        """Note that a module starts; the forward pre-hook of every module."""
        self.module_stack.append(module)

    def pop_module(self, module: nn.Module, inputs: Any, output: Any) -> None:
        """Note that a module ends; the forward hook of every module."""
        if type(module) in COMPOSITE_MODULES:
            kind, function, _ = COMPOSITE_MODULES[type(module)]
            self.see_layer(kind, function, output, output, inputs, {})
            self.num_layers += 1
        self.module_stack.pop()

    def see_call(self, name: str, args: Any, kwargs: Any, result: Any) -> None:
        """See any function call."""

    def see_layer(
        self, kind: LayerKind, function: str, response: Any, output: Any, args: Any, kwargs: Any
    ) -> None:
        """See the call of a layer, whose number is `num_layers`."""

    def run(self, network: nn.Module, x: Tensor) -> None:
        """Run a batch (N, C, H, W) through the network under observation."""
        handles = [hook for module in network.modules() for hook in (
            module.register_forward_pre_hook(self.push_module), module.register_forward_hook(self.pop_module),
        )]  # fmt: skip
        try:
            with suppress(_LayerReached), self:
                network(x)
        finally:
            for handle in handles:
                handle.remove()


class ActivationTrace(LayerObserver):
    """A recorder of one forward pass: the layers that ran, and the number of multiply-adds.

    Attributes:
        activations: outputs with maps of more than one pixel, in the order in which the layers ran.
        macs: multiply-adds of convolutions and linear layers.
        linear_shapes: (outputs, inputs) of each linear layer, in order.
        pools_to_one: whether each map is averaged to one number, whatever its size.
    """

    def __init__(self) -> None:
        super().__init__()
        self.activations: list[LayerActivation] = []
        self.macs = 0
        self.linear_shapes: list[tuple[int, int]] = []
        self.pools_to_one = False

    def see_call(self, name: str, args: Any, kwargs: Any, result: Any) -> None:
        """Count the multiply-adds, and follow the receptive fields from a map to the next."""
        if name in ("conv2d", "linear"):
            weight = get_argument("conv2d", args, kwargs, "weight", None)
            self.macs += result.numel() * weight[0].numel()  # weight (out, in, k, k): products for one number
            if name == "linear":
                self.linear_shapes.append((weight.shape[0], weight.shape[1]))
        if isinstance(result, Tensor) and args and isinstance(args[0], Tensor) and args[0].ndim == 4:
            is_one = result.ndim == 2 or result.shape[-2:] == (1, 1)
            self.pools_to_one |= name in ("mean", "adaptive_avg_pool2d") and is_one and args[0][0, 0].numel() > 1
        if name in ("pad", "_pad") and isinstance(result, Tensor):
            pads = kwargs.get("pad", args[1] if len(args) > 1 else (0, 0))
            setattr(result, ZEROS_ATTRIBUTE, (int(pads[0]), int(pads[1])))
        if isinstance(result, Tensor) and result.ndim == 4 and not self.is_in_composite():
            set_fields(result, follow_call(name, args, kwargs, result))

    def see_layer(
        self, kind: LayerKind, function: str, response: Any, output: Any, args: Any, kwargs: Any
    ) -> None:
        """Record the layer's maps."""
        module = self.module_stack[-1]
        composite = COMPOSITE_MODULES.get(type(module))
        if composite is not None:
            before = get_fields(args[0])
            windows = (composite[2], composite[2]) if composite[2] else None
            set_fields(output, follow_windows(before, windows) if before and windows else before)
        else:
            windows = read_windows(function, args, kwargs)
        if not isinstance(output, Tensor) or output.ndim != 4 or output[0, 0].numel() == 1:
            return
        maps = output[0].detach().float().clone()
        # A pooling to the present size changes nothing and is left out.
        if self.activations and torch.equal(self.activations[-1].maps, maps):
            return
        responses = maps if response is output else response[0].detach().float().clone()
        call = _read_convolution(args, kwargs) if kind == "convolution" and composite is None else None
        fields = get_fields(output)
        zeros = getattr(args[0], ZEROS_ATTRIBUTE, (0, 0))
        self.activations.append(
            LayerActivation(kind, function, module, maps, self.num_layers, responses, windows, fields, call, zeros)
        )


class ResponseRecorder(LayerObserver):
    """A recorder of the responses of chosen layers for a batch; the layers after the last one do not run.

    Args:
        numbers: of the layers, see `LayerActivation.number`.

    Attributes:
        responses: by number, (N, C, H, W); attached to the graph if gradients are on.
    """

    def __init__(self, numbers: Sequence[int]) -> None:
        super().__init__()
        self.numbers = set(numbers)
        self.responses: dict[int, Tensor] = {}

    def see_layer(
        self, kind: LayerKind, function: str, response: Any, output: Any, args: Any, kwargs: Any
    ) -> None:
        """Keep the response of a chosen layer."""
        if self.num_layers in self.numbers:
            self.responses[self.num_layers] = response
            if len(self.responses) == len(self.numbers):
                raise _LayerReached


@torch.no_grad()
def trace_activations(network: nn.Module, x: Tensor) -> ActivationTrace:
    """Run one image (1, C, H, W) through a network and record the output of each layer."""
    trace = ActivationTrace()
    x = x.detach().clone()
    set_fields(x, (ReceptiveField(), ReceptiveField()))
    trace.run(network, x)
    return trace


def record_responses(network: nn.Module, x: Tensor, numbers: Sequence[int]) -> dict[int, Tensor]:
    """Run a batch (N, C, H, W), and return the responses (N, C, H, W) of the layers with these numbers."""
    recorder = ResponseRecorder(numbers)
    recorder.run(network, x)
    return recorder.responses


def _read_convolution(args: Any, kwargs: Any) -> ConvolutionCall:
    bias = get_argument("conv2d", args, kwargs, "bias", None)
    groups = int(get_argument("conv2d", args, kwargs, "groups", 1))
    weight = get_argument("conv2d", args, kwargs, "weight", None)
    return ConvolutionCall(args[0][:1].detach(), weight.detach(), None if bias is None else bias.detach(), groups)


def select_layers(layers: Sequence[LayerActivation], max_layers: int) -> list[LayerActivation]:
    """Select at most `max_layers` layers, spread from first to last.

    A convolution is always selected with the activation and the pooling after it, unless a single such block is
    longer than `max_layers`.
    """
    blocks = split_blocks(layers)
    for count in range(len(blocks), 0, -1):
        chosen = [layer for position in pick_evenly(len(blocks), count) for layer in blocks[position]]
        if len(chosen) <= max_layers:
            return chosen
    return list(layers[:max_layers])


def split_blocks(layers: Sequence[LayerActivation]) -> list[list[LayerActivation]]:
    """Split layers into blocks: a convolution and the layers after it, up to the next convolution."""
    blocks: list[list[LayerActivation]] = []
    for layer in layers:
        if layer.kind == "convolution" or not blocks:
            blocks.append([])
        blocks[-1].append(layer)
    return blocks


def find_filter_layers(layers: Sequence[LayerActivation], count: int) -> list[LayerActivation]:
    """Return at most `count` layers whose filters are worth a look, from early to late.

    Of each block this is the convolution's activation, whose response is the number before the function: after a
    normalization, which may turn signs, and before large numbers are cut off. Blocks without an activation only
    count where no block has one.
    """
    blocks = [block for block in split_blocks(layers) if block[0].kind == "convolution"]
    activated = [next((layer for layer in block if layer.kind == "activation"), None) for block in blocks]
    chosen = [layer for layer in activated if layer is not None] or [block[0] for block in blocks]
    return [chosen[i] for i in pick_evenly(len(chosen), min(count, len(chosen)))] if chosen else []


def find_convolutions(layers: Sequence[LayerActivation]) -> list[nn.Module]:
    """Return the convolutions whose maps have more than one pixel, in order and without repetition."""
    kinds = (nn.Conv2d, TableConv)
    modules = [layer.module for layer in layers if layer.kind == "convolution" and isinstance(layer.module, kinds)]
    return list(dict.fromkeys(modules))


def pick_evenly(num: int, count: int) -> list[int]:
    """Return `count` of the positions 0..num-1, spread evenly; the first and the last are among them."""
    if count == 1:
        return [0]
    return sorted({round(i * (num - 1) / (count - 1)) for i in range(count)})
