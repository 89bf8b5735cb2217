"""The executor that uses a Dask cluster.

The workers need no common disk with this machine: tasks carry the bytes of the images and return pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future
from functools import partial
from importlib.metadata import version
from typing import Any

from imageset.decoding.decoder import DECODER_VERSION
from imageset.distribution import format_install_command
from imageset.exceptions import UserError
from imageset.executors.base import BaseExecutor, WorkerDied
from imageset.executors.limits import become_worker

CONNECT_TIMEOUT_S = 30.0  # for the scheduler to answer, and for a first worker to connect


class DaskExecutor(BaseExecutor):
    """An executor that uses the workers of a Dask scheduler.

    Args:
        address: HOST:PORT of the scheduler.

    Raises:
        UserError: Dask is not installed, the scheduler does not answer or has no workers, or the versions of a
            worker's decoder differ from those of this process.
    """

    remote = True

    def __init__(self, address: str) -> None:
        try:
            import dask
            from distributed import Client, KilledWorker
        except ImportError:
            raise UserError(f"Dask is not installed; install it: {format_install_command('dask')}") from None
        self._address, self._killed = address, KilledWorker
        dask.config.set(
            {"distributed.admin.large-graph-warning-threshold": "1GB"}
        )  # large tasks are expected: they carry images
        try:
            self._client = Client(f"tcp://{address}", timeout=CONNECT_TIMEOUT_S, set_as_default=False)
        except (OSError, ValueError):  # TimeoutError is a subclass of OSError
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
        """Run fn(*args) on the cluster; the future raises WorkerDied if the task killed several workers."""
        assert not kwargs
        future: Future[Any] = Future()
        dask_future = self._executor.submit(_run_in_dask_worker, fn, args)
        dask_future.add_done_callback(partial(self._forward_result, future))
        return future

    def run_on_every_worker(self, function: Callable[..., None], *args: Any) -> None:
        """Run function(*args) in every worker before its first task, also in workers that connect later."""
        from distributed import WorkerPlugin

        class PreparationPlugin(WorkerPlugin):
            def setup(self, worker: Any) -> None:
                function(*args)

        self._client.register_plugin(PreparationPlugin(), name=f"convoy-{function.__name__}")

    def raise_if_stalled(self) -> None:
        """Raise UserError if the cluster has no workers left: submitted tasks would never finish."""
        if not self._client.scheduler_info(n_workers=-1)["workers"]:
            self._count_workers()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Disconnect from the cluster; its workers keep running."""
        self._executor.shutdown(wait=wait and not cancel_futures)
        self._client.close()

    def _forward_result(self, future: Future[Any], dask_future: Future[Any]) -> None:
        if dask_future.cancelled():
            future.cancel()
        elif isinstance(error := dask_future.exception(), self._killed):
            future.set_exception(WorkerDied("crashed", "the decoder killed or hung its Dask workers"))
        elif error is not None:
            future.set_exception(error)
        else:
            future.set_result(dask_future.result())

    def _count_workers(self) -> int:
        """Return the number of tasks that the cluster runs at once; wait for a first worker."""
        try:
            self._client.wait_for_workers(1, timeout=CONNECT_TIMEOUT_S)
        except TimeoutError:
            raise UserError(
                f"the Dask scheduler at {self._address} has no workers; start some with "
                f"`dask worker {self._address}`"
            ) from None
        return sum(self._client.nthreads().values())

    def _check_versions(self) -> None:
        """Raise UserError if a worker's decoder differs from that of this process."""
        try:
            versions: Mapping[str, str] = self._client.run(describe_decoder_versions)
        except ImportError as error:
            raise UserError(f"the Dask workers at {self._address} lack imageset: {error}") from None
        local_versions = describe_decoder_versions()
        for worker, worker_versions in versions.items():
            if worker_versions != local_versions:
                raise UserError(
                    f"the Dask worker {worker} would decode differently: it has {worker_versions}, "
                    f"this machine has {local_versions}; install the same versions on both"
                )


def describe_decoder_versions() -> str:
    """Return the versions of the decoder and of the libraries that determine its pixels."""
    names = ("pillow", "simplejpeg", "numpy", "torch")
    return ", ".join([f"decoder {DECODER_VERSION}", *(f"{name} {version(name)}" for name in names)])


def _run_in_dask_worker(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    """Call a function in a Dask worker; its nanny starts a new one if a decoder or the timer kills it."""
    become_worker()
    return function(*arguments)
