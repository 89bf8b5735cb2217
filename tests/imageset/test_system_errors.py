from __future__ import annotations

import errno
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from imageset.exceptions import UserError
from imageset.system_errors import describe_system_error, describe_system_text

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="/dev/full and /proc are Linux's")
HOLD_LOCK = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN EXCLUSIVE")
print("held", flush=True)
sys.stdin.read()
"""


def raised_by(function: Callable[[], object]) -> BaseException:
    try:
        function()
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


@linux_only
def test_a_full_disk_is_one_line_with_a_place_and_a_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with Path("/dev/full").open("wb", buffering=0) as device:
        line = describe_system_error(raised_by(lambda: device.write(b"1")))
    assert line is not None and line.startswith(str(tmp_path))
    assert "the disk is full; free some space there" in line


@linux_only
def test_a_full_disk_behind_pyarrow_is_the_same_line() -> None:
    table = pa.table({"a": list(range(100_000))})
    with Path("/dev/full").open("wb", buffering=0) as device:  # of a path, pyarrow would remove the device itself
        line = describe_system_error(raised_by(lambda: pq.write_table(table, device)))
    assert line is not None and "the disk is full" in line


def test_the_file_of_an_error_is_named(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    cases = {
        "folder": "is a folder where a file belongs",
        "file/below": "a part of the path is a file",
        "loop": "links lead in a circle",
        "x" * 300: "the name is longer than the disk allows",
        "missing": "is missing; restore it",
    }
    for name, text in cases.items():
        path = tmp_path / name
        line = describe_system_error(raised_by(path.read_bytes))
        assert line is not None and line.startswith(f"{path}: {text}"), line


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (errno.EROFS, "the disk is read-only"), (errno.EDQUOT, "quota"), (errno.EIO, "dmesg"),
        (errno.EMFILE, "ulimit -n"), (errno.ENOMEM, "ulimit -v"), (errno.EACCES, "permission is denied"),
    ],
)  # fmt: skip
def test_each_kind_has_its_remedy_also_as_the_cause_of_another_error(number: int, text: str) -> None:
    error = OSError(number, os.strerror(number), "/a/b")
    wrapped = RuntimeError("the writer failed")
    wrapped.__cause__ = error
    for one in (error, wrapped):
        line = describe_system_error(one)
        assert line is not None and line.startswith("/a/b: ") and text in line and "\n" not in line


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (MemoryError(), "the memory is used up"),
        (ImportError("libtorch.so: failed to map segment from shared object"), "the memory is used up"),
        (RuntimeError("can't start new thread"), "the memory is used up"),
        (RuntimeError("SafetensorError: I/O error: No space left on device (os error 28)"), "the disk is full"),
        (sqlite3.OperationalError("database or disk is full"), "the disk is full"),
        (sqlite3.OperationalError("attempt to write a readonly database"), "the disk is read-only"),
        (sqlite3.OperationalError("unable to open database file"), "a database cannot be opened"),
    ],
)
def test_errors_that_say_it_in_words_only_are_understood(error: Exception, text: str) -> None:
    line = describe_system_error(error)
    assert line is not None and text in line


def test_the_full_disk_behind_a_database_that_cannot_be_opened_is_named() -> None:
    later = sqlite3.OperationalError("unable to open database file")
    later.__context__ = OSError(errno.ENOSPC, "No space left on device", "/a/b")
    line = describe_system_error(later)
    assert line is not None and line.startswith("/a/b: the disk is full")


def test_any_other_error_stays_as_it_is() -> None:
    assert describe_system_error(ValueError("a bug")) is None
    handled = KeyError("a bug")
    handled.__context__ = FileNotFoundError(errno.ENOENT, "no such file", "/a")
    assert describe_system_error(handled) is None
    wrapped = ValueError("a bug")
    wrapped.__cause__ = UserError("No space left on device")
    assert describe_system_error(wrapped) is None


@linux_only
def test_a_locked_database_says_by_whom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".git").mkdir()
    (tmp_path / "project").mkdir()
    database = tmp_path / "mlflow.db"
    sqlite3.connect(database).execute("CREATE TABLE t (a)")
    monkeypatch.chdir(tmp_path / "project")
    command = [sys.executable, "-c", HOLD_LOCK, str(database)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
        locked = raised_by(lambda: sqlite3.connect(database, timeout=0.1).execute("INSERT INTO t VALUES (1)"))
        line = describe_system_error(locked)
        assert line is not None and line.startswith(f"{database}: is locked by process {holder.pid} ")
        assert f"`kill {holder.pid}`" in line and "\n" not in line
        assert describe_system_error(RuntimeError(f"(sqlite3.OperationalError) {locked}")) == line
        assert holder.stdin is not None
        holder.stdin.close()
    line = describe_system_error(locked)
    assert line is not None and "is locked by another program" in line


def test_the_output_of_another_program_is_understood() -> None:
    text = "ERROR: unexpected error - [Errno 30] Read-only file system: '/mnt/p/.dvc/tmp'"
    assert describe_system_text(text) is not None
    assert str(describe_system_text(text)).startswith("/mnt/p/.dvc/tmp: the disk is read-only")
    assert describe_system_text("ERROR: [Errno 13] Permission denied: '/mnt/p/dvc.lock'") is not None
    assert describe_system_text("ERROR: failed to pull data from the cloud") is None
