"""Child processes that never outlive their parent: each has its own process group, which is stopped as a whole."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

import psutil

GRACE_S = 10.0  # between SIGTERM and SIGKILL
PR_SET_PDEATHSIG = 1  # linux/prctl.h

Process = subprocess.Popen[bytes] | subprocess.Popen[str]


def build_environment(**changes: str) -> dict[str, str]:
    """Copy the environment, with the scripts of the running Python first on PATH, and apply `changes`."""
    scripts = str(Path(sys.executable).parent)
    path = os.environ.get("PATH", os.defpath)
    own = {"PATH": f"{scripts}{os.pathsep}{path}", "DVC_NO_ANALYTICS": "1", "PYTHONUNBUFFERED": "1"}
    return {**os.environ, **own, **changes}


def stream_output(
    command: Sequence[str], *, cwd: Path, finished: Callable[[int], None], **changes: str
) -> Iterator[str]:
    """Run a command and yield its output, stdout and stderr together, line by line.

    If an exception ends the iteration early (a cancelled flow, Ctrl-C, a closed generator), the whole process
    group is stopped first.

    Args:
        command: program and arguments.
        cwd: its working directory.
        finished: called with the exit status after the last line.
        **changes: variables of its environment.
    """
    process = subprocess.Popen(
        command, cwd=cwd, env=build_environment(**changes), text=True, errors="backslashreplace", bufsize=1,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        for line in process.stdout:
            yield line.rstrip()
        status = process.wait()
    except BaseException:
        stop_process(process)
        raise
    finally:
        process.stdout.close()
    finished(status)


def start_process(
    command: Sequence[str], *, log: IO[bytes], cwd: Path, env: Mapping[str, str]
) -> subprocess.Popen[bytes]:
    """Start a server in its own session with its output in a file; on Linux it ends when its parent ends.

    Call it from the main thread: the kernel ends the child when the thread that started it ends.
    """
    return subprocess.Popen(
        command, cwd=cwd, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
        start_new_session=True, preexec_fn=_die_with_parent if sys.platform == "linux" else None,
    )  # fmt: skip


def stop_process(process: Process, grace_s: float = GRACE_S) -> None:
    """Stop a process, its group and all their descendants: SIGTERM, then SIGKILL after `grace_s`."""
    family = _find_descendants(process.pid)
    _signal_group(process.pid, signal.SIGTERM)
    _wait_until(lambda: process.poll() is not None and not any(map(_is_alive, family)), grace_s)
    family |= _find_descendants(process.pid)
    _signal_group(process.pid, signal.SIGKILL)
    for member in filter(_is_alive, family):
        with suppress(psutil.NoSuchProcess):
            member.kill()
    process.wait()


def stop_children(process: Process, grace_s: float = GRACE_S) -> None:
    """Send SIGTERM to the children of a process and wait: flows of a worker then report their end."""
    children = _find_descendants(process.pid, recursive=False)
    for child in children:
        with suppress(psutil.NoSuchProcess):
            child.terminate()
    _wait_until(lambda: not any(map(_is_alive, children)), grace_s)


def _wait_until(done: Callable[[], bool], timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline and not done():
        time.sleep(0.05)


def _find_descendants(pid: int, recursive: bool = True) -> set[psutil.Process]:
    try:
        return set(psutil.Process(pid).children(recursive))
    except psutil.NoSuchProcess:
        return set()


def _is_alive(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _signal_group(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
