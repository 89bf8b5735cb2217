"""The lock that lets one run at a time work in a project."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from flows.project.exceptions import ProjectBusy
from flows.project.paths import CACHE
from imageset.utils.file_lock import file_lock

PROJECT_LOCK = CACHE / "convoy.lock"


@contextmanager
def project_lock(project: Path) -> Iterator[None]:
    """Hold the project, since ingest, stages and promotion of two runs must not mix.

    The kernel releases the lock when the process ends.

    Raises:
        ProjectBusy: another run holds the project.
    """
    path = project / PROJECT_LOCK
    path.parent.mkdir(parents=True, exist_ok=True)
    with file_lock(path, partial(_raise_busy, path)) as file:
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def _raise_busy(path: Path) -> None:
    holder = path.read_text(encoding="utf-8").strip() or "unknown"
    raise ProjectBusy(f"another run is at work in this project (process {holder}); wait until it ends")
