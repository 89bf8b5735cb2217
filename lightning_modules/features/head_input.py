"""The features of a network: the input of its last layer, recorded while the network runs."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn


@contextmanager
def record_inputs(layer: nn.Module) -> Iterator[list[Tensor]]:
    """Record the input of a layer at each of its calls, within the block."""
    inputs: list[Tensor] = []
    hook = layer.register_forward_pre_hook(lambda _, arguments: inputs.append(arguments[0]))
    try:
        yield inputs
    finally:
        hook.remove()


def to_vectors(head_input: Tensor) -> Tensor:
    """Return features, float32 (N, d); the input (N, d, H, W) of a convolution is averaged over all positions."""
    vectors = head_input.float()
    return vectors.mean(dim=(2, 3)) if vectors.ndim == 4 else vectors.flatten(1)
