"""A prediction on a real Dask cluster of two worker processes, one of which is killed midway."""

import os
import signal

from flows import parts as parts_module
from flows.answers import Answers
from flows.pictures import open_pictures
from flows.registry import Version
from flows.tables import predict_table
from imageset import pool
from imageset.cluster import DaskCluster
from imageset.progress import Progress, Silent
from lightning_modules.engines import PyTorchEngine
from tests.conftest import write_pictures
from tests.flows.killed_predict import MANY_PARTS, untrained
from tests.imageset.test_executors import cluster  # noqa: F401  (a fixture: a scheduler and two workers)


class _Killing(Silent):
    """Kills a process when some pictures are done."""

    def __init__(self, victim: int) -> None:
        super().__init__()
        self.victim, self.num_done, self.killed = victim, 0, False

    def advance(self, num: int = 1) -> None:
        self.num_done += num
        if self.num_done > 20 and not self.killed:
            os.kill(self.victim, signal.SIGKILL)
            self.killed = True


def test_a_cluster_that_loses_a_worker_gives_the_table_that_this_machine_gives(cluster, tmp_path, monkeypatch):  # noqa: F811
    for name, value in MANY_PARTS.items():
        monkeypatch.setattr(parts_module, name, value)
    monkeypatch.setattr(pool, "CHUNK_ITEMS", 4)  # many small tasks
    folder = write_pictures(tmp_path / "pictures", classes="01", num_each=60)
    (folder / "0" / "broken.png").write_bytes(b"no picture")
    bundle = untrained(tmp_path)

    def predict(name: str, progress: Progress, dask: DaskCluster | None) -> bytes:
        answers = Answers(bundle, PyTorchEngine(bundle), Version("digits", 1, ""), {"batch_size": 8, "top_k": 3},
                          workers=1, cluster=dask)  # fmt: skip
        parts = answers.parts(tmp_path / f"parts-{name}")
        with parts.alone(wait=lambda: None):
            predict_table(open_pictures(str(folder)), answers, parts, tmp_path / f"{name}.parquet", progress)
        return (tmp_path / f"{name}.parquet").read_bytes()

    here = predict("here", Silent(), None)
    with DaskCluster(cluster) as dask:
        killing = _Killing(dask.submit(os.getpid).result())
        assert predict("there", killing, dask) == here
    assert killing.killed
