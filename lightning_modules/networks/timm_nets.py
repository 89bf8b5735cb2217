"""The networks of timm, by name."""

import torch
import torch.nn.functional as F
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
        mirror: in evaluation, return the mean of the logits over the image and its mirror image.
        resize_px: side to which images are enlarged before the first layer, since pretrained filters recognize
            things at the size that they were trained on; null: images keep their size.

    Raises:
        UserError: timm has no such network, or there is no such stem, or `resize_px` is below 1.

    Source: timm, https://huggingface.co/docs/timm
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        name: str,
        stem: Stem = "auto",
        mirror: bool = False,
        resize_px: int | None = None,
    ) -> None:
        super().__init__()
        if stem not in ("standard", "small"):
            raise UserError(f"TimmNet: stem is {stem!r}; choose standard or small")
        if resize_px is not None and resize_px < 1:
            raise UserError(f"TimmNet: resize_px is {resize_px}; give 1 or more, or null")
        self.name, self.stem, self.mirror, self.resize_px = name, stem, mirror, resize_px
        self.network = _build(name, in_channels, num_classes)
        if stem == "small":
            apply_small_stem(self.network)

    def forward(self, x: Tensor) -> Tensor:
        """Compute logits (N, num_classes) from images (N, in_channels, H, W)."""
        if self.resize_px is not None and self.resize_px != x.shape[-1]:
            x = F.interpolate(x, size=(self.resize_px, self.resize_px), mode="bilinear", align_corners=False)
        if self.mirror and not self.training:
            mean: Tensor = (self.network(x) + self.network(x.flip(-1))) / 2
            return mean
        logits: Tensor = self.network(x)
        return logits

    def probabilities(self, x: Tensor) -> Tensor:
        """Compute the softmax of the logits (N, num_classes) from images (N, in_channels, H, W)."""
        return torch.softmax(self(x), dim=1)


def _build(name: str, in_channels: int, num_classes: int) -> nn.Module:
    import timm

    if not timm.is_model(name):
        raise UserError(f"timm has no network {name!r}; {_suggest_name(name, timm.list_models())}")
    network: nn.Module = timm.create_model(name, pretrained=False, in_chans=in_channels, num_classes=num_classes)
    return network


def _suggest_name(name: str, known: list[str]) -> str:
    hint = suggest_name(name.lower(), known)
    return hint if hint.startswith("did you mean") else "timm.list_models() names them"
