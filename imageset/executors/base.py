"""The Source protocol, SourcePicture, and helpers that every source shares."""

from __future__ import annotations

import os
from concurrent.futures import Executor, ThreadPoolExecutor

from imageset.executors.limits import lift_pillow_limit

IMAGE_TIMEOUT_S = 60.0


class WorkerDied(Exception):
    """A worker process ended while it was at work.

    Attributes:
        reason: "crashed" or "timeout", as in rejections.REASONS.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail


def num_cpus() -> int:
    """Processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class BaseExecutor(Executor):
    """An executor as this module needs it; see imageset.executors.factory for the others.

    Attributes:
        num: tasks it works on at once.
        remote: whether the files of this machine are out of its reach.
    """

    num_workers: int = 1
    remote: bool = False

    def raise_if_stalled(self) -> None:
        """Called now and then while a result is waited for; raises UserError when none will come."""

    def release_workers(self) -> None:
        """Called when all work is done and more is not soon to come: let go of what takes memory."""


class ThreadExecutor(ThreadPoolExecutor, BaseExecutor):
    """Threads of this process: the decoders let go of Python's lock. A crash or a hang is not contained."""

    def __init__(self, num: int | None = None) -> None:
        self.num_workers = max(1, num or num_cpus())
        super().__init__(self.num_workers, thread_name_prefix="imageset", initializer=lift_pillow_limit)
