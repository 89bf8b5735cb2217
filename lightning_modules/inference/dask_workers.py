"""Decode and classify images on the workers of a Dask cluster.

Image bytes travel to the workers, probabilities travel back.
"""

from __future__ import annotations

import tempfile
from collections import deque
from collections.abc import Hashable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from imageset.decoding.decoder import decode
from imageset.exceptions import UserError
from imageset.executors.limits import map_with_timeout
from imageset.executors.stream import CHUNKS_AHEAD, iter_chunks, run_tasks
from imageset.rejections import Rejected
from lightning_modules.bundle import Bundle, save_bundle
from lightning_modules.scoring import CPU_BATCH_SIZE, Engine, Scorer, ScoreResult

if TYPE_CHECKING:
    from imageset.executors.dask_cluster import DaskExecutor

K = TypeVar("K", bound=Hashable)

_scorers: dict[str, tuple[Bundle, Scorer]] = {}  # in a worker: prepared bundles by digest


def score_on_cluster(
    cluster: DaskExecutor, bundle: Bundle, items: Iterable[tuple[K, bytes]], engine: Engine, timeout_s: float
) -> Iterator[ScoreResult[K]]:
    """Yield the results of `stream.score_stream`, in the same order; a worker that dies costs at most one image.

    Args:
        cluster: the cluster that decodes and classifies.
        bundle: the bundle to classify with; it is sent to every worker.
        items: (key, file bytes); read as needed, never all at once.
        engine: the engine that would run here; only PyTorch on a CPU runs on the workers.
        timeout_s: time after which the decoding of an image is given up.

    Yields:
        One result for each item.

    Raises:
        UserError: the workers cannot run the engine that runs here.
    """
    if engine.name != "pytorch" or engine.batch_size is None:
        raise UserError("a cluster classifies pictures with PyTorch on CPUs only; add --engine pytorch")
    cluster.run_on_every_worker(prepare_worker, bundle.digest, pack_bundle(bundle))
    keys: deque[list[K]] = deque()

    def chunks() -> Iterator[list[bytes]]:
        for chunk in iter_chunks(items, lambda item: len(item[1])):
            keys.append([key for key, _ in chunk])
            yield [data for _, data in chunk]

    work = partial(classify_chunk, bundle.digest, timeout_s)
    ahead = CHUNKS_AHEAD * cluster.num_workers
    for outcome in run_tasks(cluster, work, chunks(), split_singles=_split_singles, ahead=ahead):
        # An outcome holds lists of results, and a single rejection for an image whose worker died.
        results = [result for part in outcome for result in ([part] if isinstance(part, Rejected) else part)]
        for key, result in zip(keys.popleft(), results, strict=True):
            if isinstance(result, Rejected):
                yield ScoreResult(key, None, result.reason, result.detail)
            else:
                yield ScoreResult(key, result)


def pack_bundle(bundle: Bundle) -> dict[str, bytes]:
    """Return the contents of a bundle's files by name, without its reference."""
    with tempfile.TemporaryDirectory() as folder:
        save_bundle(Path(folder), bundle.info, bundle.network, code=bundle.code)
        paths = [path for path in Path(folder).rglob("*") if path.is_file()]
        return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def prepare_worker(digest: str, files: dict[str, bytes]) -> None:
    """Load a bundle in a worker, from the contents of its files by name."""
    import torch

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        for name, data in files.items():
            path = Path(folder) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        bundle = Bundle.load(folder)
    _scorers[digest] = bundle, Scorer(bundle)


def classify_chunk(digest: str, timeout_s: float, chunk: list[bytes]) -> list[np.ndarray | Rejected]:
    """Decode and classify images in a worker that `prepare_worker` has prepared.

    Args:
        digest: of the bundle.
        timeout_s: time after which the decoding of an image is given up.
        chunk: the bytes of image files.

    Returns:
        Probabilities, float32 (num_classes,), or the rejection of each image.
    """
    bundle, scorer = _scorers[digest]
    decoded: list[np.ndarray | Rejected] = map_with_timeout(partial(decode, spec=bundle.spec), chunk, timeout_s)
    images = [image for image in decoded if not isinstance(image, Rejected)]
    starts = range(0, len(images), CPU_BATCH_SIZE)
    rows = iter(
        [row for i in starts for row in scorer.score_padded(images[i : i + CPU_BATCH_SIZE], CPU_BATCH_SIZE)]
    )
    return [image if isinstance(image, Rejected) else next(rows) for image in decoded]


def _split_singles(chunk: list[bytes]) -> list[list[bytes]]:
    return [[data] for data in chunk]
