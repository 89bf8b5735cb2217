"""The timer for each task and the memory limit inside a worker."""

from __future__ import annotations

import resource
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from imageset.rejections import Rejected
from imageset.utils.memory import compute_memory_limit

_STATM = Path("/proc/self/statm")
_is_worker = _is_limited = False
_rearm_after = 0.0  # time.monotonic() from which on the timer is set again


def map_with_timeout(function: Callable[[Any], Any], items: list[Any], timeout_s: float) -> list[Any]:
    """Apply a function to each item, with a timer for each.

    Args:
        function: called with one item.
        items: the arguments.
        timeout_s: seconds for one item.

    Returns:
        For each item the result, or the Rejected that the function raised.
    """
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
    """Let the kernel end this worker after a time (SIGALRM, default action) unless the timer is set again.

    The timer also ends a decoder that hangs in C code. It may fire an eighth later than asked for, so that not
    every small image costs a system call. In a process that is not a worker nothing happens.

    Args:
        seconds: the time; 0 stops the timer.
    """
    global _rearm_after
    if _is_worker and (not seconds or time.monotonic() >= _rearm_after):
        signal.setitimer(signal.ITIMER_REAL, seconds * 9 / 8)
        _rearm_after = time.monotonic() + seconds / 8 if seconds else 0.0


def limit_memory(max_pixels: int) -> None:
    """Limit the memory of this worker to the need of an image of `max_pixels`; beyond it MemoryError is raised.

    The kernel limits what a process has reserved, which is more than what it uses: the difference is added.
    Nothing happens in a process that has not called `enable_memory_limit`.
    """
    if _is_limited:
        limit = compute_memory_limit(max_pixels) + _read_unused_bytes()
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        resource.setrlimit(resource.RLIMIT_DATA, (limit if hard < 0 else min(limit, hard), hard))


def _read_unused_bytes() -> int:
    """Return how much more memory this process has reserved than it uses."""
    _, used, _, _, _, reserved, _ = map(int, _STATM.read_bytes().split())
    return (reserved - used) * resource.getpagesize()


def enable_memory_limit() -> None:
    """Let `limit_memory` take effect in this process; only Linux enforces the limit."""
    global _is_limited
    _is_limited = sys.platform == "linux"


def become_worker() -> None:
    """Mark this process as a worker: timers take effect (see `set_timer`), and Pillow's limit is lifted."""
    global _is_worker
    _is_worker = True
    lift_pillow_limit()


def lift_pillow_limit() -> None:
    """Remove Pillow's global limit on the number of pixels; `max_pixels` of the DecodeSpec replaces it."""
    from PIL import Image

    Image.MAX_IMAGE_PIXELS = None
