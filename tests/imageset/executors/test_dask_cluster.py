"""The same bytes out, whoever decodes; the Dask cluster here is a real one, and one of its workers is killed."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest

from imageset.executors.base import BaseExecutor
from imageset.executors.factory import open_executor
from imageset.executors.stream import map_stream
from imageset.normalize.stage import normalize
from imageset.raw.ingestion import ingest_source
from imageset.rejections import Rejected
from tests.helpers.datasets import NORMALIZE_PARAMS, snapshot
from tests.helpers.images import encode_noise, make_image_folder


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("executors")
    source = make_image_folder(folder / "set", num_each=60)
    (source / "ant" / "cut.png").write_bytes(encode_noise(5, 64, 64)[:3000])
    ingest_source(source, folder / "raw")
    return folder / "raw"


@pytest.fixture(scope="module")
def undisturbed(raw: Path) -> dict[str, bytes]:
    normalize(raw, raw.parent / "processes", NORMALIZE_PARAMS, workers=1, executor="processes")
    return snapshot(raw.parent / "processes")


@pytest.mark.parametrize(("executor", "workers"), [("threads", 1), ("threads", 3), ("processes", 3)])
def test_the_same_bytes_come_out_of_threads_and_processes(
    raw: Path, undisturbed: dict[str, bytes], tmp_path: Path, executor: str, workers: int
) -> None:
    normalize(raw, tmp_path / "out", NORMALIZE_PARAMS, workers=workers, executor=executor)
    assert snapshot(tmp_path / "out") == undisturbed


def test_the_same_bytes_come_out_of_a_dask_cluster_that_loses_a_worker_midway(
    raw: Path, undisturbed: dict[str, bytes], tmp_path: Path, cluster: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("imageset.normalize.shard_writer.BATCH_PIXEL_BYTES", 4000)  # many small batches
    killed = threading.Event()
    with open_executor(f"dask://{cluster}") as crew:
        victim = crew.submit(os.getpid).result()

        def kill() -> None:
            os.kill(victim, signal.SIGKILL)
            killed.set()

        slow = _Slowly(crew, after=10, then=kill)
        normalize(raw, tmp_path / "out", NORMALIZE_PARAMS, executor=slow)
    assert killed.is_set() and not _alive(victim)
    assert snapshot(tmp_path / "out") == undisturbed


def test_a_picture_that_kills_dask_workers_is_named_and_its_neighbours_are_not(cluster: str) -> None:
    items = [(n, b"fine") for n in range(20)]
    items[7] = (7, b"die")
    with open_executor(f"dask://{cluster}") as crew:
        outcomes = dict(map_stream(items, _act, executor=crew))
    assert isinstance(outcomes[7], Rejected) and outcomes[7].reason == "crashed"
    assert [n for n, one in outcomes.items() if one != b"FINE"] == [7]


class _Slowly(BaseExecutor):
    """Passes work on to another crew, and calls `then` after some of it."""

    remote = True

    def __init__(self, crew: BaseExecutor, after: int, then: object) -> None:
        self._crew, self._left, self._then, self.num_workers = crew, after, then, crew.num_workers

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
