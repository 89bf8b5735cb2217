"""Permissions of files, which root does not notice unless it gives up the right to pass over them."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager

VERSION = 0x20080522  # of Linux's interface
PR_GET_SECUREBITS, PR_SET_SECUREBITS = 27, 28
NO_ROOT, NO_SETUID_FIXUP = 1 << 0, 1 << 2  # else a program that is executed, or access(2), has all rights again
OVERRIDE = 1 << 1 | 1 << 2  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Rights(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


@contextmanager
def obey_permissions() -> Iterator[None]:
    """Let this thread, and what it starts, read and write only what permissions allow, even as root of Linux."""
    if os.geteuid() != 0:
        yield
        return
    libc = ctypes.CDLL(None, use_errno=True)
    header, rights = _Header(VERSION, 0), (_Rights * 2)()

    def call(name: str) -> None:
        if getattr(libc, name)(ctypes.byref(header), rights) != 0:
            raise OSError(ctypes.get_errno(), name)

    call("capget")
    if not rights[0].effective & OVERRIDE:
        yield
        return
    before, bits = rights[0].effective, libc.prctl(PR_GET_SECUREBITS, 0, 0, 0, 0)
    if libc.prctl(PR_SET_SECUREBITS, bits | NO_ROOT | NO_SETUID_FIXUP, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")
    rights[0].effective = before & ~OVERRIDE
    call("capset")
    try:
        yield
    finally:
        rights[0].effective = before
        call("capset")
        libc.prctl(PR_SET_SECUREBITS, bits, 0, 0, 0)
