"""The version of Convoy that is installed."""

from __future__ import annotations

DISTRIBUTION = "convoy-vision"
UNKNOWN = "unknown"


def get_version() -> str:
    """Return the version of the installed distribution; "unknown" for code that is only on the path."""
    from importlib.metadata import PackageNotFoundError, version  # takes as long to import as all of `--help`

    try:
        return version(DISTRIBUTION)
    except PackageNotFoundError:
        return UNKNOWN
