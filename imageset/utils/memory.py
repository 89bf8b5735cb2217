"""Freed memory goes back to the system: Arrow's allocator and glibc's would keep it."""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
_MMAP_THRESHOLD_BYTES = 1 << 19  # bytes; what is larger is mapped alone, and unmapped when it is freed
_WORKER_THRESHOLD_BYTES = 8 << 20  # bytes; in a worker, which soon needs as much again
_MAX_BUFFER_BYTES = 4 << 20  # bytes; room for more is rarely needed again
_thread_buffers = threading.local()


def give_freed_memory_back() -> None:
    """For a whole process; to be called before pyarrow is imported."""
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # another libc
            ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _MMAP_THRESHOLD_BYTES)


def keep_freed_memory() -> None:
    """For a worker process: cleared pages cost as much as what is done with them."""
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            for setting in (_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD):
                ctypes.CDLL(None).mallopt(setting, _WORKER_THRESHOLD_BYTES)


def trim_memory() -> None:
    """Give back what small objects left behind, after many of them."""
    if arrow := sys.modules.get("pyarrow"):
        arrow.default_memory_pool().release_unused()
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)


def reuse_buffer(num_bytes: int, purpose: str = "pixels") -> np.ndarray:
    """uint8 (num_bytes,) of any content, good until this thread asks for room for the same use again.

    New memory costs as much as what is then done with it: the kernel clears every page first.
    """
    import numpy as np

    kept: dict[str, np.ndarray] = _thread_buffers.__dict__
    room = kept.get(purpose)
    if room is None or len(room) < num_bytes:
        room = np.empty(num_bytes, np.uint8)
        if num_bytes <= _MAX_BUFFER_BYTES:
            kept[purpose] = room
    return room[:num_bytes]


M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3  # malloc.h
MAX_MALLOPT_VALUE = 2**31 - 1  # bytes; mallopt takes an int


def keep_large_blocks() -> bool:
    """Serve blocks of any size from the heap and keep freed ones; False where there is no glibc to ask."""
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    settings = {M_MMAP_THRESHOLD: 2**30, M_TRIM_THRESHOLD: MAX_MALLOPT_VALUE, M_TOP_PAD: 2**28}
    return all(mallopt(name, value) == 1 for name, value in settings.items())
