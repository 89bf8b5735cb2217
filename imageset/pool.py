"""Work on pictures in processes of their own, where a crash or a hang costs one picture.

A `Crew` is whoever does the work: a `concurrent.futures.Executor`. That of `Workers` are threads that each own one
`imageset.worker` process. The processes are started by exec and import only numpy and Pillow. A program of a
single thread, which then holds no GPU either, is forked instead: in a hundredth of the time.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor, wait
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias, TypeVar, Union

from imageset.quality import Rejected
from imageset.worker import lift_pillows_own_limit, receive, run, send
from imageset.worker import main as serve

if TYPE_CHECKING:  # what starts workers does so before it imports what is large
    import numpy as np

    from imageset.decode import DecodeSpec

K = TypeVar("K")
T = TypeVar("T")
R = TypeVar("R")

Process: TypeAlias = Union["subprocess.Popen[bytes]", "Forked"]

TIMEOUT_S = 60.0
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}  # in each process
CHUNK_ITEMS = 64
CHUNK_BYTES = 4 << 20
CHUNKS_AHEAD = 3  # per worker
SECONDS_BETWEEN_CHECKS = 10.0


class WorkerDied(Exception):
    """A worker process ended while it was at work.

    Attributes:
        reason: "crashed" or "timeout", as in quality.REASONS.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail


def num_cpus() -> int:
    """Processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Crew(Executor):
    """An executor as this module needs it; see imageset.executors for the others.

    Attributes:
        num: tasks it works on at once.
        remote: whether the files of this machine are out of its reach.
    """

    num: int = 1
    remote: bool = False

    def check(self) -> None:
        """Called now and then while a result is waited for; raises UserError when none will come."""

    def rest(self) -> None:
        """Called when all work is done and more is not soon to come: let go of what takes memory."""


class Threads(ThreadPoolExecutor, Crew):
    """Threads of this process: the decoders let go of Python's lock. A crash or a hang is not contained."""

    def __init__(self, num: int | None = None) -> None:
        self.num = max(1, num or num_cpus())
        super().__init__(self.num, thread_name_prefix="imageset", initializer=lift_pillows_own_limit)


class Workers(Crew):
    """`num` worker processes (None or 0: one a processor) behind the interface of concurrent.futures.

    They are started at once: while they import their libraries the caller can do something else.
    """

    def __init__(self, num: int | None = None) -> None:
        self.num = max(1, num or num_cpus())
        self._idle = _start_first(self.num)
        self._threads = ThreadPoolExecutor(self.num, thread_name_prefix="imageset")
        self._own = threading.local()
        self._processes: set[Process] = set(self._idle)
        self._lock = threading.Lock()
        self._closed = False

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Run fn(*args) in a worker process; both must be picklable. The future raises WorkerDied if it dies."""
        assert not kwargs
        return self._threads.submit(self._run, fn, args)

    def rest(self) -> None:
        """End the worker processes; others are started when there is work again."""
        with self._lock:
            resting, self._processes = self._processes, set()
            self._idle.clear()
        for process in resting:
            process.kill()
            _close(process)

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
            _close(process)
        self._processes.clear()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.shutdown(wait=error is None, cancel_futures=error is not None)

    def _run(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        process = self._process()
        assert process.stdin is not None and process.stdout is not None
        try:
            send(process.stdin, (function, arguments))
            ok, answer = receive(process.stdout)
        except (EOFError, OSError, ValueError):
            raise self._death(process) from None
        if not ok:
            raise answer
        return answer

    def _process(self) -> Process:
        process: Process | None = getattr(self._own, "process", None)
        if process is None or process not in self._processes:
            with self._lock:
                if self._closed:
                    raise WorkerDied("crashed", "the pool is closed")
                process = self._own.process = self._idle.pop() if self._idle else _start()
                self._processes.add(process)
        return process

    def _death(self, process: Process) -> WorkerDied:
        self._own.process = None
        status = process.wait()
        with self._lock:
            self._processes.discard(process)
        _close(process)
        if status == -signal.SIGALRM:
            return WorkerDied("timeout", "decoding took too long")
        cause = signal.Signals(-status).name if status < 0 else f"exit status {status}"
        return WorkerDied("crashed", f"the decoder died ({cause})")


class Forked:
    """A worker process that is a fork of this one; to be used as a subprocess.Popen is."""

    def __init__(self) -> None:
        theirs_in, ours_in = os.pipe()
        ours_out, theirs_out = os.pipe()
        self._status: int | None = None
        self._lock = threading.Lock()
        self._pid = os.fork()
        if not self._pid:
            _live_as_worker(theirs_in, theirs_out)
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


def _live_as_worker(questions: int, answers: int) -> NoReturn:
    """What the child does, and all it does."""
    try:
        os.dup2(questions, 0)
        os.dup2(answers, 1)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        os.closerange(3, max(map(int, os.listdir("/proc/self/fd"))) + 1)  # whatever else is open is the parent's
        serve()
    finally:
        os._exit(1)


def _start_first(num: int) -> list[Process]:
    """So many worker processes, in the fastest way that is safe."""
    tasks = Path("/proc/self/task")
    if tasks.is_dir() and len(list(tasks.iterdir())) == 1:
        import simplejpeg  # noqa: F401  what workers need is imported once

        import imageset.pixels  # noqa: F401

        if len(list(tasks.iterdir())) == 1:  # still: a library for linear algebra may start threads
            return [Forked() for _ in range(num)]
    return [_start() for _ in range(num)]


def _start() -> Process:
    home = str(Path(__file__).resolve().parent.parent)
    path = os.pathsep.join([home, *filter(None, sys.path)])
    settings = {"PYTHONPATH": path, **ONE_THREAD}
    return subprocess.Popen(
        [sys.executable, "-m", "imageset.worker"],
        env={**os.environ, **settings},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )


def _close(process: Process) -> None:
    for pipe in (process.stdin, process.stdout):
        try:
            if pipe is not None:
                pipe.close()
        except OSError:
            pass
    process.wait()


def run_all(
    crew: Crew, work: Callable[[T], R], tasks: Iterable[T], *, alone: Callable[[T], list[T]], ahead: int
) -> Iterator[list[R | Rejected]]:
    """Yield the outcome of each task, in order; at most `ahead` tasks are in memory.

    The outcome is [result] of the task; where a worker died over it, one outcome for each task of alone(task): its
    result, or, when it kills again, Rejected("crashed") or Rejected("timeout").
    """
    pending: deque[tuple[T, Future[R]]] = deque()

    def first() -> list[R | Rejected]:
        task, future = pending.popleft()
        try:
            return [_result(crew, future)]
        except WorkerDied:
            # One at a time, and nothing beside it: where a Dask worker dies, whatever it held is blamed.
            _finish(crew, [other for _, other in pending])
            return [_last_result(crew, crew.submit(work, part)) for part in alone(task)]

    for task in tasks:
        pending.append((task, crew.submit(work, task)))
        if len(pending) >= ahead:
            yield first()
    while pending:
        yield first()


def _result(crew: Crew, future: Future[R]) -> R:
    _finish(crew, [future])
    return future.result()


def _finish(crew: Crew, futures: list[Future[R]]) -> None:
    while wait(futures, SECONDS_BETWEEN_CHECKS).not_done:
        crew.check()


def _last_result(crew: Crew, future: Future[Any]) -> Any:
    try:
        return _result(crew, future)
    except WorkerDied as death:
        return Rejected(death.reason, death.detail)


def chunked(items: Iterable[T], size_of: Callable[[T], int]) -> Iterator[list[T]]:
    """Cut a stream into lists of at most CHUNK_ITEMS items and about CHUNK_BYTES bytes."""
    chunk: list[T] = []
    num_bytes = 0
    for item in items:
        chunk.append(item)
        num_bytes += size_of(item)
        if len(chunk) == CHUNK_ITEMS or num_bytes >= CHUNK_BYTES:
            yield chunk
            chunk, num_bytes = [], 0
    if chunk:
        yield chunk


def map_stream(
    items: Iterable[tuple[K, bytes]],
    function: Callable[[bytes], T],
    *,
    workers: int | None = None,
    timeout_s: float = TIMEOUT_S,
    crew: Crew | None = None,
) -> Iterator[tuple[K, T | Rejected]]:
    """Apply a picklable function to each picture's bytes; order kept, memory constant.

    That is done by `crew`, or else in `workers` processes; None or 0 means one a processor.
    """
    keys: deque[list[K]] = deque()

    def chunks() -> Iterator[list[bytes]]:
        for chunk in chunked(items, lambda item: len(item[1])):
            keys.append([key for key, _ in chunk])
            yield [data for _, data in chunk]

    work = partial(_apply, function, timeout_s)
    with nullcontext(crew) if crew else Workers(workers) as pool:
        for outcome in run_all(pool, work, chunks(), alone=_singles, ahead=CHUNKS_AHEAD * pool.num):
            results = [one for part in outcome for one in ([part] if isinstance(part, Rejected) else part)]
            yield from zip(keys.popleft(), results, strict=True)


def _apply(function: Callable[[bytes], Any], timeout_s: float, chunk: list[bytes]) -> list[Any]:
    return run(function, chunk, timeout_s)


def _singles(chunk: list[bytes]) -> list[list[bytes]]:
    return [[data] for data in chunk]


def decode_stream(
    items: Iterable[tuple[K, bytes]], spec: DecodeSpec, *, workers: int | None = None, timeout_s: float = TIMEOUT_S
) -> Iterator[tuple[K, np.ndarray | Rejected]]:
    """Decode (key, bytes) in worker processes to (key, uint8 (H, W, C) or Rejected), in the order given.

    A picture that crashes or hangs its worker comes back as Rejected("crashed") or Rejected("timeout").
    """
    from imageset.decode import decode

    return map_stream(items, partial(decode, spec=spec), workers=workers, timeout_s=timeout_s)
