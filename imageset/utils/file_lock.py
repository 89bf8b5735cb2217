"""File locks between processes. The kernel releases a lock when the process that holds it ends, for any reason."""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


@contextmanager
def file_lock(
    path: Path, on_busy: Callable[[], object] | None = None, *, wait: bool = True, shared: bool = False
) -> Iterator[IO[str]]:
    """Hold a lock on `path`, which is created if it is missing; its folder must exist.

    Args:
        path: the file to lock; its content is left as it is.
        on_busy: called once before waiting, if another process holds the lock. It may raise to give up.
        wait: block until the lock is free; if False, a lock that is held raises BlockingIOError.
        shared: several processes may hold a shared lock at once, but not while one holds an exclusive lock.

    Yields:
        The open file, for reading and appending.

    Raises:
        BlockingIOError: another process holds the lock, and `wait` is False.
        OSError: the file cannot be opened.
    """
    mode = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    with path.open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, mode | fcntl.LOCK_NB)
        except BlockingIOError:
            if on_busy is not None:
                on_busy()
            if not wait:
                raise
            fcntl.flock(file, mode)
        yield file


def is_locked(path: Path) -> bool:
    """Return whether a process holds an exclusive lock on `path`; a missing file is not locked."""
    try:
        with path.open("r") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return False
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
