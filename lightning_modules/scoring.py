"""Picture bytes in, probabilities out; decoding runs beside the network."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np

from imageset.decode import Rejected
from imageset.pool import decode_stream
from imageset.store import StoreSplit
from lightning_modules import calibration
from lightning_modules.bundle import Bundle
from lightning_modules.engines import Engine, PyTorchEngine

if TYPE_CHECKING:
    from imageset.cluster import DaskCluster

K = TypeVar("K", bound=Hashable)
Decoded = tuple[K, "np.ndarray | Rejected"]


@dataclass(frozen=True, slots=True)
class Scored(Generic[K]):
    """What became of one picture: probabilities float32 (num_classes,), or why there are none."""

    key: K
    probabilities: np.ndarray | None
    reason: str | None = None
    detail: str | None = None


class Scorer:
    """A bundle on the engine that runs it; without one named, PyTorch on a GPU if there is one, else the CPU."""

    def __init__(self, bundle: Bundle, engine: Engine | None = None) -> None:
        self.temperature, self.multi_label = bundle.info.temperature, bundle.info.multi_label
        self.engine = engine or PyTorchEngine(bundle)

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """uint8 (N, H, W, C) -> float32 (N, num_classes), calibrated."""
        return calibration.probabilities(self.logits(images), self.temperature, self.multi_label)

    def logits(self, images: np.ndarray) -> np.ndarray:
        """uint8 (N, H, W, C) -> float32 (N, num_classes), as the network gives them."""
        return self.engine.logits(images)

    def split_logits(self, split: StoreSplit, batch_size: int) -> np.ndarray:
        """The logits of a whole split, float32 (n, num_classes), in its order."""
        starts = range(0, len(split), batch_size)
        rows = [self.logits(split.batch(np.arange(i, min(i + batch_size, len(split))))) for i in starts]
        return np.concatenate(rows) if rows else np.empty((0, 0), np.float32)

    def padded(self, images: list[np.ndarray], batch_size: int) -> np.ndarray:
        """The same for N pictures of (H, W, C), run as a batch of `batch_size` whatever N is: an engine may choose
        another algorithm for another shape, and a picture's answer must not depend on its company."""
        batch = np.zeros((batch_size, *images[0].shape), np.uint8)
        batch[: len(images)] = images
        return self.probabilities(batch)[: len(images)]


def score(
    bundle: Bundle,
    items: Iterable[tuple[K, bytes]],
    *,
    batch_size: int,
    workers: int | None,
    timeout_s: float = 60.0,
    engine: Engine | None = None,
    cluster: DaskCluster | None = None,
) -> Iterator[Scored[K]]:
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
    if cluster is not None:
        from lightning_modules.remote import score_there

        yield from score_there(cluster, bundle, items, engine or PyTorchEngine(bundle), timeout_s)
        return
    scorer = Scorer(bundle, engine)
    num_at_once = scorer.engine.num_at_once or batch_size
    decoded = iter(decode_stream(items, bundle.spec, workers=workers, timeout_s=timeout_s))
    under_way: deque[tuple[list[Decoded[K]], Future[np.ndarray] | None]] = deque()
    with scorer.engine.streams() as streams:
        while batch := list(islice(decoded, num_at_once)):
            under_way.append((batch, _submit(streams, scorer, batch, num_at_once)))
            if len(under_way) > 2 * scorer.engine.num_streams:
                yield from _results(*under_way.popleft())
        while under_way:
            yield from _results(*under_way.popleft())


def _submit(
    streams: ThreadPoolExecutor, scorer: Scorer, batch: list[Decoded[K]], num_at_once: int
) -> Future[np.ndarray] | None:
    images = [image for _, image in batch if not isinstance(image, Rejected)]
    return streams.submit(scorer.padded, images, num_at_once) if images else None


def _results(batch: list[Decoded[K]], future: Future[np.ndarray] | None) -> Iterator[Scored[K]]:
    rows = iter(future.result() if future else ())
    for key, image in batch:
        if isinstance(image, Rejected):
            yield Scored(key, None, image.reason, image.detail)
        else:
            yield Scored(key, next(rows))
