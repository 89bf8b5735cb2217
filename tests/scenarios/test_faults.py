"""`make faults` in a reduced form: its tracer, its comparison, and a few tries that need no server."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.helpers.project import ROOT
from tests.scenarios.faults import table
from tests.scenarios.faults.comparison import FALSE, LOST, Expected
from tests.scenarios.faults.flips import draw_flips
from tests.scenarios.faults.points import Point, draw_points
from tests.scenarios.faults.syscalls import explain_missing_tracer
from tests.scenarios.faults.table import Results
from tests.scenarios.faults.tracer import Run, TracedRun
from tests.scenarios.faults.tries import TRACED, Try

needs_tracer = pytest.mark.skipif(
    explain_missing_tracer() is not None, reason="system calls cannot be traced here"
)


def write_in_three_ways(folder: Path) -> int:
    """By Python, by pyarrow, and by SQLite in a child."""
    (folder / "text.partial").write_bytes(b"x" * 1000)
    os.replace(folder / "text.partial", folder / "text-1")
    pq.write_table(pa.table({"number": list(range(1000))}), folder / "a.parquet")
    pid = os.fork()
    if not pid:
        database = sqlite3.connect(folder / "a.db")
        database.execute("CREATE TABLE one (number INTEGER)")
        database.close()
        os._exit(0)
    os.waitpid(pid, 0)
    return 0


def trace_writing(folder: Path, kind: str | None = None, point: Point | None = None) -> Run:
    folder.mkdir()
    return TracedRun(lambda: write_in_three_ways(folder), folder, folder.parent / "log", kind, point).finish()


@needs_tracer
def test_operations_of_python_pyarrow_and_sqlite_are_counted_in_all_processes(tmp_path):
    run = trace_writing(tmp_path / "work")
    assert run.status == 0
    sorts = {("rename", "text-N"), ("write", "a.parquet"), ("create", "a.db"), ("write", "a.db"), ("sync", "a.db")}
    assert sorts <= set(run.operations)


@needs_tracer
def test_a_kill_comes_before_its_operation(tmp_path):
    run = trace_writing(tmp_path / "work", "kill", Point("rename", "text-N", 1))
    assert (run.status, run.reached) == (-signal.SIGKILL, True)
    assert [path.name for path in (tmp_path / "work").iterdir()] == ["text.partial"]


@needs_tracer
def test_a_torn_write_lets_half_of_the_bytes_through(tmp_path):
    run = trace_writing(tmp_path / "work", "kill", Point("write", "text.partial", 1, torn=True))
    assert run.status == -signal.SIGKILL
    assert (tmp_path / "work" / "text.partial").stat().st_size == 500


@needs_tracer
def test_a_full_disk_reaches_the_code_of_pyarrow(tmp_path):
    run = trace_writing(tmp_path / "work", "enospc", Point("write", "a.parquet", 1))
    assert (run.status, run.reached) == (1, True)
    assert "No space left on device" in run.output
    assert (tmp_path / "work" / "text-1").stat().st_size == 1000


@needs_tracer
def test_a_process_that_outlives_the_first_is_named_and_ended(tmp_path):
    code = "import time, sys; time.sleep(600)"

    def work() -> int:
        subprocess.Popen([sys.executable, "-c", code])
        return 0

    traced = TracedRun(work, tmp_path, tmp_path / "log")
    run = traced.finish(linger_s=0.5)
    assert [code in command for command in run.left] == [True]


def test_points_are_of_every_sort_before_one_comes_again():
    operations = [("write", "a")] * 90 + [("rename", "b"), ("sync", "c"), ("open", "d")]
    points = draw_points("kill", operations, 6, "seed")
    for some in (points[:3], points[3:]):
        assert {(point.operation, point.path) for point in some} == {
            ("write", "a"),
            ("rename", "b"),
            ("sync", "c"),
        }
    assert points == draw_points("kill", operations, 6, "seed") != draw_points("kill", operations, 6, "other")


def test_one_bit_of_one_file_differs_after_a_flip(tmp_path):
    (tmp_path / "a.npy").write_bytes(bytes(50))
    before = (tmp_path / "a.npy").stat().st_mtime_ns
    (flip,) = draw_flips(tmp_path, 1, "seed")
    assert flip.apply(tmp_path, keep_time=True) == (tmp_path / "a.npy").read_bytes()
    assert sum(byte.bit_count() for byte in (tmp_path / "a.npy").read_bytes()) == 1
    assert (tmp_path / "a.npy").stat().st_mtime_ns == before


def learn() -> Expected:
    """Of two runs: `data` is always the same, `run` without its id, `time` never."""
    once = {"data": ["1", "1"], "run": ["id 7 of a", "id * of a"], "time": ["5", "5"]}
    other = {"data": ["1", "1"], "run": ["id 8 of a", "id * of a"], "time": ["6", "6"]}
    return Expected.learn(once, once | {"data": ["2", "2"]}, other, set())


@pytest.mark.parametrize(
    ("change", "kinds"),
    [
        ({}, []),
        ({"data": ["2", "2"], "run": ["id 9 of a", "id * of a"], "time": ["8", "8"]}, []),
        ({"data": ["3", "3"]}, [FALSE]),
        ({"run": ["id 9 of b", "id * of b"]}, [FALSE]),
        ({"more": ["1", "1"]}, [FALSE]),
        ({"time": None}, [LOST]),
    ],
)
def test_a_project_is_compared_as_far_as_undisturbed_ones_agree(change, kinds):
    expected = learn()
    found = {name: value for name, value in (expected.right[0] | change).items() if value is not None}
    assert [kind for kind, _ in expected.find_differences(found)] == kinds


def test_results_of_the_same_seed_and_code_are_taken_over(tmp_path, monkeypatch):
    results = Results(tmp_path / "faults.json", seed=0)
    results.add("predict/kill/0", Try("a point"))
    results.add("predict/eio/0", Try("a point", problems=[(TRACED, "OSError"), (TRACED, "again")]))
    results.add("predict/eio/1", Try("a point", reached=False))
    again = Results(tmp_path / "faults.json", seed=0)
    assert again.format_table().splitlines()[2] == "| predict | 1 | 1 1t |"
    found = {name: number for name, number in again.count_totals().items() if number}
    assert found == {"tries": 2, "traceback": 1}
    assert Results(tmp_path / "faults.json", seed=1).tries == {}
    monkeypatch.setattr(table, "digest_code", lambda: "other code")
    assert Results(tmp_path / "faults.json", seed=0).tries == {}


@needs_tracer
def test_normalize_is_the_same_after_kills_signals_failing_disks_and_flipped_bits(tmp_path):
    kinds = ["kill", "kill-main", "term", "int", "enospc", "eio", "erofs", "emfile", "flip", "rot"]
    words = "-m tests.scenarios.faults --commands normalize-first --number 1 --patience 300 300 --kinds"
    command = [sys.executable, *words.split(), ",".join(kinds), "--out", str(tmp_path / "faults.json")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    tries = json.loads((tmp_path / "faults.json").read_text())["tries"]
    assert {name.split("/")[1] for name in tries} == set(kinds)
