"""Files of a cache that carry the SHA-256 of their content, so that damage is noticed before they are used.

The first line of such a file is "sha256:" and the digest; the content follows it, unchanged.
"""

from __future__ import annotations

import errno
import hashlib
import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from imageset.utils.atomic_write import write_bytes

PREFIX = b"sha256:"
HEADER_BYTES = len(PREFIX) + 64 + 1


def write_checked(path: str | Path, data: bytes) -> None:
    """Write a file with its digest, atomically."""
    write_bytes(path, PREFIX + hashlib.sha256(data).hexdigest().encode() + b"\n" + data)


def seal_file(path: Path) -> None:
    """Add the digest to a file that another library has written."""
    write_checked(path, path.read_bytes())


def read_checked(
    path: Path,
    consequence: str,
    report: Callable[[str], None],
    is_older_format: Callable[[bytes], bool] = lambda data: False,
) -> bytes | None:
    """Return the content of a file of `write_checked`; a damaged file is removed, with a line.

    Args:
        path: the file.
        consequence: what follows for the user if it is damaged, e.g. "its features are computed again".
        report: shows the line.
        is_older_format: whether content without a digest is that of an earlier version, which is used as it is.

    Returns:
        The content; None if the file is missing or was damaged.

    Raises:
        OSError: the file is there and cannot be read.
    """
    try:
        stored = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        stored = b""  # the disk cannot read it any more
    data = _extract_content(stored)
    if data is None and is_older_format(stored):
        return stored
    if data is None:
        with suppress(OSError):  # on a read-only disk it stays, and is not used
            path.unlink()
        is_damaged = not stored or stored.startswith(PREFIX)
        problem = "damaged" if is_damaged else "without a digest, as an earlier version wrote it,"
        report(f"{path}: {problem} and removed; {consequence}")
    return data


def is_json_object(data: bytes) -> bool:
    """Return whether content is a JSON object, as earlier versions wrote it without a digest."""
    try:
        return isinstance(json.loads(data), dict)
    except ValueError:
        return False


def _extract_content(stored: bytes) -> bytes | None:
    """Return what follows the header, or None if the header does not have its digest."""
    header, data = stored[:HEADER_BYTES], stored[HEADER_BYTES:]
    return data if header == PREFIX + hashlib.sha256(data).hexdigest().encode() + b"\n" else None
