"""Pretrained weights: read without unpickling and loaded into a network, or rejected with the reason.

Weights of each source come with a description of the images that they were trained on.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from imageset.exceptions import UserError
from lightning_modules.networks.weights.downloads import download_weights
from lightning_modules.networks.weights.training_images import Statistics, TrainingImages, describe_training_images

if TYPE_CHECKING:
    from lightning_modules.bundle import Bundle

StateDict = Mapping[str, Tensor]

WRAPPER_PREFIXES = ("module.", "model.", "network.", "_orig_mod.")  # trainers and torch.compile prepend them
STATE_DICT_KEYS = ("state_dict", "model_state_dict", "model")  # keys of a checkpoint that hold the weights


@dataclass(frozen=True)
class PretrainedWeights:
    """Pretrained weights and the data they were trained on.

    Attributes:
        name: the value of `model.weights` in params.yaml.
        state: name -> weights.
        digest: SHA-256 of the weights.
        images: the images that the weights were trained on.
        classes: classes of the head, if they are known.
    """

    name: str
    state: StateDict
    digest: str
    images: TrainingImages
    classes: tuple[str, ...] | None = None


def read_weights(
    weights: str, network: Mapping[str, Any], load_registered: Callable[[str], "Bundle"]
) -> PretrainedWeights:
    """Read the weights that `model.weights` names.

    Args:
        weights: `DEFAULT` (see `weights.downloads`), `models:/NAME@ALIAS` or `models:/NAME/VERSION` (MLflow), or
            the path of a .safetensors file or of a state dict that torch.save wrote (.pth, .pt).
        network: {"class_path", "init_args"} of the network that receives the weights.
        load_registered: loads the bundle of a `models:/` URI: `tracking.model_download.load_bundle`, which this
            package cannot import.

    Raises:
        UserError: there are no such weights, or the file holds no state dict.
    """
    if weights.startswith("models:/"):
        return _read_registered(weights, load_registered)
    images = describe_training_images(network)
    if weights == "DEFAULT":
        state = download_weights(network)
        return PretrainedWeights(weights, state, _hash_state_dict(state), images)
    data = _read_bytes(Path(weights))
    return PretrainedWeights(
        weights, _parse_state_dict(Path(weights), data), hashlib.sha256(data).hexdigest(), images
    )


@dataclass(frozen=True)
class LoadResult:
    """The outcome of loading pretrained weights into a network.

    Attributes:
        keeps_head: whether the head is pretrained, too.
        summary: a line that describes what was loaded.
    """

    keeps_head: bool
    summary: str


def load_pretrained(network: nn.Module, weights: PretrainedWeights, classes: Sequence[str]) -> LoadResult:
    """Load pretrained weights into a network; its head stays new if the classes differ.

    A first convolution over one channel receives the sum of the filters for three channels, so it computes what
    they compute for three equal channels.

    Args:
        network: the network; it is unchanged if an error is raised.
        weights: the pretrained weights.
        classes: names of the network's classes.

    Raises:
        UserError: a weight is missing, unexpected, or of a different shape.
    """
    own = network.state_dict()
    given = _match_names(weights.state, own)
    given = {name: value for name, value in given.items() if not _is_auxiliary(name)}
    head = find_head(network, len(classes))
    first = _find_first_conv_weight(network)
    if first in given and own[first].shape[1] == 1 and given[first].shape[1] == 3:
        given[first] = given[first].sum(1, keepdim=True)  # (F, 3, k, k) -> (F, 1, k, k)

    head_names = [name for name in own if name.startswith(f"{head}.")]
    keeps_head = all(name in given and given[name].shape == own[name].shape for name in head_names)
    keeps_head = keeps_head and weights.classes in (None, tuple(classes))
    if not keeps_head:
        num_given = given[f"{head}.weight"].shape[0] if f"{head}.weight" in given else "no"
        given = {name: value for name, value in given.items() if not name.startswith(f"{head}.")}
        given |= {name: own[name] for name in head_names}
    for name, value in own.items():
        if name.endswith("num_batches_tracked"):  # older files lack this counter
            given.setdefault(name, value)
    _check_fits(weights.name, given, own)
    network.load_state_dict(given)
    if keeps_head:
        return LoadResult(True, f"weights: {weights.name}, the head included")
    return LoadResult(
        False,
        f"weights: {weights.name}; its head '{head}' for {num_given} classes was replaced by a new one for "
        f"{len(classes)}",
    )


def find_head(network: nn.Module, num_classes: int) -> str:
    """Return the name of the last layer, which returns the logits.

    Raises:
        UserError: no linear layer or convolution has `num_classes` outputs.
    """
    layers = [(name, layer) for name, layer in network.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    for name, layer in reversed(layers):
        if (layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels) == num_classes:
            return name
    raise UserError(f"model.network: no layer returns {num_classes} logits, so it has no head to replace")


def list_backbone_layers(network: nn.Module, num_classes: int) -> list[nn.Module]:
    """List the layers that have weights of their own, in the order of the network, without the head."""
    head = find_head(network, num_classes)
    return [
        layer for name, layer in network.named_modules()
        if name != head and next(layer.parameters(recurse=False), None) is not None
    ]  # fmt: skip


def adapt_statistics(statistics: Statistics, channels: int) -> Statistics:
    """Return the mean and standard deviation for `channels` channels; one channel gets the mean over three."""
    mean, std = statistics
    if len(mean) == channels:
        return statistics
    return (sum(mean) / len(mean),) * channels, (sum(std) / len(std),) * channels


def _read_registered(uri: str, load_registered: Callable[[str], "Bundle"]) -> PretrainedWeights:
    bundle = load_registered(uri)
    info = bundle.info
    return PretrainedWeights(
        uri,
        bundle.network.state_dict(),
        bundle.digest,
        TrainingImages((info.mean, info.std), bundle.spec.size),
        tuple(info.classes),
    )


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        hint = "give DEFAULT, a file, models:/NAME@ALIAS, or null"
        raise UserError(f"model.weights: {path}: {error.strerror}; {hint}") from error


def _parse_state_dict(path: Path, data: bytes) -> StateDict:
    """Read the tensors in a file; no code in it is executed."""
    import io

    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load as load_safetensors

            return dict(load_safetensors(data))
        state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises many kinds of errors for a damaged file
        reason = " ".join(str(error).split())[:120]
        raise UserError(f"model.weights: {path}: not a state dict of tensors ({reason})") from error
    for key in STATE_DICT_KEYS:
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    if (
        not isinstance(state, Mapping)
        or not all(isinstance(value, Tensor) for value in state.values())
        or not state
    ):
        raise UserError(f"model.weights: {path}: holds {type(state).__name__}, not a state dict of tensors")
    return state


def _hash_state_dict(state: StateDict) -> str:
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(name.encode())
        digest.update(state[name].detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _match_names(given: StateDict, own: StateDict) -> dict[str, Tensor]:
    """Rename the given weights to the network's names, ignoring the wrapper prefixes of both."""

    def strip_prefixes(name: str) -> str:
        while prefix := next((p for p in WRAPPER_PREFIXES if name.startswith(p)), ""):
            name = name.removeprefix(prefix)
        return name

    own_names = {strip_prefixes(name): name for name in own}
    bare_names = {name: strip_prefixes(name) for name in given}
    return {own_names.get(bare_names[name], bare_names[name]): value for name, value in given.items()}


def _is_auxiliary(name: str) -> bool:
    """Return whether the weight belongs to an auxiliary classifier of GoogLeNet or Inception."""
    return any(part in ("aux1", "aux2", "AuxLogits") for part in name.split("."))


def _find_first_conv_weight(network: nn.Module) -> str:
    """Return the name of the first convolution's weights; empty if there is no convolution."""
    return next((f"{name}.weight" for name, m in network.named_modules() if isinstance(m, nn.Conv2d)), "")


def _check_fits(weights_name: str, given: StateDict, own: StateDict) -> None:
    shapes = [
        f"{name} is {list(given[name].shape)}, the network has {list(own[name].shape)}"
        for name in own if name in given and given[name].shape != own[name].shape
    ]  # fmt: skip
    problems = {
        "missing": [name for name in own if name not in given],
        "unexpected": [name for name in given if name not in own],
        "of a different shape": shapes,
    }
    messages = [f"{len(names)} {kind} ({', '.join(names[:2])})" for kind, names in problems.items() if names]
    if messages:
        raise UserError(f"model.weights: {weights_name} does not fit model.network: {'; '.join(messages)}")
