"""A process that runs functions for imageset.pool: `python -m imageset.worker`, never called by hand.

It reads pickled (function, arguments) from its standard input and answers (True, result) or (False, exception).
"""

from __future__ import annotations

import os
import pickle
import resource
import signal
import struct
import sys
import time
import warnings
from collections.abc import Callable
from typing import IO, Any

from imageset.memory import keep_freed_memory
from imageset.quality import Rejected

LENGTH = struct.Struct("<Q")
# Of memory a worker may take: the longest way, from palette with transparency to RGB, holds 16 bytes a pixel.
BYTES_A_PIXEL, BYTES_BESIDES = 16, 768 << 20
_is_worker = _is_limited = False
_set_anew_from = 0.0  # of time.monotonic


def send(stream: IO[bytes], message: object) -> None:
    """Write one length-prefixed pickled message."""
    data = pickle.dumps(message, protocol=5)
    stream.write(LENGTH.pack(len(data)))
    stream.write(data)
    stream.flush()


def receive(stream: IO[bytes]) -> Any:
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


def run(function: Callable[[Any], Any], items: list[Any], timeout_s: float) -> list[Any]:
    """Apply the function to each item under a timer; a Rejected stands in the item's place."""
    results: list[Any] = []
    for item in items:
        timer(timeout_s)
        try:
            results.append(function(item))
        except Rejected as rejected:
            results.append(rejected)
    timer(0)
    return results


def timer(seconds: float) -> None:
    """Let the kernel end this worker after so long (SIGALRM, default action), unless set anew; 0 sets it off.

    That works even in the middle of a decoder's C code: a hang cannot outlive its parent. It may take an eighth
    longer, so that not every small picture costs a system call. Where this process is no worker nothing happens.
    """
    global _set_anew_from
    if _is_worker and (not seconds or time.monotonic() >= _set_anew_from):
        signal.setitimer(signal.ITIMER_REAL, seconds * 9 / 8)
        _set_anew_from = time.monotonic() + seconds / 8 if seconds else 0.0


def limit_memory(max_pixels: int) -> None:
    """Let this worker take no more memory than a picture of so many pixels may need; more raises MemoryError.

    Where this process is no worker of ours nothing happens.
    """
    if _is_limited:
        most = BYTES_A_PIXEL * max_pixels + BYTES_BESIDES
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        resource.setrlimit(resource.RLIMIT_DATA, (most if hard < 0 else min(most, hard), hard))


def become_worker() -> None:
    """From now on a hang ends this process (see timer), and max_pixels is the only limit of its kind."""
    global _is_worker
    _is_worker = True
    lift_pillows_own_limit()


def main() -> None:
    """Serve until the parent closes the pipe; what libraries print goes nowhere."""
    global _is_limited
    become_worker()
    keep_freed_memory()
    _is_limited = sys.platform == "linux"  # elsewhere the limit is not kept, or counts otherwise
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    warnings.simplefilter("ignore")
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    questions = os.fdopen(os.dup(0), "rb")
    import imageset.pixels  # noqa: F401  now, while the parent still imports what it needs

    while True:
        try:
            function, arguments = receive(questions)
            answer: tuple[bool, Any] = True, function(*arguments)
        except EOFError:
            return
        except Exception as error:  # a fault of ours, not of a picture: raised again in the parent
            timer(0)
            answer = False, error
        try:
            send(answers, answer)
        except BrokenPipeError:
            return


def lift_pillows_own_limit() -> None:
    """max_pixels is the limit; Pillow's own, global one would stand in its way."""
    from PIL import Image

    Image.MAX_IMAGE_PIXELS = None


if __name__ == "__main__":
    from imageset.worker import main as run_as_module  # this file under the name by which others import it

    run_as_module()
