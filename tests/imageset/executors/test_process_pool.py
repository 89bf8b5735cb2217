from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from imageset.executors.limits import limit_memory
from imageset.executors.process_pool import ProcessExecutor
from imageset.executors.stream import map_stream
from imageset.rejections import Rejected
from tests.helpers.project import ROOT


def misbehave(data: bytes) -> bytes:
    if data == b"fill":
        limit_memory(max_pixels=1_000_000)
        return bytes(2 << 30)
    if data == b"die":
        os._exit(7)
    if data == b"hang":
        time.sleep(60)
    return data.upper()


def test_a_crash_and_a_hang_cost_one_picture_each() -> None:
    items = [(n, b"fine") for n in range(9)]
    items[3], items[6] = (3, b"die"), (6, b"hang")
    outcomes = dict(map_stream(items, misbehave, workers=2, timeout_s=0.5))
    assert {n: str(one.reason) for n, one in outcomes.items() if isinstance(one, Rejected)} == {
        3: "crashed",
        6: "timeout",
    }
    assert all(outcomes[n] == b"FINE" for n in range(9) if n not in (3, 6))


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere workers are not forked")
def test_a_program_of_one_thread_forks_its_workers_and_what_dies_is_named_all_the_same() -> None:
    script = (
        "import os\n"
        "from imageset.executors.process_pool import SINGLE_THREAD_ENV, ForkedProcess, ProcessExecutor\n"
        "os.environ.update(SINGLE_THREAD_ENV)\n"
        "from imageset.executors.stream import map_stream\n"
        f"from {__name__} import misbehave\n"
        "with ProcessExecutor(2) as pool:\n"
        "    assert all(isinstance(one, ForkedProcess) for one in pool._idle)\n"
        "    items = enumerate([b'fine', b'die', b'hang', b'fine'])\n"
        "    for number, found in map_stream(items, misbehave, executor=pool, timeout_s=0.5):\n"
        "        print(number, getattr(found, 'reason', found))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.splitlines() == ["0 b'FINE'", "1 crashed", "2 timeout", "3 b'FINE'"], done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is kept on Linux only")
def test_a_picture_that_wants_too_much_memory_gets_an_error_and_not_the_machine() -> None:
    with ProcessExecutor(1) as pool:
        with pytest.raises(MemoryError):
            pool.submit(misbehave, b"fill").result()
        assert pool.submit(misbehave, b"fine").result() == b"FINE"


def test_workers_that_rest_are_ended_and_others_come_when_there_is_work() -> None:
    with ProcessExecutor(1) as pool:
        before = pool.submit(os.getpid).result()
        pool.release_workers()
        with pytest.raises(ProcessLookupError):
            os.kill(before, 0)
        assert pool.submit(os.getpid).result() not in (before, os.getpid())
