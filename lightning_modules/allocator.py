"""Keep glibc from giving large blocks back to the kernel after every use.

A training step allocates and frees the same activations again and again. glibc maps large blocks afresh each time
(mallopt(3): M_MMAP_THRESHOLD), and the kernel fills them with zeros, page by page: with a small network that is a
large part of the step.
"""

import ctypes
import sys

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3  # malloc.h
LARGEST = 2**31 - 1  # bytes; mallopt takes an int


def keep_large_blocks() -> bool:
    """Serve blocks of any size from the heap and keep freed ones; False where there is no glibc to ask."""
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    settings = {M_MMAP_THRESHOLD: 2**30, M_TRIM_THRESHOLD: LARGEST, M_TOP_PAD: 2**28}
    return all(mallopt(name, value) == 1 for name, value in settings.items())
