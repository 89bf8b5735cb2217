"""Errors whose message is written for the user.

UserError                input of the user cannot be used; one line: what is wrong, where, what to do
└── (subclasses in the other packages: lightning_modules and flows derive theirs from it)

Every `__main__` prints `error: <message>` to stderr and exits with EXIT_STATUS, without a traceback. The same
holds for errors of the system, such as a full disk (imageset.system_errors).
"""

from __future__ import annotations

EXIT_STATUS = 2


class UserError(ValueError):
    """Input of the user cannot be used; the message says what is wrong, where, and what to do."""
