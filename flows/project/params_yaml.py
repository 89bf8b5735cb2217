"""Read params.yaml, change values in it, and write it back with its comments and order."""

from __future__ import annotations

import io
from collections.abc import MutableMapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imageset.exceptions import UserError
from imageset.utils.atomic_write import write_bytes

if TYPE_CHECKING:
    from ruamel.yaml import YAML


def read_commented_yaml(path: Path) -> Any:
    """Return a YAML file as nested mappings that keep comments, quotes and order.

    Raises:
        UserError: the file is missing, is not YAML, or holds no mapping.
    """
    from ruamel.yaml.error import YAMLError

    try:
        document = _make_yaml().load(path.read_bytes())
    except (OSError, YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not readable as YAML: {' '.join(str(error).split())[:200]}") from None
    if not isinstance(document, MutableMapping):
        raise UserError(f"{path}: holds no keys")
    return document


def write_commented_yaml(path: Path, document: Any) -> None:
    """Write what `read_commented_yaml` returned; the file is replaced atomically."""
    text = io.BytesIO()
    _make_yaml().dump(document, text)
    write_bytes(path, text.getvalue())


def to_yaml_value(value: Any) -> Any:
    """Return a Python value in a form that is written so that PyYAML and DVC read the same value.

    0.00001 is written 1.0e-05, since 1e-05 is text to both.
    """
    import yaml

    return _make_yaml().load(yaml.safe_dump({"value": value}, default_flow_style=True))["value"]


def _make_yaml() -> YAML:
    from ruamel.yaml import YAML, RoundTripRepresenter

    class Representer(RoundTripRepresenter):
        """A representer that writes None as null, where ruamel.yaml writes nothing."""

    Representer.add_representer(
        type(None), lambda self, _: self.represent_scalar("tag:yaml.org,2002:null", "null")
    )
    yaml = YAML()
    yaml.Representer = Representer
    yaml.preserve_quotes = True
    yaml.width = 4096  # no line is wrapped
    return yaml
