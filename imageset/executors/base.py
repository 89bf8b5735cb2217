"""The base class of the executors, the executor that uses threads, and the error of a dead worker process."""

from __future__ import annotations

import os
from concurrent.futures import Executor, ThreadPoolExecutor

from imageset.executors.limits import lift_pillow_limit

IMAGE_TIMEOUT_S = 60.0


class WorkerDied(Exception):
    """A worker process ended before it returned a result.

    Attributes:
        reason: "crashed" or "timeout", as in rejections.REASONS.
        detail: the cause, in one line.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail


def count_cpus() -> int:
    """Return the number of processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class BaseExecutor(Executor):
    """A `concurrent.futures.Executor` with the additions that decoding needs.

    Attributes:
        num_workers: number of tasks that run at once.
        remote: whether its workers cannot read the files of this machine.
    """

    num_workers: int = 1
    remote: bool = False

    def raise_if_stalled(self) -> None:
        """Raise UserError if no result can come any more; called regularly while a result is awaited."""

    def release_workers(self) -> None:
        """Release idle workers and their memory; called when no more tasks are expected soon."""


class ThreadExecutor(ThreadPoolExecutor, BaseExecutor):
    """An executor that uses threads of this process.

    The decoders release Python's global lock. A crash or a hang of a decoder affects the whole process.

    Args:
        num_workers: number of threads; None or 0 means one for each processor.
    """

    def __init__(self, num_workers: int | None = None) -> None:
        self.num_workers = max(1, num_workers or count_cpus())
        super().__init__(self.num_workers, thread_name_prefix="imageset", initializer=lift_pillow_limit)
