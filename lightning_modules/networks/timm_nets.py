"""The networks of timm by name. They need the package timm: `pip install -e '.[timm]'`."""

import torch
from torch import Tensor, nn

from imageset.exceptions import UserError
from imageset.utils.text import suggest_name
from lightning_modules.networks.torchvision_nets import Stem, apply_small_stem


class TimmNet(nn.Module):
    """A network of timm with random weights; nothing is downloaded.

    Args:
        in_channels: 1 or 3.
        num_classes: number of logits.
        name: a name of timm.list_models(): `resnet26d`, `efficientnet_b0`, ...
        stem: `standard`, `small` or `auto`, by the same rule as for torchvision's networks, see
            `torchvision_nets.apply_small_stem`.

    Raises:
        UserError: timm is not installed, or it has no such network, or there is no such stem.

    Source: timm, https://huggingface.co/docs/timm
    """

    def __init__(self, in_channels: int, num_classes: int, name: str, stem: Stem = "auto") -> None:
        super().__init__()
        if stem not in ("standard", "small"):
            raise UserError(f"TimmNet: stem is {stem!r}; choose standard or small")
        self.name, self.stem = name, stem
        self.network = _build(name, in_channels, num_classes)
        if stem == "small":
            apply_small_stem(self.network)

    def forward(self, x: Tensor) -> Tensor:
        """Compute logits (N, num_classes) from images (N, in_channels, H, W)."""
        logits: Tensor = self.network(x)
        return logits

    def probabilities(self, x: Tensor) -> Tensor:
        """Compute the softmax of the logits (N, num_classes) from images (N, in_channels, H, W)."""
        return torch.softmax(self(x), dim=1)


def _build(name: str, in_channels: int, num_classes: int) -> nn.Module:
    try:
        import timm
    except ImportError:
        raise UserError(f"the network timm/{name} needs timm: pip install -e '.[timm]'") from None
    if not timm.is_model(name):
        raise UserError(f"timm has no network {name!r}; {_suggest_name(name, timm.list_models())}")
    network: nn.Module = timm.create_model(name, pretrained=False, in_chans=in_channels, num_classes=num_classes)
    return network


def _suggest_name(name: str, known: list[str]) -> str:
    hint = suggest_name(name.lower(), known)
    return hint if hint.startswith("did you mean") else "timm.list_models() names them"
