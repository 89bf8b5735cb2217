"""The choice of the executor that decodes: processes or threads of this machine, or a Dask cluster.

All three are a `BaseExecutor` and give the same bytes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from imageset.exceptions import UserError

if TYPE_CHECKING:
    from imageset.executors.base import BaseExecutor

# Passes `convoy run --executor` on to the stage: it does not change the result, so it is not in params.yaml.
EXECUTOR_VARIABLE = "CONVOY_EXECUTOR"
DEFAULT_EXECUTOR = "processes"
EXECUTOR_HELP = (
    "where pictures are decoded: processes (default), threads (a picture that crashes or hangs the decoder then "
    "takes the run with it) or dask://HOST:PORT, a Dask scheduler; the result is the same"
)


@contextmanager
def open_executor(
    name: str | None = None, workers: int | None = None, preload: Sequence[str] = ()
) -> Iterator[BaseExecutor]:
    """Open an executor and close it at the end.

    Args:
        name: processes, threads or dask://HOST:PORT; if None, the value of CONVOY_EXECUTOR, else processes.
        workers: number of processes or threads; None or 0 means one for each processor. A cluster has its own.
        preload: modules that worker processes import when they start.

    Yields:
        The executor.

    Raises:
        UserError: the name is unknown, Dask is not installed, or the scheduler does not answer.
    """
    from imageset.executors.base import ThreadExecutor
    from imageset.executors.process_pool import ProcessExecutor

    name = check_executor_name(name or os.environ.get(EXECUTOR_VARIABLE) or DEFAULT_EXECUTOR)
    if name == "processes":
        executor: BaseExecutor = ProcessExecutor(workers, preload)
    elif name == "threads":
        executor = ThreadExecutor(workers)
    else:
        from imageset.executors.dask_cluster import DaskExecutor

        executor = DaskExecutor(name.removeprefix("dask://"))
    with executor:
        yield executor


def check_executor_name(name: str) -> str:
    """Return the name of an executor unchanged; raise UserError if it is unknown."""
    host, _, port = name.removeprefix("dask://").rpartition(":")
    if name in ("processes", "threads") or (name.startswith("dask://") and host and port.isdigit()):
        return name
    raise UserError(f"executor '{name}': must be processes, threads or dask://HOST:PORT")
