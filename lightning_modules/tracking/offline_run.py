"""A TrackedRun on top of that queue."""

import fcntl
import shutil
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imageset.exceptions import UserError
from imageset.utils.text import format_count
from lightning_modules.tracking.offline_queue import (
    LOCAL_ID_PREFIX,
    QUEUE_FOLDER,
    LogQueue,
    RunDeleted,
    TrackingServerUnavailable,
    connect_to_server,
    find_queue,
    remove_sent,
)
from lightning_modules.tracking.run import TrackedRun

if TYPE_CHECKING:
    from mlflow import MlflowClient


RETRY_S = 30.0  # between two tries while a training runs


class OfflineRun(TrackedRun):
    """A run on an MLflow server that may be away for a while.

    Args:
        project: whose server.
        outbox: what waits for it.
    """

    def __init__(self, project: Path, outbox: LogQueue) -> None:
        self.project, self.queue = project, outbox
        self.in_use_lock = (outbox.folder / "used").open("w")
        fcntl.flock(self.in_use_lock, fcntl.LOCK_SH)  # not to be tidied away
        self.tried_at = -RETRY_S  # by the monotonic clock
        self.is_unavailable = False
        self.known_run_id: str | None = None
        self.raise_on_rejection = True  # what the server refuses is an error; later, training goes on whatever it says
        self.live_client: MlflowClient | None = None  # a client that got an answer the last time

    @classmethod
    def open(  # type: ignore[override]
        cls, project: Path, experiment: str, run_id: str | None, name: str, tags: Mapping[str, str]
    ) -> "OfflineRun":
        """Go on with the run `run_id`, or begin a new one, whether the server is there or not."""
        from mlflow.tracking.context.registry import resolve_tags

        known = find_queue(project, run_id) if run_id is not None else None
        if known is not None:
            run = cls(project, known)
            try:
                run.do({"do": "status", "status": "RUNNING"})
                return run
            except RunDeleted:
                shutil.rmtree(known.folder)
        run = cls(project, LogQueue(project / QUEUE_FOLDER / uuid.uuid4().hex))
        now = time.time_ns() // 1_000_000
        entry = {
            "do": "create",
            "experiment": experiment,
            "name": name,
            "tags": resolve_tags(dict(tags)),
            "at": now,
        }
        run.do(entry)
        return run

    @property
    def run_id(self) -> str:  # type: ignore[override]
        if self.known_run_id is None or self.known_run_id.startswith(LOCAL_ID_PREFIX):
            self.known_run_id = self.queue.run_id
        return self.known_run_id

    def do(self, entry: dict[str, Any], *paths: Path) -> None:
        """Write it down, then send it, unless the server was found away a moment ago."""
        self.queue.append(entry, *paths)
        if not self.is_unavailable or time.monotonic() - self.tried_at >= RETRY_S:
            self.try_send()

    def try_send(self) -> bool:
        """Send what waits; False if the server is away."""
        self.tried_at = time.monotonic()
        try:
            self.live_client = self.live_client or connect_to_server(self.project)
            sent = self.queue.replay(self.live_client, self.project)
        except UserError as error:
            if self.raise_on_rejection and not isinstance(error, TrackingServerUnavailable):
                raise
            if not self.is_unavailable:
                print(f"mlflow: {error}; what is to be logged waits in {QUEUE_FOLDER}", flush=True)
            self.is_unavailable, self.live_client = True, None
            return False
        if self.is_unavailable:
            were = format_count(sent, "entry that waited was", "entries that waited were")
            print(f"mlflow: the server is back; {were} sent", flush=True)
        self.is_unavailable = False
        return True

    def is_of(self, run_id: str | None) -> bool:
        return run_id is not None and self.queue.has_id(run_id)

    def last_step(self, metric: str) -> int:
        """The last step at which `metric` was logged, sent or not."""
        logged = [one["step"] for one in self.queue.read_entries() if metric in one.get("metrics", {})]
        return max(logged, default=-1)

    def close(self, status: str) -> None:
        """End the run; what waits is tried once more."""
        self.queue.append({"do": "status", "status": status, "at": time.time_ns() // 1_000_000})
        self.leave()

    def leave(self) -> None:
        """The last try of this process."""
        sent = self.queue.num_waiting == 0 or self.try_send()
        self.in_use_lock.close()
        if sent:
            remove_sent(self.project)
        else:
            wait = format_count(self.queue.num_waiting, "entry waits", "entries wait")
            print(f"mlflow: {wait} for MLflow; `convoy sync` sends them", flush=True)
