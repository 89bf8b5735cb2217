"""Atomic writes: write a temporary file beside the target, fsync it, then rename it with os.replace."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

NUM_SYNC_THREADS = 8


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
def replace_file(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` on success, remove it after an exception."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.partial")
    try:
        yield temporary
        sync_file(temporary)
        os.replace(temporary, path)
        sync_file(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


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

    A process killed before the last rename leaves the previous folder as it was, or (between the two renames) no
    folder, but never a mixture of both. Only regular files directly in the folder are flushed to the disk.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary, earlier = path.with_name(f".{path.name}.partial"), path.with_name(f".{path.name}.earlier")
    for leftover in (temporary, earlier):
        shutil.rmtree(leftover, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        with ThreadPoolExecutor(
            NUM_SYNC_THREADS
        ) as executor:  # all files together take little longer than one file
            list(executor.map(sync_file, sorted(temporary.iterdir())))
        if path.exists():
            os.replace(path, earlier)
        os.replace(temporary, path)
        sync_file(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    shutil.rmtree(earlier, ignore_errors=True)
