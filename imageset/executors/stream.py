"""Apply functions to a stream of tasks or images with an executor, in order and with constant memory."""

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
    executor: BaseExecutor,
    function: Callable[[T], R],
    tasks: Iterable[T],
    *,
    split_singles: Callable[[T], list[T]],
    ahead: int,
) -> Iterator[list[R | Rejected]]:
    """Run tasks on an executor and yield their outcomes, in order.

    Args:
        executor: runs the tasks.
        function: called with each task.
        tasks: read as needed.
        split_singles: splits a task that killed its worker into tasks of a single image.
        ahead: the number of tasks in memory at most.

    Yields:
        [result] for each task. If a worker died: one outcome for each of split_singles(task), the result, or
        Rejected("crashed") or Rejected("timeout") if that task kills its worker again.
    """
    pending: deque[tuple[T, Future[R]]] = deque()

    def finish_first() -> list[R | Rejected]:
        task, future = pending.popleft()
        try:
            return [_wait_for_result(executor, future)]
        except WorkerDied:
            # One task at a time, with no other beside it: Dask blames every task that a dead worker held.
            _wait_for_all(executor, [pending_future for _, pending_future in pending])
            return [_wait_or_reject(executor, executor.submit(function, single)) for single in split_singles(task)]

    for task in tasks:
        pending.append((task, executor.submit(function, task)))
        if len(pending) >= ahead:
            yield finish_first()
    while pending:
        yield finish_first()


def _wait_for_result(executor: BaseExecutor, future: Future[R]) -> R:
    _wait_for_all(executor, [future])
    return future.result()


def _wait_for_all(executor: BaseExecutor, futures: list[Future[R]]) -> None:
    while wait(futures, SECONDS_BETWEEN_CHECKS).not_done:
        executor.raise_if_stalled()


def _wait_or_reject(executor: BaseExecutor, future: Future[Any]) -> Any:
    try:
        return _wait_for_result(executor, future)
    except WorkerDied as error:
        return Rejected(error.reason, error.detail)


def iter_chunks(items: Iterable[T], measure_bytes: Callable[[T], int]) -> Iterator[list[T]]:
    """Split a stream into lists of at most CHUNK_ITEMS items and about CHUNK_BYTES bytes."""
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
    """Apply a function to the bytes of each image; the order is kept and the memory is constant.

    Args:
        items: (key, bytes) of each image.
        function: picklable; called with the bytes.
        workers: number of processes if there is no executor; None or 0 means one for each processor.
        timeout_s: seconds for one image.
        executor: runs the function; stays open.

    Yields:
        (key, result), or (key, Rejected) if the function raised it or killed its worker.
    """
    keys: deque[list[K]] = deque()

    def iter_contents() -> Iterator[list[bytes]]:
        for chunk in iter_chunks(items, lambda item: len(item[1])):
            keys.append([key for key, _ in chunk])
            yield [data for _, data in chunk]

    apply = partial(_apply_to_chunk, function, timeout_s)
    with nullcontext(executor) if executor else ProcessExecutor(workers) as active:
        ahead = CHUNKS_AHEAD * active.num_workers
        for outcome in run_tasks(active, apply, iter_contents(), split_singles=_split_singles, ahead=ahead):
            results = [
                result for chunk in outcome for result in ([chunk] if isinstance(chunk, Rejected) else chunk)
            ]
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
    """Decode a stream of images in worker processes; the order is kept.

    Args:
        items: (key, bytes) of each image.
        spec: the decode parameters.
        workers: number of processes; None or 0 means one for each processor.
        timeout_s: seconds for one image.

    Returns:
        An iterator of (key, uint8 (H, W, C)) or (key, Rejected); an image that crashes or hangs its worker gives
        Rejected("crashed") or Rejected("timeout").
    """
    from imageset.decoding.decoder import decode

    return map_stream(items, partial(decode, spec=spec), workers=workers, timeout_s=timeout_s)
