"""params.yaml as a person wrote it: read, changed in places, and written back with its comments."""

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
    """A YAML file as nested mappings that remember comments, quotes and order.

    Raises:
        UserError: there is no such file, it is not YAML, or no mapping.
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
    """The inverse of read; the file appears whole."""
    text = io.BytesIO()
    _make_yaml().dump(document, text)
    write_bytes(path, text.getvalue())


def to_yaml_value(value: Any) -> Any:
    """A value of Python's as it would have been read from a file that PyYAML and DVC read the same way: 0.00001 is
    written 1.0e-05, since 1e-05 is text to them."""
    import yaml

    return _make_yaml().load(yaml.safe_dump({"value": value}, default_flow_style=True))["value"]


def _make_yaml() -> YAML:
    from ruamel.yaml import YAML, RoundTripRepresenter

    class Representer(RoundTripRepresenter):
        """Writes null where ruamel would write nothing."""

    Representer.add_representer(
        type(None), lambda self, _: self.represent_scalar("tag:yaml.org,2002:null", "null")
    )
    yaml = YAML()
    yaml.Representer = Representer
    yaml.preserve_quotes = True
    yaml.width = 4096  # lines stay as long as they are
    return yaml
