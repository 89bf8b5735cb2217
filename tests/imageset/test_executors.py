"""The same bytes out, whoever decodes; the Dask cluster here is a real one, and one of its workers is killed."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from imageset.errors import UserError
from imageset.executors import check_name, open_executor
from imageset.normalize import normalize
from imageset.pool import Crew, map_stream
from imageset.quality import Rejected
from imageset.raw import ingest
from tests.conftest import ROOT
from tests.imageset.pictures import PARAMS, make_folder, noise, snapshot

SETTINGS = {
    "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "1",
    "DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "60s",
    "DASK_DISTRIBUTED__WORKER__DAEMON": "False",
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": str(ROOT),
}


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("executors")
    source = make_folder(folder / "set", num_each=60)
    (source / "ant" / "cut.png").write_bytes(noise(5, 64, 64)[:3000])
    ingest(source, folder / "raw")
    return folder / "raw"


@pytest.fixture(scope="module")
def undisturbed(raw: Path) -> dict[str, bytes]:
    normalize(raw, raw.parent / "processes", PARAMS, workers=1, executor="processes")
    return snapshot(raw.parent / "processes")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """HOST:PORT of a scheduler with two workers, each with a nanny that starts it again."""
    folder = tmp_path_factory.mktemp("dask")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    module, port = [sys.executable, "-m"], address.rpartition(":")[2]
    scheduler = [*module, "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", port]
    worker = [*module, "distributed.cli.dask_worker", f"tcp://{address}", "--nworkers", "1", "--nthreads", "1"]
    commands = [[*command, "--no-dashboard"] for command in (scheduler, worker, worker)]
    log = (folder / "log.txt").open("wb")
    processes = [
        subprocess.Popen(
            command, env={**os.environ, **SETTINGS}, cwd=folder, stdout=log, stderr=log, start_new_session=True
        )
        for command in commands
    ]
    try:
        yield address
    finally:
        for process in reversed(processes):
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        log.close()


@pytest.mark.parametrize(("executor", "workers"), [("threads", 1), ("threads", 3), ("processes", 3)])
def test_the_same_bytes_come_out_of_threads_and_processes(
    raw: Path, undisturbed: dict[str, bytes], tmp_path: Path, executor: str, workers: int
) -> None:
    normalize(raw, tmp_path / "out", PARAMS, workers=workers, executor=executor)
    assert snapshot(tmp_path / "out") == undisturbed


def test_the_same_bytes_come_out_of_a_dask_cluster_that_loses_a_worker_midway(
    raw: Path, undisturbed: dict[str, bytes], tmp_path: Path, cluster: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("imageset.normalize.BATCH_PIXEL_BYTES", 4000)  # many small batches
    killed = threading.Event()
    with open_executor(f"dask://{cluster}") as crew:
        victim = crew.submit(os.getpid).result()

        def kill() -> None:
            os.kill(victim, signal.SIGKILL)
            killed.set()

        slow = _Slowly(crew, after=10, then=kill)
        normalize(raw, tmp_path / "out", PARAMS, executor=slow)
    assert killed.is_set() and not _alive(victim)
    assert snapshot(tmp_path / "out") == undisturbed


def test_a_picture_that_kills_dask_workers_is_named_and_its_neighbours_are_not(cluster: str) -> None:
    items = [(n, b"fine") for n in range(20)]
    items[7] = (7, b"die")
    with open_executor(f"dask://{cluster}") as crew:
        outcomes = dict(map_stream(items, _act, crew=crew))
    assert isinstance(outcomes[7], Rejected) and outcomes[7].reason == "crashed"
    assert [n for n, one in outcomes.items() if one != b"FINE"] == [7]


def test_an_executor_that_is_not_there_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("dusk://localhost:1", "dask://localhost", "thread"):
        with pytest.raises(UserError, match="must be processes, threads or dask://HOST:PORT"):
            check_name(name)
    monkeypatch.setattr("imageset.cluster.PATIENCE_S", 0.3)
    nobody = "dask://127.0.0.1:9"
    with pytest.raises(UserError, match=r"no Dask scheduler answers at 127\.0\.0\.1:9"), open_executor(nobody):
        pass
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(UserError, match="Dask is not installed"), open_executor(nobody):
        pass


def test_the_executor_is_taken_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONVOY_EXECUTOR", "threads")
    with open_executor(None, 1) as crew:
        assert crew.submit(os.getpid).result() == os.getpid()


class _Slowly(Crew):
    """Passes work on to another crew, and calls `then` after some of it."""

    remote = True

    def __init__(self, crew: Crew, after: int, then: object) -> None:
        self._crew, self._left, self._then, self.num = crew, after, then, crew.num

    def submit(self, fn, /, *args, **kwargs):  # type: ignore[no-untyped-def]
        self._left -= 1
        if self._left == 0:
            self._then()  # type: ignore[operator]
        return self._crew.submit(_later, fn, args)


def _later(function, arguments):  # type: ignore[no-untyped-def]
    time.sleep(0.05)
    return function(*arguments)


def _act(data: bytes) -> bytes:
    if data == b"die":
        os._exit(7)
    return data.upper()


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
