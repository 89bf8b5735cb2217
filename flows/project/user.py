"""The name of the user and the machine that run a command."""

from __future__ import annotations

import getpass
import os
import socket


def identify_user() -> str:
    """Return `user@machine`."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container whose user has no name
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"
