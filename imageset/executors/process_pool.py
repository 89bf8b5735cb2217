"""The executor that uses processes: a crash or a hang of a decoder costs a single image.

`ProcessExecutor` has threads that each own one `imageset.executors.worker` process. The processes are started by
exec and import only numpy and Pillow. A program with a single thread, which therefore holds no GPU either, is
forked instead, in a hundredth of the time.
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

from imageset.executors.base import BaseExecutor, WorkerDied, count_cpus
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
}  # for each process


class ProcessExecutor(BaseExecutor):
    """An executor that uses worker processes.

    They are started immediately: the caller can do other work while they import their libraries.

    Args:
        num_workers: number of processes; None or 0 means one for each processor.
        preload: modules that the processes import when they start.
    """

    def __init__(self, num_workers: int | None = None, preload: Sequence[str] = ()) -> None:
        self.num_workers = max(1, num_workers or count_cpus())
        self._preload = tuple(preload)
        self._idle = _start_processes(self.num_workers, self._preload)
        self._threads = ThreadPoolExecutor(self.num_workers, thread_name_prefix="imageset")
        self._thread_local = threading.local()
        self._processes: set[Process] = set(self._idle)
        self._lock = threading.Lock()
        self._closed = False

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Run fn(*args) in a worker process; both must be picklable.

        The future raises WorkerDied if the process dies.
        """
        assert not kwargs
        return self._threads.submit(self._run, fn, args)

    def release_workers(self) -> None:
        """End the worker processes; new ones are started with the next task."""
        with self._lock:
            processes, self._processes = self._processes, set()
            self._idle.clear()
        for process in processes:
            process.kill()
            _close_process(process)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the worker processes; tasks that are running are lost unless `wait` is true."""
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
        process = self._get_process()
        assert process.stdin is not None and process.stdout is not None
        try:
            send_message(process.stdin, (function, arguments))
            ok, result = receive_message(process.stdout)
        except (EOFError, OSError, ValueError):
            raise self._end_process(process) from None
        if not ok:
            raise result
        return result

    def _get_process(self) -> Process:
        process: Process | None = getattr(self._thread_local, "process", None)
        if process is None or process not in self._processes:
            with self._lock:
                if self._closed:
                    raise WorkerDied("crashed", "the executor is closed")
                process = self._thread_local.process = (
                    self._idle.pop() if self._idle else _start_process(self._preload)
                )
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
    """A worker process forked from this one, with the interface of subprocess.Popen."""

    def __init__(self) -> None:
        child_in, parent_in = os.pipe()
        parent_out, child_out = os.pipe()
        self._status: int | None = None
        self._lock = threading.Lock()
        self._pid = os.fork()
        if not self._pid:
            _serve_forked(child_in, child_out)
        os.close(child_in)
        os.close(child_out)
        self.stdin, self.stdout = os.fdopen(parent_in, "wb"), os.fdopen(parent_out, "rb")

    def kill(self) -> None:
        """Kill the process; do nothing if it has ended."""
        if self._status is None:
            os.kill(self._pid, signal.SIGKILL)

    def wait(self) -> int:
        """Wait for the process and return its exit status, or minus the number of the signal that ended it."""
        with self._lock:
            if self._status is None:
                self._status = os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])
        return self._status


def _serve_forked(task_pipe: int, result_pipe: int) -> NoReturn:
    """Serve tasks in the forked child, then exit without returning."""
    try:
        os.dup2(task_pipe, 0)
        os.dup2(result_pipe, 1)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        os.closerange(3, max(map(int, os.listdir("/proc/self/fd"))) + 1)  # all other open files are the parent's
        serve(())
    finally:
        os._exit(1)


def _start_processes(num: int, preload: Sequence[str]) -> list[Process]:
    """Start `num` worker processes, by fork if this process has a single thread, else by exec."""
    tasks = Path("/proc/self/task")
    if tasks.is_dir() and len(list(tasks.iterdir())) == 1:
        for module in preload:  # imported once, before the fork
            import_module(module)
        if len(list(tasks.iterdir())) == 1:  # checked again: the import may have started threads
            return [ForkedProcess() for _ in range(num)]
    return [_start_process(preload) for _ in range(num)]


def _start_process(preload: Sequence[str]) -> Process:
    home = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join([home, *filter(None, sys.path)])
    settings = {"PYTHONPATH": path, **SINGLE_THREAD_ENV}
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "imageset.executors.worker", *preload],
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
