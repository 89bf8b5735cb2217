"""Per-task timer and memory limit inside a worker."""

from __future__ import annotations

import resource
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

from imageset.rejections import Rejected

# Of memory a worker may take: the longest way, from palette with transparency to RGB, holds 16 bytes a pixel.
BYTES_PER_PIXEL, BASE_MEMORY_BYTES = 16, 768 << 20
_is_worker = _is_limited = False
_rearm_after = 0.0  # of time.monotonic


def map_with_timeout(function: Callable[[Any], Any], items: list[Any], timeout_s: float) -> list[Any]:
    """Apply the function to each item under a timer; a Rejected stands in the item's place."""
    results: list[Any] = []
    for item in items:
        set_timer(timeout_s)
        try:
            results.append(function(item))
        except Rejected as rejected:
            results.append(rejected)
    set_timer(0)
    return results


def set_timer(seconds: float) -> None:
    """Let the kernel end this worker after so long (SIGALRM, default action), unless set anew; 0 sets it off.

    That works even in the middle of a decoder's C code: a hang cannot outlive its parent. It may take an eighth
    longer, so that not every small picture costs a system call. Where this process is no worker nothing happens.
    """
    global _rearm_after
    if _is_worker and (not seconds or time.monotonic() >= _rearm_after):
        signal.setitimer(signal.ITIMER_REAL, seconds * 9 / 8)
        _rearm_after = time.monotonic() + seconds / 8 if seconds else 0.0


def limit_memory(max_pixels: int) -> None:
    """Let this worker take no more memory than a picture of so many pixels may need; more raises MemoryError.

    Where this process is no worker of ours nothing happens.
    """
    if _is_limited:
        most = BYTES_PER_PIXEL * max_pixels + BASE_MEMORY_BYTES
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        resource.setrlimit(resource.RLIMIT_DATA, (most if hard < 0 else min(most, hard), hard))


def enable_memory_limit() -> None:
    """Let `limit_memory` take effect in this process, on Linux: elsewhere the limit is not enforced."""
    global _is_limited
    _is_limited = sys.platform == "linux"


def become_worker() -> None:
    """From now on a hang ends this process (see timer), and max_pixels is the only limit of its kind."""
    global _is_worker
    _is_worker = True
    lift_pillow_limit()


def lift_pillow_limit() -> None:
    """max_pixels is the limit; Pillow's own, global one would stand in its way."""
    from PIL import Image

    Image.MAX_IMAGE_PIXELS = None
