"""Freed memory goes back to the system: Arrow's allocator and glibc's would keep it."""

from __future__ import annotations

import ctypes
import os
import sys
from contextlib import suppress

_M_MMAP_THRESHOLD = -3  # of glibc's malloc.h
_LARGE = 1 << 19  # bytes; what is larger is mapped alone, and unmapped when it is freed


def give_freed_memory_back() -> None:
    """For a whole process; to be called before pyarrow is imported."""
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # another libc
            ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _LARGE)


def trim() -> None:
    """Give back what small objects left behind, after many of them."""
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)
