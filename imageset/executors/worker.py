"""The worker process of imageset.executors.process_pool, started with `python -P -m imageset.executors.worker`.

It reads pickled (function, arguments) from standard input and writes (True, result) or (False, exception) to
standard output. It is not meant to be started by hand.
"""

from __future__ import annotations

import os
import pickle
import signal
import struct
import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from typing import IO, Any

from imageset.executors.limits import become_worker, enable_memory_limit, set_timer
from imageset.utils.memory import keep_freed_memory

LENGTH = struct.Struct("<Q")


def send_message(stream: IO[bytes], message: object) -> None:
    """Write one length-prefixed pickled message."""
    data = pickle.dumps(message, protocol=5)
    stream.write(LENGTH.pack(len(data)))
    stream.write(data)
    stream.flush()


def receive_message(stream: IO[bytes]) -> Any:
    """Read one message.

    Raises:
        EOFError: the other process closed the pipe.
    """
    prefix = stream.read(LENGTH.size)
    if len(prefix) < LENGTH.size:
        raise EOFError
    (length,) = LENGTH.unpack(prefix)
    data = stream.read(length)
    if len(data) < length:
        raise EOFError
    return pickle.loads(data)


def main(preload: Sequence[str]) -> None:
    """Run tasks until the parent closes the pipe; the output of libraries is discarded.

    Args:
        preload: modules to import before the first task.
    """
    become_worker()
    keep_freed_memory()
    enable_memory_limit()
    for number in (
        signal.SIGINT,
        signal.SIGTERM,
        signal.SIGHUP,
    ):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    warnings.simplefilter("ignore")
    results = os.fdopen(os.dup(1), "wb", buffering=0)
    null_device = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null_device, 1)
    tasks = os.fdopen(os.dup(0), "rb")
    for module in preload:  # now, while the parent still imports the modules it needs
        import_module(module)

    while True:
        try:
            function, arguments = receive_message(tasks)
            message: tuple[bool, Any] = True, function(*arguments)
        except EOFError:
            return
        except Exception as error:  # a defect of the code, not of an image: raised again in the parent
            set_timer(0)
            message = False, error
        try:
            send_message(results, message)
        except BrokenPipeError:
            return


if __name__ == "__main__":
    # Imported under its own name: functions are unpickled by the name of their module, not by `__main__`.
    from imageset.executors.worker import main as run_as_module

    run_as_module(sys.argv[1:])
