"""One run per project."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flows.project.exceptions import ProjectBusy
from flows.project.paths import CACHE

PROJECT_LOCK = CACHE / "convoy.lock"


@contextmanager
def project_lock(project: Path) -> Iterator[None]:
    """Hold the project: ingest, stages and promotion of two runs must not mix. Freed when the process ends.

    Raises:
        Busy: another run holds it.
    """
    path = project / PROJECT_LOCK
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            raise ProjectBusy(
                f"another run is at work in this project (process {holder}); wait until it ends"
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
