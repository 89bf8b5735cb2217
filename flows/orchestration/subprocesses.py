"""Child processes that never outlive us: each in its own group, output read line by line, stopped as a whole."""

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

GRACE_S = 10.0  # what a process gets between "please stop" and being killed
PR_SET_PDEATHSIG = 1  # linux/prctl.h

Process = subprocess.Popen[bytes] | subprocess.Popen[str]


def build_environment(**changes: str) -> dict[str, str]:
    """Our environment with the running Python's scripts first on PATH, so that `python` and `mlflow` are ours."""
    scripts = str(Path(sys.executable).parent)
    path = os.environ.get("PATH", os.defpath)
    ours = {"PATH": f"{scripts}{os.pathsep}{path}", "DVC_NO_ANALYTICS": "1", "PYTHONUNBUFFERED": "1"}
    return {**os.environ, **ours, **changes}


def stream_output(
    command: Sequence[str], *, cwd: Path, finished: Callable[[int], None], **changes: str
) -> Iterator[str]:
    """Run a command and yield what it prints, stdout and stderr together, line by line.

    `finished` is called with its exit status after the last line; `changes` go into its environment. Whatever
    exception ends the iteration early (a cancelled flow, Ctrl-C, a closed generator), the whole process group is
    stopped first.
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
    """Start a server in its own session with its output in a file; on Linux it dies with us, whatever kills us.

    To be called from the main thread: the kernel ties the child's life to the thread that started it.
    """
    return subprocess.Popen(
        command, cwd=cwd, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
        start_new_session=True, preexec_fn=_die_with_parent if sys.platform == "linux" else None,
    )  # fmt: skip


def stop_process(process: Process, grace_s: float = GRACE_S) -> None:
    """End a process, its group and everything those started: politely, then by force."""
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
    """Ask what a process has started to end, and give it time to: flows of a worker report how they ended."""
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
