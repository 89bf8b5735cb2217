"""The installed distribution: its name, its version, and the command that installs an optional part of it."""

from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

DISTRIBUTION = "convoy-vision"  # `convoy` on PyPI is another project's package
UNKNOWN_VERSION = "0+unknown"  # the packages are on PYTHONPATH and not installed


def get_version() -> str:
    """Return the version of the installed distribution."""
    try:
        return metadata.version(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        return UNKNOWN_VERSION


def format_install_command(extra: str) -> str:
    """Return the command that installs an extra, from where Convoy itself was installed.

    A clone or a wheel is named by its path as long as it is there, see PEP 610, else the distribution by its name.
    """
    is_editable, path = _read_origin()
    if path is None or not path.exists():
        return f"pip install '{DISTRIBUTION}[{extra}]'"
    if is_editable or path.is_dir():
        place = "." if path == Path.cwd() else path
        return f"pip install -e '{place}[{extra}]'"
    return f"pip install '{path}[{extra}]'"


def _read_origin() -> tuple[bool, Path | None]:
    """Return whether the installation is editable, and the local path that it came from."""
    try:
        text = metadata.distribution(DISTRIBUTION).read_text("direct_url.json")
        origin = json.loads(text or "{}")
        url = urlsplit(origin.get("url", ""))
    except (metadata.PackageNotFoundError, ValueError):
        return False, None
    path = Path(url2pathname(url.path)) if url.scheme == "file" else None
    return bool(origin.get("dir_info", {}).get("editable")), path
