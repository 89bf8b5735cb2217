"""A prediction on a real Dask cluster of two worker processes, one of which is killed midway."""

import os
import signal

from flows.prediction import cache
from flows.prediction.image_stream import open_images
from flows.prediction.predictor import Predictor
from flows.prediction.table_writer import predict_table
from flows.promotion.model_registry import Version
from imageset.executors import stream
from imageset.executors.dask_cluster import DaskExecutor
from imageset.utils.progress import Progress, SilentProgress
from lightning_modules.scoring import PyTorchEngine
from tests.helpers.images import write_digit_images
from tests.helpers.killed_prediction import MANY_SHARDS
from tests.helpers.models import make_untrained_bundle


class _Killing(SilentProgress):
    """Kills a process when some pictures are done."""

    def __init__(self, victim: int) -> None:
        super().__init__()
        self.victim, self.num_done, self.killed = victim, 0, False

    def advance(self, num: int = 1) -> None:
        self.num_done += num
        if self.num_done > 20 and not self.killed:
            os.kill(self.victim, signal.SIGKILL)
            self.killed = True


def test_a_cluster_that_loses_a_worker_gives_the_table_that_this_machine_gives(cluster, tmp_path, monkeypatch):
    for name, value in MANY_SHARDS.items():
        monkeypatch.setattr(cache, name, value)
    monkeypatch.setattr(stream, "CHUNK_ITEMS", 4)  # many small tasks
    folder = write_digit_images(tmp_path / "pictures", classes="01", num_each=60)
    (folder / "0" / "broken.png").write_bytes(b"no picture")
    bundle = make_untrained_bundle(tmp_path)

    def predict(name: str, progress: Progress, dask: DaskExecutor | None) -> bytes:
        answers = Predictor(bundle, PyTorchEngine(bundle), Version("digits", 1, ""), {"batch_size": 8, "top_k": 3},
                          num_workers=1, cluster=dask)  # fmt: skip
        parts = answers.open_cache(tmp_path / f"parts-{name}")
        with parts.cache_lock(on_busy=lambda: None):
            predict_table(open_images(str(folder)), answers, parts, tmp_path / f"{name}.parquet", progress)
        return (tmp_path / f"{name}.parquet").read_bytes()

    here = predict("here", SilentProgress(), None)
    with DaskExecutor(cluster) as dask:
        killing = _Killing(dask.submit(os.getpid).result())
        assert predict("there", killing, dask) == here
    assert killing.killed
