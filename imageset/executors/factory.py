"""Where pictures are decoded: processes of this machine, its threads, or a Dask cluster. The same bytes come out.

All three are a `BaseExecutor`: a `concurrent.futures.Executor` with what `imageset.executors.process_pool` must know besides.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from imageset.exceptions import UserError

if TYPE_CHECKING:
    from imageset.executors.base import BaseExecutor

# How `convoy run --executor` reaches the stage: it changes no result, so it is no parameter.
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
    """The executor of that name, closed at the end; without one the variable CONVOY_EXECUTOR decides.

    `workers` is the number of processes or threads, one a processor if None or 0; a cluster brings its own.
    `preload` names the modules that worker processes import when they start.

    Raises:
        UserError: no such executor, Dask is not installed, or its scheduler does not answer.
    """
    from imageset.executors.base import ThreadExecutor
    from imageset.executors.process_pool import ProcessExecutor

    name = check_executor_name(name or os.environ.get(EXECUTOR_VARIABLE) or DEFAULT_EXECUTOR)
    if name == "processes":
        crew: BaseExecutor = ProcessExecutor(workers, preload)
    elif name == "threads":
        crew = ThreadExecutor(workers)
    else:
        from imageset.executors.dask_cluster import DaskExecutor

        crew = DaskExecutor(name.removeprefix("dask://"))
    with crew:
        yield crew


def check_executor_name(name: str) -> str:
    """Return the name of an executor; UserError for one that there is not."""
    host, _, port = name.removeprefix("dask://").rpartition(":")
    if name in ("processes", "threads") or (name.startswith("dask://") and host and port.isdigit()):
        return name
    raise UserError(f"executor '{name}': must be processes, threads or dask://HOST:PORT")
