"""Finished means renamed: write beside the target, fsync, os.replace."""

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
    """Force a file's (or a folder's) bytes to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class BackgroundSync:
    """Forces files to the disk in a thread, while others are still being written."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="sync")
        self._started: list[Future[None]] = []

    def submit(self, path: Path) -> None:
        """Begin with a file that is nearly whole; what is written to it later needs sync_file."""
        self._started.append(self._thread.submit(sync_file, path))

    def __enter__(self) -> BackgroundSync:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.shutdown(wait=True, cancel_futures=error is not None)
        if error is None:
            for one in self._started:
                one.result()  # the system tells of a failed write only once


def hash_file(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def replace_file(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it becomes `path`, on any exception it is removed."""
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
    """Write a whole file or nothing."""
    with replace_file(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: str | Path, text: str) -> None:
    """Write a whole UTF-8 file or nothing."""
    write_bytes(path, text.encode())


@contextmanager
def replace_folder(path: str | Path) -> Iterator[Path]:
    """Yield an empty folder beside `path`; on success it takes the place of `path`, whatever stood there.

    A run killed before the last rename leaves the earlier folder as it was, or (between the two renames) none:
    never a mixture.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary, earlier = path.with_name(f".{path.name}.partial"), path.with_name(f".{path.name}.earlier")
    for leftover in (temporary, earlier):
        shutil.rmtree(leftover, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        with ThreadPoolExecutor(NUM_SYNC_THREADS) as threads:  # together they take hardly longer than one
            list(threads.map(sync_file, sorted(temporary.iterdir())))
        if path.exists():
            os.replace(path, earlier)
        os.replace(temporary, path)
        sync_file(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    shutil.rmtree(earlier, ignore_errors=True)
