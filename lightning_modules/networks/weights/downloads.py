"""`weights: DEFAULT`: the weights that the publisher of a network recommends.

EfficientNet-Lite0's are installed with Convoy; those of the other networks of torchvision and timm are downloaded
once, into the caches of these libraries (~/.cache/torch, ~/.cache/huggingface).
"""

from collections.abc import Mapping
from pickle import UnpicklingError
from typing import Any

from torch import Tensor

from imageset.exceptions import UserError
from lightning_modules.networks.weights.installed import INSTALLED_NETWORK, read_installed_weights

OFFLINE_HINT = "give a file, or network: efficientnet_lite0, whose weights are installed"


def download_weights(network: Mapping[str, Any]) -> Mapping[str, Tensor]:
    """Return the default weights of a network.

    Args:
        network: {"class_path", "init_args"}.

    Raises:
        UserError: the network is of neither library, has no weights, or they cannot be downloaded.
    """
    kind = network["class_path"].rpartition(".")[2]
    name = str(network["init_args"].get("name", ""))
    if kind == "TimmNet" and name == INSTALLED_NETWORK:
        return read_installed_weights()
    if kind == "TimmNet":
        return _download_from_timm(name)
    if kind == "TorchvisionNet":
        return _download_from_torchvision(name)
    raise UserError("model.weights: DEFAULT is for networks of torchvision and timm; give a file, or null")


def _download_from_torchvision(name: str) -> Mapping[str, Tensor]:
    from torchvision import models

    try:
        state: Mapping[str, Tensor] = models.get_model_weights(name).DEFAULT.get_state_dict(
            progress=False, check_hash=True, weights_only=True
        )
    except (OSError, RuntimeError, AttributeError, UnpicklingError) as error:
        raise _describe_failure(name, error) from error
    return state


def _download_from_timm(name: str) -> Mapping[str, Tensor]:
    import timm

    try:
        network = timm.create_model(name, pretrained=True)
    except Exception as error:  # of huggingface_hub, its HTTP client, safetensors and timm itself
        raise _describe_failure(f"timm/{name}", error) from error
    state: Mapping[str, Tensor] = network.state_dict()
    return state


def _describe_failure(name: str, error: Exception) -> UserError:
    reason = " ".join(str(error).split())[:200]
    return UserError(
        f"model.weights: the weights of {name} cannot be downloaded ({reason or type(error).__name__}); "
        f"{OFFLINE_HINT}"
    )
