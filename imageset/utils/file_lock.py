"""File locks between processes. The kernel releases a lock when the process that holds it ends, for any reason."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

MAX_NAME_BYTES = 200  # of a name that is a part of another one; file systems accept 255 in all


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


@contextmanager
def output_lock(path: Path, on_wait: Callable[[str], object]) -> Iterator[None]:
    """Hold the lock of an output, so that one process at a time writes it; wait while another one does.

    The lock is the file `.NAME.lock` beside the output. It names the process of the writer and is removed at the
    end; the next writer takes over one that a killed process left.

    Args:
        path: the file or the folder to write; it need not exist, but its parent must.
        on_wait: called once before waiting, with a line that says which process writes and what to do.
    """
    place = path.with_name(f".{os.fsdecode(os.fsencode(path.name)[:MAX_NAME_BYTES])}.lock")

    def report() -> None:
        on_wait(f"{path} is being written by {read_holder(place)}; waiting until it ends (Ctrl-C gives up)")

    while True:
        with file_lock(place, report) as file:
            if is_open_at(place, file.fileno()):  # else its former holder has removed it
                name_holder(file)
                try:
                    yield
                finally:
                    place.unlink(missing_ok=True)
                return


def name_holder(file: IO[str]) -> None:
    """Write into a lock file, which this process holds, which process that is."""
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
    file.flush()


def read_holder(path: Path) -> str:
    """Return which process a lock file names; it may be that of an earlier Convoy, which named none."""
    with suppress(OSError):
        return path.read_text(encoding="utf-8", errors="replace").strip() or "another process"
    return "another process"


def is_open_at(path: Path, descriptor: int) -> bool:
    """Return whether `path` names this open file or folder; it may have been renamed or removed since."""
    with suppress(FileNotFoundError):
        return os.path.samestat(os.stat(path, follow_symlinks=False), os.fstat(descriptor))
    return False


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
