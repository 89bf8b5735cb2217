"""System calls that change files, as the kernel shows them to a tracer: ptrace and a seccomp filter, by ctypes."""

from __future__ import annotations

import ctypes
import os
import platform
import signal
import sys
from dataclasses import dataclass

# operation -> system call -> (number on x86_64, argument that holds the path or descriptor, of its folder or None)
CALLS: dict[str, dict[str, tuple[int, int, int | None]]] = {
    "write": {
        "write": (1, 0, None), "pwrite64": (18, 0, None), "writev": (20, 0, None), "pwritev": (296, 0, None),
        "pwritev2": (328, 0, None), "copy_file_range": (326, 2, None), "sendfile": (40, 0, None),
    },
    "truncate": {"ftruncate": (77, 0, None), "fallocate": (285, 0, None)},
    "sync": {"fsync": (74, 0, None), "fdatasync": (75, 0, None)},
    "rename": {"rename": (82, 1, None), "renameat": (264, 3, 2), "renameat2": (316, 3, 2)},
    "remove": {"unlink": (87, 0, None), "unlinkat": (263, 1, 0), "rmdir": (84, 0, None)},
    "mkdir": {"mkdir": (83, 0, None), "mkdirat": (258, 1, 0)},
    "link": {"link": (86, 1, None), "linkat": (265, 3, 2), "symlink": (88, 1, None), "symlinkat": (266, 2, 1)},
}  # fmt: skip
OPENS = {"open": (2, 0, None), "openat": (257, 1, 0), "creat": (85, 0, None)}
FLAGS_ARGUMENT = {"open": 1, "openat": 2}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
BY_DESCRIPTOR = ("write", "truncate", "sync")
KNOWN = {number: (operation, place, folder) for operation, calls in CALLS.items()
         for number, place, folder in calls.values()}  # fmt: skip
KNOWN |= {number: ("open", place, folder) for number, place, folder in OPENS.values()}
AT_FDCWD = -100

PTRACE_CONT, PTRACE_GETREGS, PTRACE_SETREGS, PTRACE_SYSCALL = 7, 12, 13, 24
PTRACE_SEIZE, PTRACE_LISTEN = 0x4206, 0x4208
# SYSGOOD, FORK, VFORK, CLONE, SECCOMP and EXITKILL: no process outlives its tracer
OPTIONS = 0x1 | 0x2 | 0x4 | 0x8 | 0x80 | 0x100000
EVENT_SECCOMP, EVENT_STOP = 7, 128
WALL = 0x40000000  # of waitpid: threads, too
REGISTERS = (
    "r15", "r14", "r13", "r12", "rbp", "rbx", "r11", "r10", "r9", "r8", "rax", "rcx", "rdx", "rsi", "rdi",
    "orig_rax", "rip", "cs", "eflags", "rsp", "ss", "fs_base", "gs_base", "ds", "es", "fs", "gs",
)  # fmt: skip
ARGUMENTS = ("rdi", "rsi", "rdx", "r10", "r8", "r9")

_LOAD, _IF_EQUAL, _IF_ANY_BIT, _RETURN = 0x20, 0x15, 0x45, 0x06  # of the kernel's packet filter
_TRACE, _ALLOW = 0x7FF00000, 0x7FFF0000

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.restype = ctypes.c_long
_libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]


class Registers(ctypes.Structure):
    _fields_ = [(name, ctypes.c_ulonglong) for name in REGISTERS]

    def argument(self, place: int) -> int:
        return int(getattr(self, ARGUMENTS[place]))


class _Instruction(ctypes.Structure):
    _fields_ = [("code", ctypes.c_ushort), ("yes", ctypes.c_ubyte), ("no", ctypes.c_ubyte), ("k", ctypes.c_uint)]


class _Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("instructions", ctypes.POINTER(_Instruction))]


@dataclass(frozen=True)
class FileCall:
    """One system call that a traced thread is about to make on a file."""

    operation: str
    path: str


def explain_missing_tracer() -> str | None:
    """Say why system calls cannot be traced here; None where they can."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return f"it runs on Linux on x86_64 only, not on {sys.platform} on {platform.machine()}"
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(writer)
        os.read(reader, 1)
        os._exit(0)
    try:
        trace(PTRACE_SEIZE, pid, OPTIONS)
    except OSError as error:
        return f"ptrace: {error.strerror}; in a container, try --cap-add SYS_PTRACE"
    finally:
        os.close(reader)
        os.close(writer)
        os.waitpid(pid, WALL)
    return None


def trace(request: int, thread: int, data: object = 0) -> None:
    """Call ptrace.

    Raises:
        ProcessLookupError: the thread has ended.
        OSError: the kernel refuses.
    """
    if _libc.ptrace(request, thread, None, data) == -1 and (number := ctypes.get_errno()):
        raise OSError(number, os.strerror(number))


def die_with_parent() -> None:
    """Let the kernel end this process when its parent ends."""
    _libc.prctl(1, signal.SIGKILL, 0, 0, 0)


def read_registers(thread: int) -> Registers:
    registers = Registers()
    trace(PTRACE_GETREGS, thread, ctypes.addressof(registers))
    return registers


def write_registers(thread: int, registers: Registers) -> None:
    trace(PTRACE_SETREGS, thread, ctypes.addressof(registers))


def read_call(thread: int, registers: Registers) -> FileCall | None:
    """Return the call at which a thread stands; None for pipes, sockets and what is no file."""
    operation, place, folder = KNOWN[registers.orig_rax]
    value = registers.argument(place)
    try:
        if operation in BY_DESCRIPTOR:
            path = os.readlink(f"/proc/{thread}/fd/{_to_int(value)}")
        else:
            path = _read_path(thread, value)
            base = AT_FDCWD if folder is None else _to_int(registers.argument(folder))
            if not path.startswith("/"):
                path = f"{os.readlink(f'/proc/{thread}/' + ('cwd' if base == AT_FDCWD else f'fd/{base}'))}/{path}"
    except OSError:
        return None
    if operation == "open" and _is_for_writing(registers):
        operation = "create"
    return FileCall(operation, os.path.normpath(path)) if path.startswith("/") else None


def install_filter(*, with_reading: bool) -> None:
    """Let the calls of this process and of its children stop for the tracer.

    Args:
        with_reading: files that are opened only for reading, too.
    """
    instructions = [_Instruction(_LOAD, 0, 0, 0)]
    numbers = [number for calls in CALLS.values() for number, *_ in calls.values()]
    numbers += [OPENS["creat"][0]] if not with_reading else [number for number, *_ in OPENS.values()]
    for number in numbers:
        instructions += [_Instruction(_IF_EQUAL, 0, 1, number), _Instruction(_RETURN, 0, 0, _TRACE)]
    for name, place in FLAGS_ARGUMENT.items() if not with_reading else ():
        instructions += [
            _Instruction(_IF_EQUAL, 0, 4, OPENS[name][0]),
            _Instruction(_LOAD, 0, 0, 16 + 8 * place),
            _Instruction(_IF_ANY_BIT, 0, 1, WRITING),
            _Instruction(_RETURN, 0, 0, _TRACE),
            _Instruction(_RETURN, 0, 0, _ALLOW),
        ]
    instructions.append(_Instruction(_RETURN, 0, 0, _ALLOW))
    array = (_Instruction * len(instructions))(*instructions)
    program = _Program(len(instructions), array)
    if _libc.prctl(38, 1, 0, 0, 0) or _libc.prctl(22, 2, ctypes.byref(program), 0, 0):  # no new privileges; filter
        raise OSError(ctypes.get_errno(), "seccomp")


def _is_for_writing(registers: Registers) -> bool:
    for name, place in FLAGS_ARGUMENT.items():
        if registers.orig_rax == OPENS[name][0]:
            return bool(registers.argument(place) & WRITING)
    return True  # creat


def _to_int(value: int) -> int:
    return ctypes.c_int(value & 0xFFFFFFFF).value


def _read_path(thread: int, address: int) -> str:
    with open(f"/proc/{thread}/mem", "rb", buffering=0) as memory:  # noqa: PTH123
        memory.seek(address)
        data = memory.read(4096 - address % 4096)  # up to the page's end, which is mapped
        if b"\0" not in data:
            data += memory.read(4096)
    return os.fsdecode(data.partition(b"\0")[0])
