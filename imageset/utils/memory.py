"""Settings of the memory allocators: return freed memory to the system, or keep it for reuse."""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

# The memory of a worker that decodes: for each pixel of the largest image that is allowed, but at least 1 GB.
BYTES_PER_PIXEL, MIN_MEMORY_BYTES = 5.5, 1_000_000_000
BASE_MEMORY_BYTES = 96 << 20  # of the worker itself, without an image

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3  # of glibc's malloc.h
MAX_MALLOPT_VALUE = 2**31 - 1  # mallopt takes an int
_MMAP_THRESHOLD_BYTES = 1 << 19  # larger blocks are mapped one by one, and unmapped when they are freed
_WORKER_THRESHOLD_BYTES = 8 << 20  # in a worker process, which soon needs as much again
_MAX_BUFFER_BYTES = 4 << 20  # larger buffers are rarely needed again
_thread_buffers = threading.local()


def compute_memory_limit(max_pixels: int) -> int:
    """Return the bytes of memory that a worker may use whose images have at most `max_pixels` pixels."""
    return max(MIN_MEMORY_BYTES, int(BYTES_PER_PIXEL * max_pixels))


def give_freed_memory_back() -> None:
    """Make this process return freed memory to the system, which Arrow's and glibc's allocators would keep.

    Call it before pyarrow is imported.
    """
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # a libc without mallopt
            ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, _MMAP_THRESHOLD_BYTES)


def keep_freed_memory() -> None:
    """Make a worker process keep freed memory.

    New pages, which the kernel clears first, cost as much as the work on them.
    """
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            for setting in (M_MMAP_THRESHOLD, M_TRIM_THRESHOLD):
                ctypes.CDLL(None).mallopt(setting, _WORKER_THRESHOLD_BYTES)


def trim_memory() -> None:
    """Return the memory of many freed small objects to the system."""
    if arrow := sys.modules.get("pyarrow"):
        arrow.default_memory_pool().release_unused()
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)


def reuse_buffer(num_bytes: int, purpose: str = "pixels") -> np.ndarray:
    """Return a buffer of undefined content that is valid until this thread asks for one of the same purpose again.

    New memory costs as much as the work on it, because the kernel clears every page first.

    Args:
        num_bytes: length of the buffer.
        purpose: buffers of different purposes do not overlap.

    Returns:
        uint8 (num_bytes,).
    """
    import numpy as np

    buffers: dict[str, np.ndarray] = _thread_buffers.__dict__
    buffer = buffers.get(purpose)
    if buffer is None or len(buffer) < num_bytes:
        buffer = np.empty(num_bytes, np.uint8)
        if num_bytes <= _MAX_BUFFER_BYTES:
            buffers[purpose] = buffer
    return buffer[:num_bytes]


def keep_large_blocks() -> bool:
    """Serve blocks of any size from the heap and keep freed blocks; return False on a system without glibc."""
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    settings = {M_MMAP_THRESHOLD: 2**30, M_TRIM_THRESHOLD: MAX_MALLOPT_VALUE, M_TOP_PAD: 2**28}
    return all(mallopt(name, value) == 1 for name, value in settings.items())
