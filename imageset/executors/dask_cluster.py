"""A Dask cluster as a Crew: its workers need not share a disk with us; bytes go in and pixels come back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future
from functools import partial
from importlib.metadata import version
from typing import Any

from imageset.decoding.decoder import DECODER_VERSION
from imageset.exceptions import UserError
from imageset.executors.base import BaseExecutor, WorkerDied
from imageset.executors.limits import become_worker

CONNECT_TIMEOUT_S = 30.0  # for a scheduler to answer, and for a worker to come


class DaskExecutor(BaseExecutor):
    """The workers of one scheduler, HOST:PORT.

    Raises:
        UserError: Dask is not installed, the scheduler does not answer or has no workers, or a worker would decode
            otherwise than we do.
    """

    remote = True

    def __init__(self, address: str) -> None:
        try:
            import dask
            from distributed import Client, KilledWorker
        except ImportError:
            raise UserError("Dask is not installed; install it with `pip install 'convoy[dask]'`") from None
        self._address, self._killed = address, KilledWorker
        dask.config.set({"distributed.admin.large-graph-warning-threshold": "1GB"})  # pictures are not graphs
        try:
            self._client = Client(f"tcp://{address}", timeout=CONNECT_TIMEOUT_S, set_as_default=False)
        except (OSError, ValueError):  # TimeoutError is one
            raise UserError(
                f"no Dask scheduler answers at {address}; start one with `dask scheduler`, or leave out --executor"
            ) from None
        try:
            self.num_workers = self._count_workers()
            self._check_versions()
        except BaseException:
            self._client.close()
            raise
        self._executor = self._client.get_executor()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Run fn(*args) on the cluster; the future raises WorkerDied where it kills one worker after the other."""
        assert not kwargs
        future: Future[Any] = Future()
        inner = self._executor.submit(_run_in_dask_worker, fn, args)
        inner.add_done_callback(partial(self._forward_result, future))
        return future

    def run_on_every_worker(self, function: Callable[..., None], *args: Any) -> None:
        """Run function(*args) in every worker before it works for us, in those that come later too."""
        from distributed import WorkerPlugin

        class Prepare(WorkerPlugin):
            def setup(self, worker: Any) -> None:
                function(*args)

        self._client.register_plugin(Prepare(), name=f"convoy-{function.__name__}")

    def raise_if_stalled(self) -> None:
        """Raise UserError when all workers are gone: the work that was handed out would wait for ever."""
        if not self._client.scheduler_info(n_workers=-1)["workers"]:
            self._count_workers()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Leave the cluster as it was."""
        self._executor.shutdown(wait=wait and not cancel_futures)
        self._client.close()

    def _forward_result(self, future: Future[Any], inner: Future[Any]) -> None:
        if inner.cancelled():
            future.cancel()
        elif isinstance(error := inner.exception(), self._killed):
            future.set_exception(WorkerDied("crashed", "the decoder killed or hung its Dask workers"))
        elif error is not None:
            future.set_exception(error)
        else:
            future.set_result(inner.result())

    def _count_workers(self) -> int:
        """Number of tasks that the cluster works on at once."""
        try:
            self._client.wait_for_workers(1, timeout=CONNECT_TIMEOUT_S)
        except TimeoutError:
            raise UserError(
                f"the Dask scheduler at {self._address} has no workers; start some with "
                f"`dask worker {self._address}`"
            ) from None
        return sum(self._client.nthreads().values())

    def _check_versions(self) -> None:
        """Every worker must decode as we do."""
        try:
            found: Mapping[str, str] = self._client.run(describe_decoder_versions)
        except ImportError as error:
            raise UserError(f"the Dask workers at {self._address} lack imageset: {error}") from None
        for worker, theirs in found.items():
            if theirs != describe_decoder_versions():
                raise UserError(
                    f"the Dask worker {worker} would decode otherwise: it has {theirs}, here is {describe_decoder_versions()}; "
                    "install the same versions"
                )


def describe_decoder_versions() -> str:
    """The versions of what decides about pixels."""
    names = ("pillow", "simplejpeg", "numpy", "torch")
    return ", ".join([f"decoder {DECODER_VERSION}", *(f"{name} {version(name)}" for name in names)])


def _run_in_dask_worker(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    """In a Dask worker, whose nanny starts another one when a decoder kills it or a timer ends it."""
    become_worker()
    return function(*arguments)
