"""Errors of the operating system, of SQLite and of memory, each as one line: what is wrong, where, what to do.

Every `__main__` asks here about an exception that is no UserError. Libraries wrap such errors, some of them as
plain text (MLflow, pyarrow, safetensors, torch), so the chain of causes and their messages are searched as well.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from imageset import termination
from imageset.exceptions import EXIT_STATUS, UserError
from imageset.utils.text import escape_lines
from imageset.utils.url_credentials import redact

_FULL_BELOW_BYTES = 1 << 20  # free space of a disk on which a write has just failed
_REMEDIES = {
    errno.ENOSPC: "the disk is full; free some space there (`df -h` shows the disks), then run this again",
    errno.EDQUOT: "the disk quota is used up; free some space there or ask for more, then run this again",
    errno.EFBIG: "the file is larger than this shell or disk allows; raise the limit (`ulimit -f unlimited`)",
    errno.EROFS: "the disk is read-only; mount it for writing, or copy the project to a disk that can be written",
    errno.EACCES: "permission is denied; give this user access to it (`ls -ld` shows who has it)",
    errno.EPERM: "the operation is not permitted to this user; see who owns it (`ls -ld`), and its attributes "
    "(`lsattr -d`)",
    errno.EMFILE: "more files are open than this shell allows; raise the limit (`ulimit -n 4096`)",
    errno.ENFILE: "more files are open than this machine allows; end other programs, then run this again",
    errno.EIO: "the disk or the share fails; check it (`dmesg` says more), then run this again",
    errno.ESTALE: "the share was mounted anew; enter the folder again, then run this again",
    errno.ENOLCK: "the disk allows no locks; move the project to another one, such as a local disk",
    errno.ENOMEM: "the memory is used up; end other programs or raise the limit (`ulimit -v unlimited`), then run "
    "this again",
    errno.EAGAIN: "no further process can be started; end other programs or raise the limit (`ulimit -u`)",
    errno.ENAMETOOLONG: "the name is longer than the disk allows; shorten it",
    errno.ELOOP: "links lead in a circle; remove one of them",
    errno.ENOTDIR: "a part of the path is a file, not a folder; move that file away",
    errno.EISDIR: "is a folder where a file belongs; move it away, then run this again",
    errno.ENOTEMPTY: "the folder is not empty: another program writes into it; end that, then run this again",
    errno.ENOENT: "is missing; restore it, or run the command again if it has just been moved",
}
# These may also be what another error was raised from while it was handled.
_RESOURCES = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EMFILE, errno.ENFILE, errno.EIO, errno.ENOMEM),
    *(errno.ENOLCK, errno.ESTALE),
}
# Of a message with such a number; "no such file" there is often a part of a longer story.
_NAMED_IN_TEXT = _RESOURCES | {errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOTDIR, errno.ELOOP}
_ERRNO = re.compile(r"\[Errno (\d+)\]")
_NUMBERS_BY_TEXT = (
    (r"No space left on device|os error 28\b|(?:disk|database) (?:or disk )?is full", errno.ENOSPC),
    (r"Disk quota exceeded", errno.EDQUOT),
    (r"File too large", errno.EFBIG),
    (r"Read-only file system|readonly database|os error 30\b", errno.EROFS),
    (r"Too many open files|os error 24\b", errno.EMFILE),
    (r"Input/output error|disk I/O error|os error 5\b", errno.EIO),
    (
        r"Cannot allocate memory|bad_alloc|can't allocate memory|failed to map segment|can't start new thread"
        r"|[Mm]alloc of size|cannot allocate memory in static TLS",
        errno.ENOMEM,
    ),
)
_FAILED_WRITE = re.compile(r"file write failed|unexpected pos|write\(\) failed|Error writing")
_LOCKED_DATABASE = re.compile(r"database (?:table |schema )?is locked")
_CLOSED_DATABASE = re.compile(r"unable to open database file")
_LOCKS = Path("/proc/locks")


def report_error(error: Exception) -> int:
    """Print one line for an error that the user can mend and return the exit status; raise any other error again.

    After a signal every error is raised again, since it is a consequence of the signal.
    """
    is_line = isinstance(error, UserError | ConnectionError)
    line = str(error) if is_line else describe_system_error(error)
    if line is None or termination.is_requested():
        raise error
    print(f"error: {escape_lines(line)}", file=sys.stderr)
    return int(getattr(error, "status", EXIT_STATUS))


def describe_system_error(error: BaseException) -> str | None:
    """Return one line for an error of the system, whatever library it came through; None for any other error."""
    parts = [(part, is_cause) for part, is_cause in _iter_chain(error) if not isinstance(part, UserError)]
    for part, _ in parts:  # of all errors the cause: a database cannot be opened, since the disk is full
        if isinstance(part, OSError) and part.errno in _RESOURCES:
            return _format_line(_find_path(part), part.errno)
    for part, is_cause in parts:
        if isinstance(part, OSError) and part.errno in _REMEDIES and is_cause:
            return _format_line(_find_path(part), part.errno)
        if text := _describe_text(part):
            return text
    return None


def describe_system_text(text: str) -> str | None:
    """Return one line for the message of another program if an error of the system is its cause; else None."""
    if _LOCKED_DATABASE.search(text):
        return _describe_locked_database()
    number = next((number for pattern, number in _NUMBERS_BY_TEXT if re.search(pattern, text)), None)
    if number is None and (match := _ERRNO.search(text)) and int(match[1]) in _NAMED_IN_TEXT:
        number = int(match[1])
    return None if number is None else _format_line(_find_path_in_text(text), number)


def _describe_text(error: BaseException) -> str | None:
    if isinstance(error, MemoryError):
        return _format_line(None, errno.ENOMEM)
    text = str(error)
    if _CLOSED_DATABASE.search(text):
        return (
            "a database cannot be opened: see that the project's *.db files are files, and can be read and written"
        )
    if _FAILED_WRITE.search(text) and _find_full_folder():
        return _format_line(None, errno.ENOSPC)
    return describe_system_text(text)


def _iter_chain(error: BaseException) -> Iterator[tuple[BaseException, bool]]:
    """Yield an error and those that it was raised from, each with whether it is the error or an explicit cause."""
    seen: set[int] = set()
    pending = [(error, True)]
    while pending:
        part, is_cause = pending.pop(0)
        if id(part) in seen:
            continue
        seen.add(id(part))
        yield part, is_cause
        if part.__cause__ is not None:
            pending.append((part.__cause__, is_cause))
        elif part.__context__ is not None and not part.__suppress_context__:
            pending.append((part.__context__, False))


def _format_line(path: str | None, number: int | None) -> str:
    assert number is not None
    if path is None and number in (errno.ENOSPC, errno.EDQUOT):
        path = _find_full_folder() or os.getcwd()
    place = "" if path is None else f"{redact(path)}: "
    return f"{place}{_REMEDIES[number]}"


def _find_path(error: BaseException) -> str | None:
    for name in ("filename", "filename2"):
        value = getattr(error, name, None)
        if isinstance(value, (str, bytes, os.PathLike)):
            return os.fsdecode(value)
    return _find_path_in_text(str(error))


def _find_path_in_text(text: str) -> str | None:
    match = re.search(r"'(/[^'\n]+)'", text)
    return match[1] if match else None


def _find_full_folder() -> str | None:
    """Return the folder, of those that a command writes to, whose disk is full."""
    for folder in (os.getcwd(), tempfile.gettempdir(), os.path.expanduser("~")):
        with suppress(OSError):
            if shutil.disk_usage(folder).free < _FULL_BELOW_BYTES:
                return folder
    return None


# ---- databases -------------------------------------------------------------------------------------------------


def _describe_locked_database() -> str:
    held = list(_iter_holders(_iter_databases(Path.cwd())))
    if not held:
        return "a database of the project is locked by another program; wait until it ends, then run this again"
    path, pid = held[0]
    return (
        f"{path}: is locked by process {pid} ({_read_command(pid)}); wait until it ends, or end it "
        f"(`kill {pid}`), then run this again"
    )


def _iter_databases(folder: Path) -> Iterator[Path]:
    """Yield SQLite's files of a project and, up to the top of its git repository, those that it shares."""
    for place in (folder, *folder.parents):
        for pattern in ("*.db*", ".cache/*.db*", ".dvc/tmp/**/*.db*"):
            with suppress(OSError):
                yield from sorted(place.glob(pattern))
        if (place / ".git").exists():
            return


def _iter_holders(paths: Iterator[Path]) -> Iterator[tuple[Path, int]]:
    """Yield each file that another process has locked, and the id of that process; Linux only."""
    try:
        locks = [line.split() for line in _LOCKS.read_text().splitlines()]
    except OSError:
        return
    # 1: POSIX  ADVISORY  WRITE 4711 08:02:131 0 EOF; a line with -> is of a process that waits. Only the number of
    # the file is compared: an overlay file system shows another device here than `stat` does.
    holders = {fields[5].rpartition(":")[2]: int(fields[4]) for fields in locks if "->" not in fields}
    for path in paths:
        with suppress(OSError):
            pid = holders.get(str(path.stat().st_ino))
            if pid is not None and pid > 0 and pid != os.getpid():
                yield path, pid


def _read_command(pid: int) -> str:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return "which has just ended"
    text = " ".join(word.decode(errors="replace") for word in words)
    return redact(" ".join(text.split()))[:80] or "without a name"
