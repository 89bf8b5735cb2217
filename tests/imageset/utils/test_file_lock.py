from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from imageset.utils.file_lock import output_lock

# Holds the lock of an output until its standard input is closed, or it is killed.
HOLDER = """
import sys
from pathlib import Path
from imageset.utils.file_lock import output_lock

with output_lock(Path(sys.argv[1]), lambda line: print(line, flush=True)):
    print("holds", flush=True)
    sys.stdin.read()
"""


def start_holder(out: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", HOLDER, str(out)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def read_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_a_second_writer_says_which_process_writes_and_waits_until_it_ends(tmp_path: Path) -> None:
    with start_holder(tmp_path / "out") as first:
        assert read_line(first) == "holds"
        with start_holder(tmp_path / "out") as second:
            assert f"{tmp_path / 'out'} is being written by process {first.pid} on " in read_line(second)
            first.communicate()
            assert read_line(second) == "holds"
            second.communicate()
    assert list(tmp_path.iterdir()) == []


def test_a_lock_that_a_killed_writer_left_is_taken_over_and_removed(tmp_path: Path) -> None:
    with start_holder(tmp_path / "out") as first:
        assert read_line(first) == "holds"
        first.kill()
    assert [file.name for file in tmp_path.iterdir()] == [".out.lock"]
    with output_lock(tmp_path / "out", pytest.fail):
        pass
    assert list(tmp_path.iterdir()) == []


def test_other_outputs_of_the_same_folder_do_not_wait(tmp_path: Path) -> None:
    with output_lock(tmp_path / "one", pytest.fail), output_lock(tmp_path / "other", pytest.fail):
        pass
