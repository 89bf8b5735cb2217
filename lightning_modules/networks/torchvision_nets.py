"""The classification networks of torchvision, by name: AlexNet, VGG, GoogLeNet, ResNet, DenseNet and the others.

They were designed for images of 224 px. The stem of nearly all of them makes an image four times smaller before
the first block, which leaves too little of 28 or 32 px. `apply_small_stem` adapts all of them by the same rule.
torchvision is imported only when a network is built.
"""

from typing import Any, Literal

import torch
from torch import Tensor, nn

from imageset.exceptions import UserError
from imageset.utils.text import suggest_name

Stem = Literal["auto", "standard", "small"]
SMALL_STEM_BELOW_PX = 64  # smaller images get the small stem

# With the standard stem, smaller images leave nothing for the last layers.
FAMILY_MIN_SIDE_PX = {
    "alexnet": 63, "convnext": 32, "densenet": 29, "googlenet": 15, "inception": 75, "squeezenet": 21, "vgg": 32,
}  # fmt: skip
FIXED_SIZE_PREFIXES = ("vit_", "maxvit_")  # their position embeddings are as large as the image
FIXED_SIZE_PX = 224
WITH_AUXILIARY_CLASSIFIERS = ("googlenet", "inception_v3")


class TorchvisionNet(nn.Module):
    """A network of torchvision with random weights; nothing is downloaded.

    Args:
        in_channels: 1 or 3. For 1, see `convert_to_one_channel`.
        num_classes: number of logits.
        name: as in torchvision.models: `alexnet`, `vgg11` to `vgg19` and `vgg11_bn` to `vgg19_bn`, `googlenet`,
            `resnet18` to `resnet152`, `densenet121` to `densenet201`, `mobilenet_v3_small`, `efficientnet_b0`, ...
            GoogLeNet and Inception are built without their auxiliary classifiers.
        stem: `standard`, the network as published, for images of 64 px and more (inception_v3: from 75 px; vit
            and maxvit: 224 px only); `small`, see `apply_small_stem`, for images below 64 px, down to 28; `auto`,
            chosen by the side of the dataset's images before the network is built, see `choose_stem`.

    Raises:
        UserError: torchvision has no such network, or there is no such stem, or not for this network.

    Source: torchvision.models, https://docs.pytorch.org/vision/stable/models.html
    """

    def __init__(self, in_channels: int, num_classes: int, name: str, stem: Stem = "auto") -> None:
        super().__init__()
        if stem not in ("standard", "small"):
            raise UserError(f"TorchvisionNet: stem is {stem!r}; choose standard or small")
        if stem == "small" and name.startswith(FIXED_SIZE_PREFIXES):
            raise UserError(f"TorchvisionNet: {name} takes {FIXED_SIZE_PX} px only; choose another network")
        self.name, self.stem = name, stem
        self.network = _build(name, num_classes)
        if stem == "small":
            apply_small_stem(self.network)
        if in_channels == 1:
            convert_to_one_channel(_find_first_convolution(self.network))

    def forward(self, x: Tensor) -> Tensor:
        """Compute logits (N, num_classes) from images (N, in_channels, H, W).

        Raises:
            UserError: the images are too small for this network, or not of its only size.
        """
        if self.stem == "standard":
            _check_size(self.name, *x.shape[-2:])
        logits: Tensor = self.network(x)
        return logits

    def probabilities(self, x: Tensor) -> Tensor:
        """Compute the softmax of the logits (N, num_classes) from images (N, in_channels, H, W)."""
        return torch.softmax(self(x), dim=1)


def choose_stem(name: str, side_px: int) -> Stem:
    """Choose the stem for images of `side_px`: small below 64 px or below the minimum of the standard stem."""
    if name.startswith(FIXED_SIZE_PREFIXES):
        return "standard"  # the only stem; forward() raises UserError for other sizes
    return "small" if side_px < max(SMALL_STEM_BELOW_PX, _find_min_side_px(name)) else "standard"


def apply_small_stem(network: nn.Module) -> None:
    """Set the stride of the first convolution to 1, and remove the first max pooling, if there is one.

    Every weight keeps its shape, so the number of parameters is the published one, and weights trained with the
    standard stem fit. For an image of 32 px, ResNet's first block receives 32 x 32 instead of 8 x 8.
    """
    _find_first_convolution(network).stride = (1, 1)
    pools = [path for path, layer in network.named_modules() if isinstance(layer, nn.MaxPool2d)]
    if pools:
        network.set_submodule(pools[0], nn.Identity())


def convert_to_one_channel(convolution: nn.Conv2d) -> None:
    """Convert a convolution over three channels to one channel; its output is that for three equal channels."""
    weight = convolution.weight.detach().sum(1, keepdim=True)  # (F, 3, k, k) -> (F, 1, k, k)
    convolution.weight, convolution.in_channels = nn.Parameter(weight), 1


def _build(name: str, num_classes: int) -> nn.Module:
    from torchvision import models

    known = models.list_models(module=models)
    if name not in known:
        raise UserError(
            f"TorchvisionNet: torchvision has no network {name!r}; {suggest_name(name.lower(), known)}"
        )
    options: dict[str, Any] = {}
    if name in WITH_AUXILIARY_CLASSIFIERS:
        options = {"aux_logits": False, "init_weights": True}
    network: nn.Module = models.get_model(name, weights=None, num_classes=num_classes, **options)
    return network


def _check_size(name: str, height: int, width: int) -> None:
    if name.startswith(FIXED_SIZE_PREFIXES) and (height, width) != (FIXED_SIZE_PX, FIXED_SIZE_PX):
        raise UserError(
            f"{name} takes pictures of {FIXED_SIZE_PX} px only, these have {height} x {width}; "
            f"set normalize.size_px: {FIXED_SIZE_PX}, or choose another network"
        )
    min_side = _find_min_side_px(name)
    if min(height, width) < min_side:
        raise UserError(
            f"{name} with stem: standard takes pictures of {min_side} px and more, these have {height} x {width}; "
            "set stem: small, or a larger normalize.size_px"
        )


def _find_min_side_px(name: str) -> int:
    return max([px for family, px in FAMILY_MIN_SIDE_PX.items() if name.startswith(family)], default=1)


def _find_first_convolution(network: nn.Module) -> nn.Conv2d:
    return next(layer for layer in network.modules() if isinstance(layer, nn.Conv2d))
