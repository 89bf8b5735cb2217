"""Errors written for a person.

UserError                what the user gave cannot be used; one line: what is wrong, where, what to do
└── (subclasses of the other packages: lightning_modules and flows derive theirs from here)

Every `__main__` prints `error: <message>` to stderr and exits with EXIT_STATUS, without a traceback.
"""

from __future__ import annotations

EXIT_STATUS = 2


class UserError(ValueError):
    """Something the user gave cannot be used; the message says what, where, and what to do."""
