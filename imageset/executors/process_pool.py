"""Work on pictures in processes of their own, where a crash or a hang costs one picture.

A `BaseExecutor` is whoever does the work: a `concurrent.futures.Executor`. That of `ProcessExecutor` are threads that each own one
`imageset.executors.worker` process. The processes are started by exec and import only numpy and Pillow. A program of a
single thread, which then holds no GPU either, is forked instead: in a hundredth of the time.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, TypeAlias, TypeVar, Union

from imageset.executors.base import BaseExecutor, WorkerDied, num_cpus
from imageset.executors.worker import main as serve
from imageset.executors.worker import receive_message, send_message

K = TypeVar("K")
T = TypeVar("T")
R = TypeVar("R")

Process: TypeAlias = Union["subprocess.Popen[bytes]", "ForkedProcess"]
SINGLE_THREAD_ENV = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
}  # in each process


class ProcessExecutor(BaseExecutor):
    """`num` worker processes (None or 0: one a processor) behind the interface of concurrent.futures.

    They are started at once: while they import their libraries the caller can do something else.
    """

    def __init__(self, num: int | None = None, preload: Sequence[str] = ()) -> None:
        self.num_workers = max(1, num or num_cpus())
        self._preload = tuple(preload)
        self._idle = _start_processes(self.num_workers, self._preload)
        self._threads = ThreadPoolExecutor(self.num_workers, thread_name_prefix="imageset")
        self._thread_local = threading.local()
        self._processes: set[Process] = set(self._idle)
        self._lock = threading.Lock()
        self._closed = False

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Run fn(*args) in a worker process; both must be picklable. The future raises WorkerDied if it dies."""
        assert not kwargs
        return self._threads.submit(self._run, fn, args)

    def release_workers(self) -> None:
        """End the worker processes; others are started when there is work again."""
        with self._lock:
            resting, self._processes = self._processes, set()
            self._idle.clear()
        for process in resting:
            process.kill()
            _close_process(process)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the worker processes; work that is under way is lost unless `wait`."""
        if wait and not cancel_futures:
            self._threads.shutdown(wait=True)
        self._closed = True
        self._threads.shutdown(wait=False, cancel_futures=True)
        with self._lock:
            for process in self._processes:
                process.kill()
        self._threads.shutdown(wait=True)
        for process in self._processes:
            _close_process(process)
        self._processes.clear()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.shutdown(wait=error is None, cancel_futures=error is not None)

    def _run(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        process = self._process()
        assert process.stdin is not None and process.stdout is not None
        try:
            send_message(process.stdin, (function, arguments))
            ok, answer = receive_message(process.stdout)
        except (EOFError, OSError, ValueError):
            raise self._end_process(process) from None
        if not ok:
            raise answer
        return answer

    def _process(self) -> Process:
        process: Process | None = getattr(self._thread_local, "process", None)
        if process is None or process not in self._processes:
            with self._lock:
                if self._closed:
                    raise WorkerDied("crashed", "the pool is closed")
                process = self._thread_local.process = self._idle.pop() if self._idle else _start_process(self._preload)
                self._processes.add(process)
        return process

    def _end_process(self, process: Process) -> WorkerDied:
        self._thread_local.process = None
        status = process.wait()
        with self._lock:
            self._processes.discard(process)
        _close_process(process)
        if status == -signal.SIGALRM:
            return WorkerDied("timeout", "decoding took too long")
        cause = signal.Signals(-status).name if status < 0 else f"exit status {status}"
        return WorkerDied("crashed", f"the decoder died ({cause})")


class ForkedProcess:
    """A worker process that is a fork of this one; to be used as a subprocess.Popen is."""

    def __init__(self) -> None:
        theirs_in, ours_in = os.pipe()
        ours_out, theirs_out = os.pipe()
        self._status: int | None = None
        self._lock = threading.Lock()
        self._pid = os.fork()
        if not self._pid:
            _serve_forked(theirs_in, theirs_out)
        os.close(theirs_in)
        os.close(theirs_out)
        self.stdin, self.stdout = os.fdopen(ours_in, "wb"), os.fdopen(ours_out, "rb")

    def kill(self) -> None:
        """End it; nothing where it has ended."""
        if self._status is None:
            os.kill(self._pid, signal.SIGKILL)

    def wait(self) -> int:
        """Wait for its end; the exit status, or minus the number of the signal that ended it."""
        with self._lock:
            if self._status is None:
                self._status = os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])
        return self._status


def _serve_forked(questions: int, answers: int) -> NoReturn:
    """What the child does, and all it does."""
    try:
        os.dup2(questions, 0)
        os.dup2(answers, 1)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        os.closerange(3, max(map(int, os.listdir("/proc/self/fd"))) + 1)  # whatever else is open is the parent's
        serve(())
    finally:
        os._exit(1)


def _start_processes(num: int, preload: Sequence[str]) -> list[Process]:
    """So many worker processes, in the fastest way that is safe."""
    tasks = Path("/proc/self/task")
    if tasks.is_dir() and len(list(tasks.iterdir())) == 1:
        for module in preload:  # imported once, before the fork
            import_module(module)
        if len(list(tasks.iterdir())) == 1:  # still: a library for linear algebra may start threads
            return [ForkedProcess() for _ in range(num)]
    return [_start_process(preload) for _ in range(num)]


def _start_process(preload: Sequence[str]) -> Process:
    home = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join([home, *filter(None, sys.path)])
    settings = {"PYTHONPATH": path, **SINGLE_THREAD_ENV}
    return subprocess.Popen(
        [sys.executable, "-m", "imageset.executors.worker", *preload],
        env={**os.environ, **settings},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )


def _close_process(process: Process) -> None:
    for pipe in (process.stdin, process.stdout):
        try:
            if pipe is not None:
                pipe.close()
        except OSError:
            pass
    process.wait()
