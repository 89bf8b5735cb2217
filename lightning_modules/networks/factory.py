"""Construction of a network from its specification, and a check that it fits the dataset."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from imageset.exceptions import UserError

if TYPE_CHECKING:
    from torch import nn

    from lightning_modules.project_code.code_copy import CodeCopy


def make_network(
    network: Mapping[str, Any], in_channels: int, num_classes: int, code: "CodeCopy | None" = None
) -> "nn.Module":
    """Build a network from {"class_path", "init_args"}.

    Args:
        network: class path and arguments of the network.
        in_channels: 1 or 3.
        num_classes: number of logits.
        code: copies of a project's own modules, see `registry.import_network`.

    Raises:
        UserError: there is no such class or function, or it returns no torch.nn.Module.
    """
    from torch import nn

    from lightning_modules.networks.registry import import_network

    network_class = import_network(network["class_path"], code)
    module = network_class(in_channels, num_classes, **network.get("init_args") or {})
    if not isinstance(module, nn.Module):
        raise UserError(
            f"network {network['class_path']!r} gives a {type(module).__name__}, not a torch.nn.Module"
        )
    return module


@contextmanager
def evaluation_mode(network: "nn.Module") -> Iterator[None]:
    """Put a network into evaluation mode, and each layer back into its own mode at the end.

    Frozen layers stay in evaluation mode during a training, and Lightning's fit keeps the modes that it finds.
    """
    modes = [(layer, layer.training) for layer in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for layer, training in modes:
            layer.training = training


def check_network(network: "nn.Module", shape: tuple[int, int, int], num_classes: int) -> None:
    """Run a network on two empty images, so that a network that does not fit the dataset fails before training.

    Args:
        network: the network.
        shape: (H, W, C) of the images.
        num_classes: number of logits.

    Raises:
        UserError: the network fails for such images, or does not return (N, num_classes).
    """
    import torch

    height, width, channels = shape
    try:
        with torch.no_grad(), evaluation_mode(network):
            # forward() skips the compilation
            logits = network.forward(torch.zeros(2, channels, height, width))
    except UserError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"model.network: it does not take pictures of {height}x{width}x{channels}: {reason}"
        ) from error
    if not isinstance(logits, torch.Tensor) or logits.shape != (2, num_classes):
        actual = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise UserError(f"model.network: it returns {actual} for 2 pictures, not their logits (2, {num_classes})")
