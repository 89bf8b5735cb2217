"""Network specifications in `model.network`: a name, a name with arguments, or a class path.

    network: resnet18                                   # torchvision's, by name
    network: timm/resnet26d                             # timm's, by name
    network: efficientnet_lite0                         # timm's, whose weights are installed with Convoy
    network: LeNet5                                     # Convoy's
    network: auto                                       # the better of efficientnet_lite0 and ConvNet
    network: {class_path: ConvNet, init_args: {filters: [16, 32]}}
    network: {class_path: my_package.MyNet, init_args: {width: 3}}

A class path names a class or function that takes `(in_channels, num_classes)` first and returns an nn.Module.
"""

import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from imageset.exceptions import UserError
from imageset.utils.text import suggest_name
from lightning_modules.networks.weights.installed import INSTALLED_NETWORK
from lightning_modules.project_code.code_copy import CodeCopy

AUTO = "auto"  # chosen for the dataset, see lightning_modules.training.auto_network
NETWORKS_PACKAGE = "lightning_modules.networks"
INSTALLED_ALIAS = "efficientnet_lite0"  # timm's name has the prefix tf_
OWN_NETWORKS = ("ConvNet", "LeNet5", "SpeedNet", "TimmNet", "TorchvisionNet")


def parse_network_spec(network: Any) -> dict[str, Any]:
    """Return the value of `model.network` in its full form {"class_path", "init_args"}.

    Raises:
        UserError: the value is neither a name nor a class path, or no network has that name.
    """
    if isinstance(network, str):
        network = {"class_path": network}
    if not isinstance(network, Mapping) or not isinstance(network.get("class_path"), str):
        raise UserError("model.network: give a name such as resnet18, or class_path and init_args")
    if unknown := sorted(set(network) - {"class_path", "init_args"}):
        hint = suggest_name(unknown[0], ("class_path", "init_args"))
        raise UserError(f"model.network: unknown key '{unknown[0]}'; {hint}")
    path, arguments = network["class_path"], dict(network.get("init_args") or {})
    if path == INSTALLED_ALIAS:
        path = f"timm/{INSTALLED_NETWORK}"
    if path in OWN_NETWORKS:
        path = f"{NETWORKS_PACKAGE}.{path}"
    elif path.startswith("timm/"):
        path, arguments = f"{NETWORKS_PACKAGE}.TimmNet", {"name": path.removeprefix("timm/"), **arguments}
    elif "." not in path:
        _check_torchvision_name(path)
        path, arguments = f"{NETWORKS_PACKAGE}.TorchvisionNet", {"name": path, **arguments}
    return {"class_path": path, "init_args": arguments}


def import_network(class_path: str, code: CodeCopy | None = None) -> Callable[..., Any]:
    """Import the class or function at a class path.

    Args:
        class_path: module and name.
        code: copies of a project's own modules; one of them goes before a module of the same name.

    Raises:
        UserError: it cannot be imported, or it does not take (in_channels, num_classes) first.
    """
    module_name, _, name = class_path.rpartition(".")
    is_copied = code is not None and code.holds(module_name)
    import_module = code.import_module if code is not None and is_copied else importlib.import_module
    try:
        network = getattr(import_module(module_name), name)
    except (ImportError, AttributeError, ValueError, OSError) as error:  # OSError: it reads a file beside itself
        raise UserError(f"network {class_path!r} cannot be imported: {error}") from error
    if not callable(network) or len(list_dataset_arguments(network)) < 2:
        raise UserError(f"network {class_path!r} does not take (in_channels, num_classes) first")
    return network


def list_dataset_arguments(network: Callable[..., Any]) -> list[str]:
    """List the names of the first two arguments, in_channels and num_classes, which the dataset provides."""
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(network).parameters.values()
    return [p.name for p in parameters if p.kind in positional and p.default is p.empty][:2]


def resolve_stem(network: Mapping[str, Any], side_px: int) -> dict[str, Any]:
    """Replace `stem: auto` by the stem for images of `side_px`, see `torchvision_nets.choose_stem`.

    For a network that enlarges its images, the enlarged side counts.
    """
    from lightning_modules.networks.torchvision_nets import choose_stem

    arguments = dict(network["init_args"])
    if arguments.get("stem") == "auto":
        arguments["stem"] = choose_stem(str(arguments["name"]), arguments.get("resize_px") or side_px)
    return {"class_path": network["class_path"], "init_args": arguments}


def _check_torchvision_name(name: str) -> None:
    from torchvision import models

    known = models.list_models(module=models)
    if name not in known:
        hint = suggest_name(name.lower(), [*known, *OWN_NETWORKS, INSTALLED_ALIAS])
        raise UserError(f"model.network: no network is called {name!r}; {hint}")


def get_display_name(network: Mapping[str, Any]) -> str:
    """Return the name of a network for people: `resnet18` of torchvision's and timm's, else the class, `ConvNet`.

    Args:
        network: {"class_path", "init_args"}.
    """
    return str(network["init_args"].get("name") or network["class_path"].rpartition(".")[-1])
