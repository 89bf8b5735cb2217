"""A process that runs functions for imageset.executors.process_pool: `python -m imageset.executors.worker`, never called by hand.

It reads pickled (function, arguments) from its standard input and answers (True, result) or (False, exception).
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
        EOFError: the other side is gone.
    """
    head = stream.read(LENGTH.size)
    if len(head) < LENGTH.size:
        raise EOFError
    (length,) = LENGTH.unpack(head)
    data = stream.read(length)
    if len(data) < length:
        raise EOFError
    return pickle.loads(data)


def main(preload: Sequence[str]) -> None:
    """Serve until the parent closes the pipe; what libraries print goes nowhere."""
    become_worker()
    keep_freed_memory()
    enable_memory_limit()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    warnings.simplefilter("ignore")
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    questions = os.fdopen(os.dup(0), "rb")
    for module in preload:  # now, while the parent still imports the modules it needs
        import_module(module)

    while True:
        try:
            function, arguments = receive_message(questions)
            answer: tuple[bool, Any] = True, function(*arguments)
        except EOFError:
            return
        except Exception as error:  # a fault of ours, not of a picture: raised again in the parent
            set_timer(0)
            answer = False, error
        try:
            send_message(answers, answer)
        except BrokenPipeError:
            return


if __name__ == "__main__":
    from imageset.executors.worker import (
        main as run_as_module,  # this file under the name by which others import it
    )

    run_as_module(sys.argv[1:])
