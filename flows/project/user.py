"""Name the person or the machine that runs a command."""

from __future__ import annotations

import getpass
import os
import socket


def identify_user() -> str:
    """The user and the machine."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container without a name for its user
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"
