"""An MLflow run that keeps its log entries on disk while the server is unavailable."""

import shutil
import time
import uuid
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imageset.exceptions import UserError
from imageset.utils.file_lock import file_lock
from imageset.utils.text import format_count
from lightning_modules.tracking.offline_queue import (
    LOCAL_ID_PREFIX,
    QUEUE_FOLDER,
    LogQueue,
    RunDeleted,
    TrackingServerUnavailable,
    connect_to_server,
    find_queue_folder,
    open_queue,
    remove_sent,
)
from lightning_modules.tracking.run import TrackedRun

if TYPE_CHECKING:
    from mlflow import MlflowClient


RETRY_S = 30.0  # between two attempts to send while a training runs


class OfflineRun(TrackedRun):
    """A run on an MLflow server that may be unavailable at times.

    Args:
        project: the project whose MLflow server is used.
        queue: the queue of the run's entries.

    Attributes:
        raise_on_rejection: whether data that the server rejects raises UserError; a training sets it to False once
            its run is open, and continues whatever the server responds.
    """

    def __init__(self, project: Path, queue: LogQueue) -> None:
        self.project, self.queue = project, queue
        self.in_use_lock = ExitStack()  # while it is held, `remove_sent` leaves the queue alone
        self.in_use_lock.enter_context(file_lock(queue.folder / "used", shared=True))
        self.tried_at = -RETRY_S  # by the monotonic clock
        self.is_unavailable = False
        self.known_run_id: str | None = None
        self.raise_on_rejection = True
        self.live_client: MlflowClient | None = None  # a client whose last request was answered

    @classmethod
    def open(  # type: ignore[override]
        cls, project: Path, experiment: str, run_id: str | None, name: str, tags: Mapping[str, str]
    ) -> "OfflineRun":
        """Resume the run `run_id`, or begin a new one, whether or not the server is available."""
        from mlflow.tracking.context.registry import resolve_tags

        queue = None
        if run_id is not None:
            with suppress(UserError):  # a run that was never sent, and whose entries are gone
                queue = open_queue(project, run_id)
        if queue is not None:
            run = cls(project, queue)
            try:
                run.log_entry({"do": "status", "status": "RUNNING"})
                return run
            except RunDeleted:
                shutil.rmtree(queue.folder)
        run = cls(project, LogQueue(find_queue_folder(project) / uuid.uuid4().hex))
        now = time.time_ns() // 1_000_000
        entry = {
            "do": "create",
            "experiment": experiment,
            "name": name,
            "tags": resolve_tags(dict(tags)),
            "at": now,
        }
        run.log_entry(entry)
        return run

    @property
    def run_id(self) -> str:  # type: ignore[override]
        """MLflow's id of the run, or the local id until there is one."""
        if self.known_run_id is None or self.known_run_id.startswith(LOCAL_ID_PREFIX):
            self.known_run_id = self.queue.run_id
        return self.known_run_id

    def log_entry(self, entry: dict[str, Any], *paths: Path) -> None:
        """Append an entry to the queue, then try to send it, unless an attempt failed in the last RETRY_S seconds.

        Args:
            entry: the entry, without "file".
            paths: the files or folders that belong to the entry; the first becomes its "file".
        """
        self.queue.append(entry, *paths)
        if not self.is_unavailable or time.monotonic() - self.tried_at >= RETRY_S:
            self.try_send()

    def try_send(self) -> bool:
        """Send the waiting entries; return False if the server is unavailable."""
        self.tried_at = time.monotonic()
        try:
            self.live_client = self.live_client or connect_to_server(self.project)
            num_sent = self.queue.replay(self.live_client, self.project)
        except UserError as error:
            if self.raise_on_rejection and not isinstance(error, TrackingServerUnavailable):
                raise
            if not self.is_unavailable:
                print(f"mlflow: {error}; log entries wait in {QUEUE_FOLDER}", flush=True)
            self.is_unavailable, self.live_client = True, None
            return False
        if self.is_unavailable:
            were_sent = format_count(num_sent, "waiting entry was sent", "waiting entries were sent")
            print(f"mlflow: the server is back; {were_sent}", flush=True)
        self.is_unavailable = False
        return True

    def has_id(self, run_id: str | None) -> bool:
        """Return whether `run_id` is the beginning, or the whole, of an id of this run."""
        return run_id is not None and self.queue.has_id(run_id)

    def last_step(self, metric: str) -> int:
        """Return the last step at which `metric` was logged, sent or not; -1 if never."""
        steps = [entry["step"] for entry in self.queue.read_entries() if metric in entry.get("metrics", {})]
        return max(steps, default=-1)

    def close(self, status: str) -> None:
        """End the run, and try once more to send the waiting entries."""
        self.queue.append({"do": "status", "status": status, "at": time.time_ns() // 1_000_000})
        self.detach()

    def detach(self) -> None:
        """Try a last time to send the waiting entries, and release the queue."""
        is_sent = self.queue.num_waiting == 0 or self.try_send()
        self.in_use_lock.close()
        if is_sent:
            remove_sent(self.project)
        else:
            wait = format_count(self.queue.num_waiting, "entry waits", "entries wait")
            print(f"mlflow: {wait} for MLflow; `convoy sync` sends them", flush=True)
