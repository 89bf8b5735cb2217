"""Termination by SIGTERM, SIGINT or SIGHUP: a command ends within seconds, together with all its processes.

The first signal raises an exception in the main thread: child processes are stopped and temporary files removed
on the way out. If that takes longer than GRACE_S, or Ctrl-C is pressed again, everything is killed. What is left
then is what a kill leaves, and the next command goes on from there. Each `__main__` calls `listen` before its work
and `exit_if_requested` after it.
"""

from __future__ import annotations

import _thread
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from types import FrameType
from typing import Any

GRACE_S = 7.0  # for an orderly end
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

_received: list[int] = []  # the signal that ends this process
_listening_pids: set[int] = set()  # this process; a forked child inherits the set, but has another id


def listen() -> None:
    """Install the handlers. Call it in the main thread.

    SIGHUP that is ignored, as under `nohup`, stays ignored. SIGINT does not: a shell script starts its background
    jobs that way.
    """
    _listening_pids.add(os.getpid())
    for number in SIGNALS:
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _handle_signal)


def listen_again() -> None:
    """Install the handlers once more if this process called `listen`: a library may have replaced them."""
    if os.getpid() in _listening_pids and threading.current_thread() is threading.main_thread():
        listen()


def stop_listening() -> None:
    """Let the signals end this process at once again, as the system does."""
    _listening_pids.clear()
    for number in SIGNALS:
        signal.signal(number, signal.SIG_DFL)


def is_requested() -> bool:
    """Return whether a signal was received that ends this process."""
    return bool(_received)


def request(number: int) -> None:
    """Record that a signal ends this process, and kill everything that is left of it after GRACE_S."""
    if not _received:
        _received.append(number)
        # Not threading.Thread: the signal may have interrupted the start of one, which holds a lock.
        _thread.start_new_thread(_kill_after_grace, ())
    elif number == signal.SIGINT:  # pressed again
        _kill_all(_find_descendants())


def exit_if_requested() -> None:
    """End the process with status 128 + the signal's number, if there was one; kill the children that are left."""
    if _received:
        with suppress(OSError, ValueError):  # the reader is gone
            print("stopped", file=sys.stderr, flush=True)
            sys.stdout.flush()
        _kill_all(_find_descendants())


def _handle_signal(number: int, frame: FrameType | None) -> None:
    is_first = not _received
    request(number)
    if is_first:
        raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)


def _kill_after_grace() -> None:
    family = _find_descendants()  # now: those whose parents end first are not found later
    time.sleep(GRACE_S)
    _kill_all(family | _find_descendants())


def _find_descendants() -> set[Any]:
    import psutil  # loaded only here, to keep the start of every command fast

    with suppress(psutil.Error):
        return set(psutil.Process().children(recursive=True))
    return set()


def _kill_all(family: set[Any]) -> None:
    """Kill processes, then end this one without any further clean-up."""
    for process in family:
        with suppress(Exception):  # it has ended meanwhile
            process.kill()
    os._exit(128 + _received[0])
