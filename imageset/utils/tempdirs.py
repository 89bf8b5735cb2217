"""Temporary folders; what a killed process left behind is removed by the next one that makes such a folder."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import tempfile
from contextlib import suppress

PREFIX, SUFFIX = "convoy-", ".scratch"
_NAME_PATTERN = re.compile(rf"{re.escape(PREFIX)}[a-z0-9_]+{re.escape(SUFFIX)}")


class ReclaimedTempDir(tempfile.TemporaryDirectory[str]):
    """A TemporaryDirectory, where TMPDIR says, whose lock tells others that its process is alive.

    The kernel lets go of the lock (flock) with the process, whatever ends it.
    """

    def __init__(self) -> None:
        remove_abandoned_dirs()
        self._lock: int | None = None
        while self._lock is None:
            super().__init__(prefix=PREFIX, suffix=SUFFIX)
            try:
                self._lock = _lock_folder(self.name)
            except (BlockingIOError, FileNotFoundError):  # another process came first and takes it for abandoned
                continue
            except OSError:  # a file system without locks: nobody will take it for abandoned
                break

    def cleanup(self) -> None:
        """Remove it."""
        super().cleanup()
        self._unlock()

    def __del__(self) -> None:
        self._unlock()

    def _unlock(self) -> None:
        if (lock := getattr(self, "_lock", None)) is not None:
            self._lock = None
            os.close(lock)


def remove_abandoned_dirs() -> None:
    """Remove the scratch folders of this user whose processes are gone."""
    with suppress(OSError), os.scandir(tempfile.gettempdir()) as entries:
        for entry in entries:
            if _NAME_PATTERN.fullmatch(entry.name):
                _remove_if_abandoned(entry.path)


def _remove_if_abandoned(folder: str) -> None:
    with suppress(OSError):
        lock = _lock_folder(folder)
        if os.fstat(lock).st_uid == os.getuid():
            shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _lock_folder(folder: str) -> int:
    """A descriptor that holds the folder's lock.

    Raises:
        BlockingIOError: another process holds it.
        FileNotFoundError: it is gone.
        OSError: it is no folder, or cannot be locked.
    """
    lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.stat(folder)
    except OSError:
        os.close(lock)
        raise
    return lock
