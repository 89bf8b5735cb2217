"""Where pictures are decoded: processes of this machine, its threads, or a Dask cluster. The same bytes come out.

All three are a `Crew`: a `concurrent.futures.Executor` with what `imageset.pool` must know besides.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from imageset.errors import UserError

if TYPE_CHECKING:
    from imageset.pool import Crew

# How `convoy run --executor` reaches the stage: it changes no result, so it is no parameter.
VARIABLE = "CONVOY_EXECUTOR"
DEFAULT = "processes"
HELP = (
    "where pictures are decoded: processes (default), threads (a picture that crashes or hangs the decoder then "
    "takes the run with it) or dask://HOST:PORT, a Dask scheduler; the result is the same"
)


@contextmanager
def open_executor(name: str | None = None, workers: int | None = None) -> Iterator[Crew]:
    """The executor of that name, closed at the end; without one the variable CONVOY_EXECUTOR decides.

    `workers` is the number of processes or threads, one a processor if None or 0; a cluster brings its own.

    Raises:
        UserError: no such executor, Dask is not installed, or its scheduler does not answer.
    """
    from imageset.pool import Threads, Workers

    name = check_name(name or os.environ.get(VARIABLE) or DEFAULT)
    if name == "processes":
        crew: Crew = Workers(workers)
    elif name == "threads":
        crew = Threads(workers)
    else:
        from imageset.cluster import DaskCluster

        crew = DaskCluster(name.removeprefix("dask://"))
    with crew:
        yield crew


def check_name(name: str) -> str:
    """Return the name of an executor; UserError for one that there is not."""
    host, _, port = name.removeprefix("dask://").rpartition(":")
    if name in ("processes", "threads") or (name.startswith("dask://") and host and port.isdigit()):
        return name
    raise UserError(f"executor '{name}': must be processes, threads or dask://HOST:PORT")
