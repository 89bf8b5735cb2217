"""Atomic writes: write a temporary file beside the target, fsync it, then rename it with os.replace.

A temporary file belongs to one writer, which holds a lock on it (`own_temporary`): two processes that write the
same target never share one, and the last to finish replaces what the other wrote. What a killed process left is
taken over by the next writer of that target.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from types import TracebackType

from imageset.utils.file_lock import MAX_NAME_BYTES, is_open_at

NUM_SYNC_THREADS = 8
PARTIAL_SUFFIX = ".partial"  # of temporary files and folders
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # linux/fcntl.h, linux/fs.h
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # of file systems that have no locks


def sync_file(path: Path) -> None:
    """Flush a file or a folder to the disk with fsync."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class BackgroundSync:
    """A context manager that flushes files to the disk in a thread, while other files are still being written.

    Leaving it waits for all of them and raises the first error.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="sync")
        self._started: list[Future[None]] = []

    def submit(self, path: Path) -> None:
        """Start to flush a file that is nearly complete; bytes that are written later need another `sync_file`."""
        self._started.append(self._thread.submit(sync_file, path))

    def __enter__(self) -> BackgroundSync:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.shutdown(wait=True, cancel_futures=error is not None)
        if error is None:
            for future in self._started:
                future.result()  # the system reports a failed write only once


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def own_temporary(path: Path, *, is_folder: bool = False) -> Iterator[Path]:
    """Hold an empty temporary file or folder beside `path` that no other process uses.

    One that a killed process left is emptied and taken over. The caller renames it; what is left is removed.

    Args:
        path: the target; its folder is created if it is missing.
        is_folder: whether the target is a folder.

    Yields:
        The temporary path.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    names = _list_temporary_names(path)
    temporary, lock = next(found for name in names if (found := _claim(path.with_name(name), is_folder)))
    try:
        yield temporary
    finally:
        if is_open_at(temporary, lock):  # else it was renamed, and the name may be another writer's by now
            shutil.rmtree(temporary, ignore_errors=True) if is_folder else temporary.unlink()
        os.close(lock)


def remove_unowned(folder: Path) -> None:
    """Remove the temporary files in a folder that killed processes left, of targets that nobody writes again."""
    for temporary in folder.glob(f".*{PARTIAL_SUFFIX}"):
        with suppress(OSError):  # on a read-only disk they stay
            if (lock := _open_locked(temporary, is_folder=False)) is not None:
                temporary.unlink()
                os.close(lock)


def _list_temporary_names(path: Path) -> Iterator[str]:
    """Yield the names that a temporary file of `path` may have; writers at the same time use different ones."""
    name = os.fsdecode(os.fsencode(path.name)[:MAX_NAME_BYTES])
    yield f".{name}{PARTIAL_SUFFIX}"
    yield from (f".{name}.{number}{PARTIAL_SUFFIX}" for number in count(2))


def _claim(temporary: Path, is_folder: bool) -> tuple[Path, int] | None:
    """Create and lock a temporary file or folder, and empty it; return None if another process uses it."""
    while (lock := _open_locked(temporary, is_folder)) is not None:
        if not is_open_at(temporary, lock):  # its former owner has renamed it: create another one
            os.close(lock)
            continue
        if is_folder:
            _empty_folder(temporary)
        else:
            os.ftruncate(lock, 0)
        return temporary, lock
    return None


def _open_locked(temporary: Path, is_folder: bool) -> int | None:
    """Return a descriptor that holds a lock on the path; None if another process holds it."""
    if is_folder:
        temporary.mkdir(exist_ok=True)
    flags = os.O_RDONLY | os.O_DIRECTORY if is_folder else os.O_RDWR | os.O_CREAT
    try:
        lock = os.open(temporary, flags | os.O_NOFOLLOW, 0o666)
    except FileNotFoundError:
        if is_folder:  # its former owner has renamed it since
            return _open_locked(temporary, is_folder)
        raise
    except PermissionError:
        if os.path.lexists(temporary):  # left by another user
            return None
        raise
    try:
        _lock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return lock
    except BlockingIOError:
        os.close(lock)
        return None


def _lock(descriptor: int, mode: int) -> None:
    """Lock an open file or folder, unless its file system has no locks."""
    try:
        fcntl.flock(descriptor, mode)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise


def _empty_folder(folder: Path) -> None:
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


@contextmanager
def replace_file(path: str | Path) -> Iterator[Path]:
    """Yield an empty temporary file beside `path`; it gets that name on success, and is removed after an error."""
    path = Path(path)
    with own_temporary(path) as temporary:
        yield temporary
        sync_file(temporary)
        os.replace(temporary, path)
        sync_file(path.parent)


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write a file atomically: the whole content or nothing."""
    with replace_file(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: str | Path, text: str) -> None:
    """Write a UTF-8 file atomically: the whole text or nothing."""
    write_bytes(path, text.encode())


@contextmanager
def replace_folder(path: str | Path) -> Iterator[Path]:
    """Yield an empty folder beside `path`; on success it replaces `path` and everything in it.

    A process that is killed leaves the previous folder or the new one, never a mixture of both. Only regular files
    directly in the folder are flushed to the disk.
    """
    path = Path(path)
    path = path.resolve() if path.is_symlink() else path  # the folder that a link stands for, on its own disk
    with own_temporary(path, is_folder=True) as temporary:
        yield temporary
        with ThreadPoolExecutor(NUM_SYNC_THREADS) as executor:  # all files take little longer than one
            list(executor.map(sync_file, sorted(temporary.iterdir())))
        _swap_folder(temporary, path)
        sync_file(path.parent)


def _swap_folder(temporary: Path, path: Path) -> None:
    """Rename `temporary` to `path`, and remove the folder that was there."""
    while not _try_swap(temporary, path):  # until no other writer has swapped it in the meantime
        pass


def _try_swap(temporary: Path, path: Path) -> bool:
    try:
        former = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        return _rename_unless_taken(temporary, path)
    try:
        _lock(former, fcntl.LOCK_EX)  # so that no other writer claims it under the name of the temporary folder
        if not is_open_at(path, former):
            return False
        if _exchange(temporary, path):
            shutil.rmtree(temporary, ignore_errors=True)
            return True
        earlier = temporary.with_name(f"{temporary.name.removesuffix(PARTIAL_SUFFIX)}.earlier")
        shutil.rmtree(earlier, ignore_errors=True)
        os.replace(path, earlier)  # this file system cannot exchange: for a moment there is no folder
        is_done = _rename_unless_taken(temporary, path)
        shutil.rmtree(earlier, ignore_errors=True)
        return is_done
    finally:
        os.close(former)


def _rename_unless_taken(temporary: Path, path: Path) -> bool:
    """Rename a folder; return False if another writer has put one there."""
    try:
        os.replace(temporary, path)
        return True
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        return False


def _exchange(first: Path, second: Path) -> bool:
    """Exchange the names of two folders in one step; return False where that is impossible."""
    libc = ctypes.CDLL(None)
    names = os.fsencode(first), os.fsencode(second)
    with suppress(AttributeError):  # a C library without this function
        return bool(libc.renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0)
    return False
