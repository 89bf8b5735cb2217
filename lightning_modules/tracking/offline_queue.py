"""Queue log entries on disk while an MLflow server is unavailable, so that it never stops a training.

Only servers (`MLFLOW_TRACKING_URI=http...`) have queues; a local SQLite file is written directly. Each run has a
folder `.cache/mlflow-outbox/NUMBER/`:

- `journal.jsonl`: the entries, one a line, appended and synced before they are sent;
- `files/`: copies of the files that entries refer to;
- `sent`: the number of entries that the server has received;
- `run_id`: MLflow's id of the run, once the server has assigned one. Until then the run is called `local-NUMBER`,
  which the server then keeps as the tag `convoy.local_run`.
- `used`, `sending`: lock files, of a process that logs to the run and of a process that sends entries.

An entry is sent again if the server's response was lost. Points of a curve, files and parameters are idempotent in
MLflow; runs and models are looked up before they are created.
"""

import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imageset.exceptions import UserError
from imageset.utils.atomic_write import sync_file, write_bytes
from imageset.utils.file_lock import file_lock
from imageset.utils.text import format_count
from lightning_modules.tracking.client import (
    DELETED_RUN,
    connect_to_mlflow,
    describe_deleted_run,
    ensure_experiment,
    get_tracking_uri,
    is_reachable,
)
from lightning_modules.tracking.journal_replay import apply_entry
from lightning_modules.tracking.local_store.location import find_cache, find_original_project
from lightning_modules.tracking.tags import LOCAL_RUN_TAG

if TYPE_CHECKING:
    from mlflow import MlflowClient


QUEUE_FOLDER = Path(".cache") / "mlflow-outbox"
LOCAL_ID_PREFIX = "local-"  # of the id of a run that the server does not know yet
SHORT_TIMEOUTS = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "10", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}


class TrackingServerUnavailable(UserError):
    """The MLflow server does not answer."""


class RunDeleted(UserError):
    """The MLflow server no longer has the run."""


class LogQueue:
    """The log entries of one run, sent and waiting.

    Args:
        folder: `.cache/mlflow-outbox/NUMBER`; created if it is missing.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.journal = folder, folder / "journal.jsonl"
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def run_id(self) -> str:
        """MLflow's id of the run, or the local id until there is one."""
        path = self.folder / "run_id"
        return path.read_text() if path.exists() else self.local_id

    @property
    def local_id(self) -> str:
        """The id of the run before the server assigns one: `local-NUMBER`."""
        return f"{LOCAL_ID_PREFIX}{self.folder.name}"

    def has_id(self, run_id: str) -> bool:
        """Return whether `run_id` is the beginning, or the whole, of either id of the run."""
        return any(known_id.startswith(run_id) for known_id in (self.run_id, self.local_id))

    def save_run_id(self, run_id: str) -> None:
        """Store the id that MLflow assigned to the run."""
        write_bytes(self.folder / "run_id", run_id.encode())

    def append(self, entry: dict[str, Any], *paths: Path) -> None:
        """Append an entry; files and folders that belong to it are copied first."""
        entries = self.read_entries()
        if paths:
            copies = self.folder / "files" / str(len(entries))
            shutil.rmtree(copies, ignore_errors=True)
            copies.mkdir(parents=True)
            for path in paths:
                copy = shutil.copytree if path.is_dir() else shutil.copy2
                copy(path, copies / path.name)
            for copied in copies.rglob("*"):
                sync_file(copied)
            entry = {**entry, "file": str((copies / paths[0].name).relative_to(self.folder))}
        with self.journal.open("ab") as file:
            file.write(json.dumps(entry).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        sync_file(self.folder)

    def read_entries(self) -> list[dict[str, Any]]:
        """Return all entries in order, sent or not.

        A line that a killed process left incomplete was never acknowledged and is cut off.
        """
        data = self.journal.read_bytes() if self.journal.exists() else b""
        whole = data[: data.rfind(b"\n") + 1]
        if len(whole) < len(data):
            os.truncate(self.journal, len(whole))
        return [json.loads(line) for line in whole.splitlines()]

    @property
    def num_sent(self) -> int:
        """The number of entries that the server has received."""
        path = self.folder / "sent"
        return int(path.read_text()) if path.exists() else 0

    @property
    def num_waiting(self) -> int:
        """The number of entries that are yet to be sent."""
        return len(self.read_entries()) - self.num_sent

    def replay(self, client: "MlflowClient", project: Path) -> int:
        """Send the waiting entries, and return how many they were.

        Raises:
            TrackingServerUnavailable: the server went away meanwhile; progress is saved.
            RunDeleted: the run was deleted on the server.
        """
        with file_lock(self.folder / "sending"):  # a training and `convoy sync` may send at the same time
            return self._replay(client, project)

    def _replay(self, client: "MlflowClient", project: Path) -> int:
        entries, first = self.read_entries(), self.num_sent
        for number in range(first, len(entries)):
            entry = entries[number]
            with translate_mlflow_errors(project), short_timeouts(entry["do"] not in ("artifact", "model")):
                if entry["do"] == "create":
                    self.save_run_id(create_run(client, project, entry, self.local_id))
                else:
                    apply_entry(client, self.run_id, entry, self.folder)
            write_bytes(self.folder / "sent", str(number + 1).encode())
            if "file" in entry:
                shutil.rmtree((self.folder / entry["file"]).parent, ignore_errors=True)
        return len(entries) - first


def is_tracking_server(project: Path) -> bool:
    """Return whether the project's MLflow is a server rather than a file."""
    return get_tracking_uri(project).startswith("http")


def connect_to_server(project: Path) -> "MlflowClient":
    """Return a client of the project's MLflow server.

    Raises:
        TrackingServerUnavailable: the server does not answer.
    """
    uri = get_tracking_uri(project)
    if not is_reachable(uri):
        raise TrackingServerUnavailable(f"MLflow at {uri} does not answer")
    with short_timeouts(True):
        try:
            return connect_to_mlflow(project)
        except UserError as error:
            raise TrackingServerUnavailable(f"MLflow at {uri} does not answer") from error


@contextmanager
def short_timeouts(enabled: bool) -> Iterator[None]:
    """Make MLflow's client give up soon on a server that accepts connections but does not respond."""
    before = {name: os.environ.get(name) for name in SHORT_TIMEOUTS}
    if enabled:
        os.environ.update(SHORT_TIMEOUTS)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def translate_mlflow_errors(project: Path) -> Iterator[None]:
    """Turn MLflow's errors into TrackingServerUnavailable, RunDeleted or another UserError."""
    import requests
    from mlflow.exceptions import MlflowException

    uri = get_tracking_uri(project)
    try:
        yield
    except (requests.RequestException, ConnectionError) as error:
        raise TrackingServerUnavailable(f"MLflow at {uri} does not answer") from error
    except MlflowException as error:
        reason = " ".join(str(error).split())[:200]
        if reason.startswith("API request to "):  # the request did not reach the server
            raise TrackingServerUnavailable(f"MLflow at {uri} does not answer") from error
        if error.get_http_status_code() in (408, 429) or error.get_http_status_code() >= 500:
            raise TrackingServerUnavailable(f"MLflow at {uri} does not answer ({reason})") from error
        if deleted := DELETED_RUN.search(reason):
            raise RunDeleted(describe_deleted_run(deleted[1], uri)) from error
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            raise RunDeleted(f"MLflow no longer has the run ({reason})") from error
        raise UserError(f"MLflow at {uri} rejects the logged data ({reason})") from error


def create_run(client: "MlflowClient", project: Path, entry: Mapping[str, Any], local_id: str) -> str:
    """Create a run that began locally, unless the server has it already; return MLflow's id."""
    experiment = ensure_experiment(client, entry["experiment"], project)
    runs = client.search_runs([experiment], f"tags.`{LOCAL_RUN_TAG}` = '{local_id}'")
    if runs:
        return str(runs[0].info.run_id)
    tags = {**entry["tags"], LOCAL_RUN_TAG: local_id}
    return str(client.create_run(experiment, entry["at"], tags, entry["name"]).info.run_id)


def find_queue_folder(project: Path) -> Path:
    """Return the folder of the queues: of the original project, where DVC runs a stage in a temporary copy."""
    return find_original_project(project) / QUEUE_FOLDER


def list_queues(project: Path) -> list[LogQueue]:
    """Return all queues of the project, the oldest first."""
    folder = find_queue_folder(project)
    journals = sorted(folder.glob("*/journal.jsonl"), key=lambda path: path.stat().st_mtime)
    return [LogQueue(path.parent) for path in journals]


def count_waiting(project: Path) -> dict[str, int]:
    """Return the number of waiting entries by run id, running trainings included, which send theirs themselves.

    Nothing is written: a journal that another process appends to is left as it is.
    """
    num_waiting: dict[str, int] = {}
    for queue in list_queues(project):
        num = queue.journal.read_bytes().count(b"\n") - queue.num_sent
        num_waiting |= {queue.run_id: num} if num > 0 else {}
    return num_waiting


def find_queue(project: Path, run_id: str) -> LogQueue | None:
    """Return the queue of a run, or None if it has no queue."""
    return next((queue for queue in list_queues(project) if queue.has_id(run_id)), None)


def open_queue(project: Path, run_id: str) -> LogQueue:
    """Return the queue of a run that began earlier; create it if it is missing."""
    queue = find_queue(project, run_id)
    if queue is None:
        is_local = run_id.startswith(LOCAL_ID_PREFIX)
        name = run_id.removeprefix(LOCAL_ID_PREFIX) if is_local else uuid.uuid4().hex
        queue = LogQueue(find_queue_folder(project) / name)
        if is_local:
            with suppress(TrackingServerUnavailable):
                queue.save_run_id(find_sent_run(connect_to_server(project), run_id))
        else:
            queue.save_run_id(run_id)
    return queue


def check_all_sent(project: Path, run_id: str) -> None:
    """Raise UserError if entries of this run wait to be sent."""
    queue = find_queue(project, run_id) if len(run_id) >= 4 else None
    if queue is not None and queue.num_waiting:
        wait = format_count(queue.num_waiting, "entry waits", "entries wait")
        raise UserError(f"run {run_id}: {wait} for MLflow; run `convoy sync` first")


def find_sent_run(client: "MlflowClient", local_id: str) -> str:
    """Return MLflow's id of a run that began while the server was unavailable.

    Raises:
        UserError: the run was never sent.
    """
    experiment_ids = [experiment.experiment_id for experiment in client.search_experiments()]
    runs = client.search_runs(experiment_ids, f"tags.`{LOCAL_RUN_TAG}` LIKE '{local_id}%'")
    if not runs:
        raise UserError(
            f"run {local_id} was never sent to this MLflow; run `convoy sync` in the project that trained it"
        )
    return str(runs[0].info.run_id)


def sync_queues(project: Path) -> str:
    """Send all waiting entries, and return a summary, a line for each run.

    Raises:
        TrackingServerUnavailable: the server still does not answer.
    """
    waiting = [queue for queue in list_queues(project) if queue.num_waiting]
    if not waiting:
        remove_sent(project)
        return "sync: nothing to send"
    if not is_tracking_server(project):
        wait = format_count(sum(queue.num_waiting for queue in waiting), "entry waits", "entries wait")
        raise UserError(f"{wait} for an MLflow server, but none is configured; set MLFLOW_TRACKING_URI")
    lines = []
    client = connect_to_server(project)
    for queue in waiting:
        try:
            num_sent = queue.replay(client, project)
            lines.append(f"sync: run {queue.run_id}: {format_count(num_sent, 'entry', 'entries')} sent")
        except TrackingServerUnavailable:
            raise
        except RunDeleted:
            dropped = format_count(queue.num_waiting, "entry is", "entries are")
            lines.append(f"sync: run {queue.run_id} was deleted in MLflow; {dropped} dropped")
            shutil.rmtree(queue.folder)
        except UserError as error:
            lines.append(f"sync: run {queue.run_id}: {error}")
    remove_sent(project)
    return "\n".join(lines)


def remove_sent(project: Path) -> None:
    """Remove the queues that are sent, not in use, and not of an unfinished training."""
    unfinished = [path.read_text() for path in (find_cache(project) / "train").glob("*/run_id")]
    for queue in list_queues(project):
        if queue.num_waiting or any(queue.has_id(run_id) for run_id in unfinished):
            continue
        with suppress(BlockingIOError), file_lock(queue.folder / "used", wait=False):
            shutil.rmtree(queue.folder)
