"""One run at a time, on a real Prefect server."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from flows import limits, server
from flows.server import ask

HOLD = (
    "import sys; from flows import limits\n"
    "with limits.hold(*sys.argv[1:]):\n"
    "    print('held', flush=True); sys.stdin.read()"
)


@contextmanager
def holding(api: str, *names: str) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds these limits until its stdin is closed."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, *names], env={**server.processes.environment(), "PREFECT_API_URL": api},
        text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            stream.close()


def test_two_runs_of_one_dataset_wait_for_each_other_and_two_datasets_do_not(prefect_server, caplog):
    cats, dogs, gpu = limits.of_dataset("cats"), limits.of_dataset("dogs"), "gpu-here-0"
    got = threading.Event()

    def second() -> None:
        with limits.hold(cats, gpu):
            got.set()

    with holding(prefect_server, cats) as first:
        assert limits.ensure(prefect_server, [cats, dogs, gpu]) == {cats: 1, dogs: 0, gpu: 0}
        with limits.hold(dogs):
            assert limits.ensure(prefect_server, [dogs]) == {dogs: 1}
            with limits.hold(dogs):  # what this process holds, it holds
                pass
            assert limits.ensure(prefect_server, [dogs]) == {dogs: 1}
        waiting = threading.Thread(target=second)
        waiting.start()
        assert not got.wait(3)
        assert limits.ensure(prefect_server, [cats, gpu]) == {cats: 1, gpu: 0}  # all of them at once, or none
        first.communicate()
        waiting.join(120)
    assert got.is_set() and f"waiting for {cats}: another run holds it" in caplog.text
    assert limits.ensure(prefect_server, [cats, dogs, gpu]) == {cats: 0, dogs: 0, gpu: 0}


def test_what_died_with_the_server_is_freed_and_nobody_elses(prefect_server):
    ours, other = limits.of_dataset("birds"), "somebody-elses"
    with holding(prefect_server, ours, other) as killed:
        killed.kill()
        killed.wait()
        assert limits.ensure(prefect_server, [ours, other]) == {ours: 1, other: 1}
        limits.free(prefect_server)
        assert limits.ensure(prefect_server, [ours, other]) == {ours: 0, other: 1}


def test_a_limit_that_a_person_has_changed_stays_and_another_run_of_a_wider_one_need_not_wait(prefect_server):
    name = limits.of_dataset("many cats/dogs")
    assert name == "dataset-many_cats_dogs"
    limits.ensure(prefect_server, [name])
    ask(f"{prefect_server}/v2/concurrency_limits/{name}", {"limit": 2}, method="PATCH")
    with holding(prefect_server, name), limits.hold(name):
        assert limits.ensure(prefect_server, [name]) == {name: 2}


@pytest.mark.parametrize(("visible", "numbers"), [("0,2", ["0", "2"]), ("", []), ("-1", [])])
def test_each_gpu_that_we_may_use_has_a_limit_of_its_own(monkeypatch, visible, numbers):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert [name.rpartition("-")[2] for name in limits.of_gpus()] == numbers


def test_where_nobody_else_reports_to_nothing_is_waited_for(monkeypatch):
    monkeypatch.setattr(server, "_temporary", ["http://127.0.0.1:9"])
    with limits.hold(limits.of_dataset("cats")):  # no server is asked
        pass
