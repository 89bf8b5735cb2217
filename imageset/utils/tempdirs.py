"""Temporary folders. The next process that makes such a folder removes those that a killed process left."""

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
    """A TemporaryDirectory (TMPDIR says where) with a lock that shows other processes that its owner is alive.

    The kernel releases the lock (flock) when the process ends, for any reason.
    """

    def __init__(self) -> None:
        remove_abandoned_dirs()
        self._lock: int | None = None
        while self._lock is None:
            super().__init__(prefix=PREFIX, suffix=SUFFIX)
            try:
                self._lock = _lock_folder(self.name)
            except (
                BlockingIOError,
                FileNotFoundError,
            ):  # another process locked it first and removes it as abandoned
                continue
            except OSError:  # a file system without locks: no process can remove it as abandoned
                break

    def cleanup(self) -> None:
        """Remove the folder and release its lock."""
        super().cleanup()
        self._unlock()

    def __del__(self) -> None:
        self._unlock()

    def _unlock(self) -> None:
        if (lock := getattr(self, "_lock", None)) is not None:
            self._lock = None
            os.close(lock)


def remove_abandoned_dirs() -> None:
    """Remove this user's temporary folders whose processes have ended."""
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
    """Lock a folder without waiting and return the descriptor that holds the lock.

    `utils.file_lock` does not fit: it creates and opens a file, while this locks an existing folder itself, never
    through a link, so that the lock goes with the folder.

    Raises:
        BlockingIOError: another process holds the lock.
        FileNotFoundError: the folder was removed.
        OSError: it is not a folder, or cannot be locked.
    """
    lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.stat(folder)
    except OSError:
        os.close(lock)
        raise
    return lock
