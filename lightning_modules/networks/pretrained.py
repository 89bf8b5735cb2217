"""Trained weights to begin with: read without unpickling, fitted to the network, or refused with the reason.

Each kind of source comes with the mean and deviation of the pictures its weights have seen.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from imageset.exceptions import UserError
from lightning_modules.networks.torchvision_nets import WITH_AUXILIARY_CLASSIFIERS

if TYPE_CHECKING:
    from lightning_modules.bundle import Bundle

StateDict = Mapping[str, Tensor]
Statistics = tuple[tuple[float, ...], tuple[float, ...]]  # mean and standard deviation of each channel, in 0..1

IMAGENET_STATISTICS: Statistics = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
# torchvision's GoogLeNet and Inception were ported with the scale -1 to 1 of their first authors.
INCEPTION_STATISTICS: Statistics = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
WRAPPER_PREFIXES = ("module.", "model.", "network.", "_orig_mod.")  # what trainers put before the names of weights
STATE_DICT_KEYS = ("state_dict", "model_state_dict", "model")  # where a checkpoint keeps them


@dataclass(frozen=True)
class PretrainedWeights:
    """Trained weights.

    Attributes:
        name: as it stands in params.yaml.
        state: weights by name.
        digest: SHA-256 of the weights.
        statistics: of the pictures they were trained on.
        classes: which the head tells apart, where that is known.
    """

    name: str
    state: StateDict
    digest: str
    statistics: Statistics
    classes: tuple[str, ...] | None = None


def read_weights(
    weights: str, network: Mapping[str, Any], load_registered: Callable[[str], "Bundle"]
) -> PretrainedWeights:
    """Read weights from where `model.weights` says.

    Args:
        weights: `DEFAULT` (torchvision's download), `models:/NAME@ALIAS` or `models:/NAME/VERSION` (MLflow), or
            the path of a .safetensors file or of a state dict that torch.save wrote (.pth, .pt).
        network: {"class_path", "init_args"} of the network they are for.
        load_registered: loads the bundle of a `models:/` URI; `tracking.model_download.load_bundle`, which this
            package cannot import.

    Raises:
        UserError: there is no such thing, or it is no state dict.
    """
    if weights.startswith("models:/"):
        return _read_registered(weights, load_registered)
    name = str(network["init_args"].get("name", ""))
    statistics = INCEPTION_STATISTICS if name in WITH_AUXILIARY_CLASSIFIERS else IMAGENET_STATISTICS
    if weights == "DEFAULT":
        if not network["class_path"].endswith(".TorchvisionNet"):
            raise UserError("model.weights: DEFAULT is for torchvision's networks; give a file, or null")
        state = _download(name)
        return PretrainedWeights(weights, state, _hash_state_dict(state), statistics)
    data = _read_bytes(Path(weights))
    return PretrainedWeights(
        weights, _parse_state_dict(Path(weights), data), hashlib.sha256(data).hexdigest(), statistics
    )


def load_pretrained(network: nn.Module, weights: PretrainedWeights, classes: Sequence[str]) -> str:
    """Give the network the source's weights; its head stays new where it has other classes.

    A first convolution over grey gets the sum of the filters for three channels: it sees what they saw.

    Returns:
        One line that says what was done.

    Raises:
        UserError: a weight is missing, not known, or of another shape; nothing was changed.
    """
    own = network.state_dict()
    given = _match_names(weights.state, own)
    given = {name: value for name, value in given.items() if not _is_auxiliary(name)}
    head = find_head(network, len(classes))
    first = _find_first_conv_weight(network)
    if first in given and own[first].shape[1] == 1 and given[first].shape[1] == 3:
        given[first] = given[first].sum(1, keepdim=True)  # (F, 3, k, k) -> (F, 1, k, k)

    parts = [name for name in own if name.startswith(f"{head}.")]
    same = all(name in given and given[name].shape == own[name].shape for name in parts)
    same = same and weights.classes in (None, tuple(classes))
    if not same:
        there = given[f"{head}.weight"].shape[0] if f"{head}.weight" in given else "no"
        given = {name: value for name, value in given.items() if not name.startswith(f"{head}.")}
        given |= {name: own[name] for name in parts}
    for name, value in own.items():
        if name.endswith("num_batches_tracked"):  # older files have no such counter
            given.setdefault(name, value)
    _check_fits(weights.name, given, own)
    network.load_state_dict(given)
    if same:
        return f"weights: {weights.name}, the head included"
    return f"weights: {weights.name}; its head '{head}' for {there} classes gave way to one for {len(classes)}"


def find_head(network: nn.Module, num_classes: int) -> str:
    """The name of the last layer, the one that gives the logits.

    Raises:
        UserError: no linear layer or convolution gives as many numbers as there are classes.
    """
    layers = [(name, layer) for name, layer in network.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    for name, layer in reversed(layers):
        if (layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels) == num_classes:
            return name
    raise UserError(f"model.network: no layer gives the {num_classes} logits, so it has no head to replace")


def list_backbone_layers(network: nn.Module, num_classes: int) -> list[nn.Module]:
    """The layers that have weights of their own, in their order, without the head."""
    head = find_head(network, num_classes)
    return [
        layer for name, layer in network.named_modules()
        if name != head and next(layer.parameters(recurse=False), None) is not None
    ]  # fmt: skip


def adapt_statistics(statistics: Statistics, channels: int) -> Statistics:
    """Mean and deviation for pictures of that many channels; grey gets the mean of the colours'."""
    mean, std = statistics
    if len(mean) == channels:
        return statistics
    return (sum(mean) / len(mean),) * channels, (sum(std) / len(std),) * channels


def _read_registered(uri: str, load_registered: Callable[[str], "Bundle"]) -> PretrainedWeights:
    bundle = load_registered(uri)
    info = bundle.info
    return PretrainedWeights(
        uri, bundle.network.state_dict(), bundle.digest, (info.mean, info.std), tuple(info.classes)
    )


def _download(name: str) -> StateDict:
    from torchvision import models

    try:
        weights = models.get_model_weights(name).DEFAULT
        state: StateDict = weights.get_state_dict(progress=False, check_hash=True)
    except (OSError, RuntimeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"model.weights: the weights of {name} cannot be downloaded ({reason}); give a file"
        ) from error
    return state


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        hint = "give DEFAULT, a file, models:/NAME@ALIAS, or null"
        raise UserError(f"model.weights: {path}: {error.strerror}; {hint}") from error


def _parse_state_dict(path: Path, data: bytes) -> StateDict:
    """The tensors in a file; nothing in it is run."""
    import io

    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load as load_safetensors

            return dict(load_safetensors(data))
        found = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises whatever a broken file makes it raise
        reason = " ".join(str(error).split())[:120]
        raise UserError(f"model.weights: {path}: not a state dict of tensors ({reason})") from error
    for key in STATE_DICT_KEYS:
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            found = found[key]
    if (
        not isinstance(found, Mapping)
        or not all(isinstance(value, Tensor) for value in found.values())
        or not found
    ):
        raise UserError(f"model.weights: {path}: holds {type(found).__name__}, not a state dict of tensors")
    return found


def _hash_state_dict(state: StateDict) -> str:
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(name.encode())
        digest.update(state[name].detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _match_names(given: StateDict, own: StateDict) -> dict[str, Tensor]:
    """The given weights under the names of ours, whatever either side's wrapper puts before them."""

    def bare(name: str) -> str:
        while prefix := next((p for p in WRAPPER_PREFIXES if name.startswith(p)), ""):
            name = name.removeprefix(prefix)
        return name

    ours = {bare(name): name for name in own}
    return {ours.get(bare(name), bare(name)): value for name, value in given.items()}


def _is_auxiliary(name: str) -> bool:
    """Whether the weight belongs to a classifier that GoogLeNet and Inception have for training alone."""
    return any(part in ("aux1", "aux2", "AuxLogits") for part in name.split("."))


def _find_first_conv_weight(network: nn.Module) -> str:
    """The name of the first convolution's weights; empty where there is no convolution."""
    return next((f"{name}.weight" for name, m in network.named_modules() if isinstance(m, nn.Conv2d)), "")


def _check_fits(source: str, given: StateDict, own: StateDict) -> None:
    shapes = [
        f"{name} is {list(given[name].shape)} there and {list(own[name].shape)} here"
        for name in own if name in given and given[name].shape != own[name].shape
    ]  # fmt: skip
    wrong = {
        "missing": [name for name in own if name not in given],
        "not known here": [name for name in given if name not in own],
        "of another shape": shapes,
    }
    said = [f"{len(names)} {what} ({', '.join(names[:2])})" for what, names in wrong.items() if names]
    if said:
        raise UserError(f"model.weights: {source} does not fit model.network: {'; '.join(said)}")
