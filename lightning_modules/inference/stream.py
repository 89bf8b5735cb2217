"""Decode and classify a stream of images; decoding runs in parallel with the network."""

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
    """Decode and classify images.

    An image's probabilities are the same to the last bit whichever images are scored with it.

    Args:
        bundle: the bundle to classify with.
        items: (key, file bytes); read as needed, never all at once.
        batch_size: images that go through a GPU together; a CPU takes as many as suit its caches.
        num_workers: processes that decode; None for one a processor.
        timeout_s: time after which the decoding of an image is given up.
        engine: the engine that runs the network; None for PyTorch.
        dask_cluster: a cluster whose workers decode and run the network instead of this machine.

    Yields:
        One result for each item, in the order of the items.
    """
    if dask_cluster is not None:
        from lightning_modules.inference.dask_workers import score_on_cluster

        yield from score_on_cluster(dask_cluster, bundle, items, engine or PyTorchEngine(bundle), timeout_s)
        return
    scorer = Scorer(bundle, engine)
    batch_size = scorer.engine.batch_size or batch_size
    decoded = iter(decode_stream(items, bundle.spec, workers=num_workers, timeout_s=timeout_s))
    pending: deque[tuple[list[DecodedImage[K]], Future[np.ndarray] | None]] = deque()
    with scorer.engine.open_streams() as streams:
        while batch := list(islice(decoded, batch_size)):
            pending.append((batch, _submit_batch(streams, scorer, batch, batch_size)))
            if len(pending) > 2 * scorer.engine.num_streams:
                yield from _collect_results(*pending.popleft())
        while pending:
            yield from _collect_results(*pending.popleft())


def _submit_batch(
    streams: ThreadPoolExecutor, scorer: Scorer, batch: list[DecodedImage[K]], batch_size: int
) -> Future[np.ndarray] | None:
    images = [image for _, image in batch if not isinstance(image, Rejected)]
    return streams.submit(scorer.score_padded, images, batch_size) if images else None


def _collect_results(batch: list[DecodedImage[K]], future: Future[np.ndarray] | None) -> Iterator[ScoreResult[K]]:
    rows = iter(future.result() if future else ())
    for key, image in batch:
        if isinstance(image, Rejected):
            yield ScoreResult(key, None, image.reason, image.detail)
        else:
            yield ScoreResult(key, next(rows))
