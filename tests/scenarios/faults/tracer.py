"""Run a function in a process whose system calls on files are counted, and let a fault come at one of them.

Every process and thread that it starts is traced, too, whatever language its code was written in: pyarrow, SQLite,
git and DVC need no help. What is written through a shared memory map is not seen.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType

from tests.scenarios.faults import syscalls
from tests.scenarios.faults.points import ERRORS, Point, name_sort

LINGER_S = 5.0  # that processes may end after the first of them


class UndisturbedRunFailed(Exception):
    """A run that nothing disturbed did not end as it should."""


@dataclass
class Run:
    """One process and its descendants, as they ended.

    Attributes:
        status: exit status of the first process; below zero: the signal that ended it.
        output: stdout and stderr.
        reached: whether the point came.
        hung: it did not end in time, and was killed.
        left: command lines of the processes that outlived it.
        operations: (operation, sort of file), in order.
        ended_after_s: seconds from the fault to the end of the first process.
        num_later: operations after the fault.
    """

    status: int = 0
    output: str = ""
    reached: bool = False
    hung: bool = False
    left: list[str] = field(default_factory=list)
    operations: list[tuple[str, str]] = field(default_factory=list)
    ended_after_s: float = 0.0
    num_later: int = 0


class TracedRun:
    """A run in the background, until `finish`.

    Args:
        work: called in a new process; returns its exit status.
        watched: the folder whose files count.
        log: for its output.
        kind, point: the fault; None for none.
        patience_s: seconds that it may take, and that it may take to end after a signal.
        with_reading: count files that are opened for reading, too.
    """

    def __init__(
        self, work: Callable[[], int], watched: Path, log: Path, kind: str | None = None,
        point: Point | None = None, patience_s: tuple[float, float] = (300.0, 10.0), with_reading: bool = False,
    ) -> None:  # fmt: skip
        self.log = log
        reader, writer = os.pipe()
        sys.stdout.flush()
        self._pid = os.fork()
        if not self._pid:
            os.close(reader)
            syscalls.die_with_parent()
            try:
                tracer = _Tracer(watched, kind, point, patience_s)
                tracer.run(_start(work, log, with_reading or kind == "emfile"), writer)
                os._exit(0)
            except BaseException:
                import traceback

                traceback.print_exc()
                os._exit(1)
        os.close(writer)
        with os.fdopen(reader) as file:  # closed when the first process has ended
            self.run = Run(**json.loads(file.read() or '{"status": -1, "hung": true}'))
        self.run.operations = [(operation, path) for operation, path in self.run.operations]
        self.run.output = log.read_text(encoding="utf-8", errors="replace")

    def finish(self, linger_s: float = LINGER_S) -> Run:
        """Wait for the descendants, end those that are left, and return the run."""
        until = time.monotonic() + linger_s
        while os.waitid(os.P_PID, self._pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            if time.monotonic() > until:
                self.run.left = _list_traced(self._pid)
                os.kill(self._pid, signal.SIGKILL)  # and with it all that it traces
                break
            time.sleep(0.02)
        os.waitpid(self._pid, 0)
        self.run.output = self.log.read_text(encoding="utf-8", errors="replace")
        return self.run


def run_function(work: Callable[[], int], log: Path, patience_s: float = 300.0) -> Run:
    """Run a function in a new process that nothing disturbs."""
    pid = _fork(work, log)
    until, run = time.monotonic() + patience_s, Run()
    while os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        if time.monotonic() > until:
            run.hung = True
            os.killpg(pid, signal.SIGKILL)
        time.sleep(0.02)
    run.status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    run.output = log.read_text(encoding="utf-8", errors="replace")
    return run


def _fork(work: Callable[[], int], log: Path, prepare: Callable[[], object] = lambda: None) -> int:
    """Start a process in a session of its own that ends as Python ends: threads, then atexit."""
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        os.setsid()
        syscalls.die_with_parent()
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts background jobs without it
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        for number in (1, 2):
            os.dup2(descriptor, number)
        os.close(descriptor)
        sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, closefd=False) for number in (1, 2))
        prepare()
        status = _call(work)
        threading._shutdown()  # type: ignore[attr-defined]
        import atexit

        atexit._run_exitfuncs()
    finally:
        with suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def _call(work: Callable[[], int]) -> int:
    try:
        return work()
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        import traceback

        traceback.print_exc()
        return 1


def _start(work: Callable[[], int], log: Path, with_reading: bool) -> int:
    """Start the first process, which waits until it is traced."""
    reader, writer = os.pipe()

    def prepare() -> None:
        os.close(writer)
        os.read(reader, 1)
        os.close(reader)
        syscalls.install_filter(with_reading=with_reading)

    pid = _fork(work, log, prepare)
    os.close(reader)
    syscalls.trace(syscalls.PTRACE_SEIZE, pid, syscalls.OPTIONS)
    os.close(writer)
    return pid


class _Tracer:
    def __init__(
        self, watched: Path, kind: str | None, point: Point | None, patience_s: tuple[float, float]
    ) -> None:
        self.watched, self.kind, self.point = f"{watched}/", kind, point
        self.patience_s, self.grace_s = patience_s
        self.counts: Counter[tuple[str, str]] = Counter()
        self.run_ = Run()
        self.threads: set[int] = set()
        self.torn: int | None = None  # the thread whose half write is under way
        self.fault_s: float | None = None

    def run(self, first: int, report: int) -> None:
        """Trace until no process is left; write the Run to `report` once the first has ended."""
        self.first = first
        self.threads.add(first)
        signal.signal(signal.SIGALRM, self._give_up)
        signal.setitimer(signal.ITIMER_REAL, self.patience_s)
        while True:
            try:
                thread, status = os.waitpid(-1, syscalls.WALL)
            except ChildProcessError:
                return
            if os.WIFSTOPPED(status):
                self.threads.add(thread)
                with suppress(ProcessLookupError):
                    self._continue(thread, status)
                continue
            self.threads.discard(thread)
            if thread == first:
                signal.setitimer(signal.ITIMER_REAL, 0)
                self.run_.status = os.waitstatus_to_exitcode(status)
                if self.fault_s is not None:
                    self.run_.ended_after_s = time.monotonic() - self.fault_s
                with os.fdopen(report, "w") as file:
                    json.dump(asdict(self.run_), file)

    def _give_up(self, number: int, frame: FrameType | None) -> None:
        self.run_.hung = True
        self._kill_all()

    def _kill_all(self) -> None:
        for thread in list(self.threads):
            with suppress(ProcessLookupError):
                os.kill(thread, signal.SIGKILL)

    def _continue(self, thread: int, status: int) -> None:
        """Let a stopped thread go on, with what the tracer has to do to it first."""
        number, event = os.WSTOPSIG(status), status >> 16
        if event == syscalls.EVENT_SECCOMP:
            self._meet_call(thread)
        elif event == syscalls.EVENT_STOP and number != signal.SIGTRAP:
            syscalls.trace(syscalls.PTRACE_LISTEN, thread)
        elif event:
            syscalls.trace(syscalls.PTRACE_CONT, thread)
        elif number == signal.SIGTRAP | 0x80:  # the end of the half write
            self.torn = None
            self._strike()
            syscalls.trace(syscalls.PTRACE_CONT, thread)
        else:
            syscalls.trace(syscalls.PTRACE_CONT, thread, number)

    def _meet_call(self, thread: int) -> None:
        registers = syscalls.read_registers(thread)
        call = syscalls.read_call(thread, registers)
        if call is not None and call.path.startswith(self.watched):
            sort = (call.operation, name_sort(call.path.removeprefix(self.watched)))
            self.counts[sort] += 1
            if self.point is None:
                self.run_.operations.append(sort)
            elif not self.run_.reached:
                self.run_.reached = sort == (self.point.operation, self.point.path) and (
                    self.counts[sort] == self.point.number
                )
                if self.run_.reached and self.point.torn and registers.rdx > 1 and registers.orig_rax in (1, 18):
                    registers.rdx //= 2
                    syscalls.write_registers(thread, registers)
                    self.torn = thread
                    syscalls.trace(syscalls.PTRACE_SYSCALL, thread)
                    return
                if self.run_.reached:
                    self._strike()
                    self._fail_call(thread, registers, call.operation)
            else:
                self.run_.num_later += 1
                self._fail_call(thread, registers, call.operation, later=True)
        syscalls.trace(syscalls.PTRACE_CONT, thread)

    def _fail_call(self, thread: int, registers: syscalls.Registers, operation: str, later: bool = False) -> None:
        """Let a call return the error of this kind of fault, if it is one that fails."""
        number, operations, lasting = ERRORS.get(self.kind or "", (0, (), False))
        if operation in operations and (lasting or not later):
            registers.orig_rax, registers.rax = 2**64 - 1, 2**64 - number
            syscalls.write_registers(thread, registers)

    def _strike(self) -> None:
        """Send the signal of this kind of fault, if it is one."""
        self.fault_s = time.monotonic()
        if self.kind == "kill":
            self._kill_all()
        elif self.kind == "kill-main":
            os.kill(self.first, signal.SIGKILL)
        elif self.kind == "term":
            self._send(self.first, signal.SIGTERM)
        elif self.kind == "int":
            with suppress(ProcessLookupError):
                os.killpg(self.first, signal.SIGINT)
            signal.setitimer(signal.ITIMER_REAL, self.grace_s)

    def _send(self, pid: int, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.kill(pid, number)
        signal.setitimer(signal.ITIMER_REAL, self.grace_s)


def _list_traced(tracer: int) -> list[str]:
    """The command lines of the processes that a process traces."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if f"TracerPid:\t{tracer}\n" in (folder / "status").read_text():
                found.append((folder / "cmdline").read_text().replace("\0", " ").strip()[:200])
    return found
