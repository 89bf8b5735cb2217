"""Picture bytes in, probabilities out; decoding runs beside the network."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from imageset.executors.stream import decode_stream
from imageset.rejections import Rejected
from lightning_modules.bundle import Bundle
from lightning_modules.scoring import Engine, PyTorchEngine, Scorer, ScoreResult

if TYPE_CHECKING:
    from imageset.executors.dask_cluster import DaskExecutor


K = TypeVar("K", bound=Hashable)
DecodedImage = tuple[K, "np.ndarray | Rejected"]


def score_stream(
    bundle: Bundle,
    items: Iterable[tuple[K, bytes]],
    *,
    batch_size: int,
    num_workers: int | None,
    timeout_s: float = 60.0,
    engine: Engine | None = None,
    dask_cluster: DaskExecutor | None = None,
) -> Iterator[ScoreResult[K]]:
    """Decode and classify pictures; one result for each, in the order they came. A picture's probabilities are
    the same to the last bit whichever pictures are scored with it.

    Args:
        items: (key, file bytes); read as needed, never all at once.
        batch_size: pictures that go through a GPU together; a CPU takes as many as suit its caches.
        workers: processes that decode; None: one a processor.
        timeout_s: a picture that takes longer to decode is given up.
        engine: what runs the network; None: PyTorch.
        cluster: whose workers decode and run the network in our place.
    """
    if dask_cluster is not None:
        from lightning_modules.inference.dask_workers import score_on_cluster

        yield from score_on_cluster(dask_cluster, bundle, items, engine or PyTorchEngine(bundle), timeout_s)
        return
    scorer = Scorer(bundle, engine)
    num_at_once = scorer.engine.batch_size or batch_size
    decoded = iter(decode_stream(items, bundle.spec, workers=num_workers, timeout_s=timeout_s))
    under_way: deque[tuple[list[DecodedImage[K]], Future[np.ndarray] | None]] = deque()
    with scorer.engine.open_streams() as streams:
        while batch := list(islice(decoded, num_at_once)):
            under_way.append((batch, _submit_batch(streams, scorer, batch, num_at_once)))
            if len(under_way) > 2 * scorer.engine.num_streams:
                yield from _collect_results(*under_way.popleft())
        while under_way:
            yield from _collect_results(*under_way.popleft())


def _submit_batch(
    streams: ThreadPoolExecutor, scorer: Scorer, batch: list[DecodedImage[K]], num_at_once: int
) -> Future[np.ndarray] | None:
    images = [image for _, image in batch if not isinstance(image, Rejected)]
    return streams.submit(scorer.score_padded, images, num_at_once) if images else None


def _collect_results(batch: list[DecodedImage[K]], future: Future[np.ndarray] | None) -> Iterator[ScoreResult[K]]:
    rows = iter(future.result() if future else ())
    for key, image in batch:
        if isinstance(image, Rejected):
            yield ScoreResult(key, None, image.reason, image.detail)
        else:
            yield ScoreResult(key, next(rows))
