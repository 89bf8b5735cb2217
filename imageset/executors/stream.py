"""Decode and score a stream of files."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, wait
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from imageset.executors.base import IMAGE_TIMEOUT_S, BaseExecutor, WorkerDied
from imageset.executors.limits import map_with_timeout
from imageset.executors.process_pool import ProcessExecutor
from imageset.rejections import Rejected

if TYPE_CHECKING:
    import numpy as np

    from imageset.decoding.spec import DecodeSpec


K = TypeVar("K")
T = TypeVar("T")
R = TypeVar("R")
CHUNK_ITEMS = 64
CHUNK_BYTES = 4 << 20
CHUNKS_AHEAD = 3  # per worker
SECONDS_BETWEEN_CHECKS = 10.0


def run_tasks(
    executor: BaseExecutor, function: Callable[[T], R], tasks: Iterable[T], *, split_singles: Callable[[T], list[T]], ahead: int
) -> Iterator[list[R | Rejected]]:
    """Yield the outcome of each task, in order; at most `ahead` tasks are in memory.

    The outcome is [result] of the task; where a worker died over it, one outcome for each task of alone(task): its
    result, or, when it kills again, Rejected("crashed") or Rejected("timeout").
    """
    pending: deque[tuple[T, Future[R]]] = deque()

    def first() -> list[R | Rejected]:
        task, future = pending.popleft()
        try:
            return [_wait_for_result(executor, future)]
        except WorkerDied:
            # One at a time, and nothing beside it: where a Dask worker dies, whatever it held is blamed.
            _wait_for_all(executor, [other for _, other in pending])
            return [_wait_or_reject(executor, executor.submit(function, part)) for part in split_singles(task)]

    for task in tasks:
        pending.append((task, executor.submit(function, task)))
        if len(pending) >= ahead:
            yield first()
    while pending:
        yield first()


def _wait_for_result(crew: BaseExecutor, future: Future[R]) -> R:
    _wait_for_all(crew, [future])
    return future.result()


def _wait_for_all(crew: BaseExecutor, futures: list[Future[R]]) -> None:
    while wait(futures, SECONDS_BETWEEN_CHECKS).not_done:
        crew.raise_if_stalled()


def _wait_or_reject(crew: BaseExecutor, future: Future[Any]) -> Any:
    try:
        return _wait_for_result(crew, future)
    except WorkerDied as death:
        return Rejected(death.reason, death.detail)


def iter_chunks(items: Iterable[T], measure_bytes: Callable[[T], int]) -> Iterator[list[T]]:
    """Cut a stream into lists of at most CHUNK_ITEMS items and about CHUNK_BYTES bytes."""
    chunk: list[T] = []
    num_bytes = 0
    for item in items:
        chunk.append(item)
        num_bytes += measure_bytes(item)
        if len(chunk) == CHUNK_ITEMS or num_bytes >= CHUNK_BYTES:
            yield chunk
            chunk, num_bytes = [], 0
    if chunk:
        yield chunk


def map_stream(
    items: Iterable[tuple[K, bytes]],
    function: Callable[[bytes], T],
    *,
    workers: int | None = None,
    timeout_s: float = IMAGE_TIMEOUT_S,
    executor: BaseExecutor | None = None,
) -> Iterator[tuple[K, T | Rejected]]:
    """Apply a picklable function to each picture's bytes; order kept, memory constant.

    That is done by `crew`, or else in `workers` processes; None or 0 means one a processor.
    """
    keys: deque[list[K]] = deque()

    def chunks() -> Iterator[list[bytes]]:
        for chunk in iter_chunks(items, lambda item: len(item[1])):
            keys.append([key for key, _ in chunk])
            yield [data for _, data in chunk]

    work = partial(_apply_to_chunk, function, timeout_s)
    with nullcontext(executor) if executor else ProcessExecutor(workers) as pool:
        for outcome in run_tasks(pool, work, chunks(), split_singles=_split_singles, ahead=CHUNKS_AHEAD * pool.num_workers):
            results = [one for part in outcome for one in ([part] if isinstance(part, Rejected) else part)]
            yield from zip(keys.popleft(), results, strict=True)


def _apply_to_chunk(function: Callable[[bytes], Any], timeout_s: float, chunk: list[bytes]) -> list[Any]:
    return map_with_timeout(function, chunk, timeout_s)


def _split_singles(chunk: list[bytes]) -> list[list[bytes]]:
    return [[data] for data in chunk]


def decode_stream(
    items: Iterable[tuple[K, bytes]],
    spec: DecodeSpec,
    *,
    workers: int | None = None,
    timeout_s: float = IMAGE_TIMEOUT_S,
) -> Iterator[tuple[K, np.ndarray | Rejected]]:
    """Decode (key, bytes) in worker processes to (key, uint8 (H, W, C) or Rejected), in the order given.

    A picture that crashes or hangs its worker comes back as Rejected("crashed") or Rejected("timeout").
    """
    from imageset.decoding.decoder import decode

    return map_stream(items, partial(decode, spec=spec), workers=workers, timeout_s=timeout_s)
