"""An MLflow server that is away stops no training: what could not be sent waits on the disk, in order.

Only for servers (`MLFLOW_TRACKING_URI=http...`); a local SQLite file is written directly. Each run has a folder
`.cache/mlflow-outbox/NUMBER/`:

- `journal.jsonl`: what is to be sent, a line each, appended and synced before it is tried;
- `files/`: what of it are files;
- `sent`: how many lines the server has;
- `run_id`: MLflow's id of the run, once the server has given one. Until then the run is called `local-NUMBER`,
  which the server then keeps as its tag `convoy.local_run`.

A line whose answer was lost is sent again: the same point of a curve, the same file and the same parameter count
once in MLflow, and a run and its model are looked for before they are made.
"""

import fcntl
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
from imageset.utils.text import format_count
from lightning_modules.tracking.client import connect_to_mlflow, ensure_experiment, is_reachable, tracking_uri
from lightning_modules.tracking.journal_replay import apply_entry
from lightning_modules.tracking.tags import LOCAL_RUN_TAG

if TYPE_CHECKING:
    from mlflow import MlflowClient


QUEUE_FOLDER = Path(".cache") / "mlflow-outbox"
LOCAL_ID_PREFIX = "local-"  # how the id of a run begins that the server does not know yet
SHORT_TIMEOUTS = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "10", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}


class TrackingServerUnavailable(UserError):
    """MLflow's server does not answer."""


class RunDeleted(UserError):
    """MLflow's server does not have the run any more."""


class LogQueue:
    """What waits for one run.

    Args:
        folder: `.cache/mlflow-outbox/NUMBER`; made if it is not there.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.journal = folder, folder / "journal.jsonl"
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def run_id(self) -> str:
        """MLflow's id of the run, or ours as long as it has none."""
        path = self.folder / "run_id"
        return path.read_text() if path.exists() else self.local_id

    @property
    def local_id(self) -> str:
        return f"{LOCAL_ID_PREFIX}{self.folder.name}"

    def has_id(self, run_id: str) -> bool:
        """True for either of the run's ids, and for the beginning of one."""
        return any(one.startswith(run_id) for one in (self.run_id, self.local_id))

    def save_run_id(self, run_id: str) -> None:
        write_bytes(self.folder / "run_id", run_id.encode())

    def append(self, entry: dict[str, Any], *paths: Path) -> None:
        """Append what is to be sent; files and folders are copied first."""
        lines = self.read_entries()
        if paths:
            place = self.folder / "files" / str(len(lines))
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir(parents=True)
            for path in paths:
                copy = shutil.copytree if path.is_dir() else shutil.copy2
                copy(path, place / path.name)
            for copied in place.rglob("*"):
                sync_file(copied)
            entry = {**entry, "file": str((place / paths[0].name).relative_to(self.folder))}
        with self.journal.open("ab") as file:
            file.write(json.dumps(entry).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        sync_file(self.folder)

    def read_entries(self) -> list[dict[str, Any]]:
        """All that was to be sent, in order. A line that a kill cut short was never promised, and is cut off."""
        data = self.journal.read_bytes() if self.journal.exists() else b""
        whole = data[: data.rfind(b"\n") + 1]
        if len(whole) < len(data):
            os.truncate(self.journal, len(whole))
        return [json.loads(line) for line in whole.splitlines()]

    @property
    def num_sent(self) -> int:
        path = self.folder / "sent"
        return int(path.read_text()) if path.exists() else 0

    @property
    def num_waiting(self) -> int:
        return len(self.read_entries()) - self.num_sent

    def replay(self, client: "MlflowClient", project: Path) -> int:
        """Send what waits; returns how many lines that were.

        Raises:
            Away: the server went away meanwhile; what it has is noted.
            Gone: the run was deleted there.
        """
        with (self.folder / "sending").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # a training and `convoy sync` may both want to
            return self._replay(client, project)

    def _replay(self, client: "MlflowClient", project: Path) -> int:
        lines, first = self.read_entries(), self.num_sent
        for number in range(first, len(lines)):
            entry = lines[number]
            with translate_mlflow_errors(project), short_timeouts(entry["do"] not in ("artifact", "model")):
                if entry["do"] == "create":
                    self.save_run_id(create_run(client, project, entry, self.local_id))
                else:
                    apply_entry(client, self.run_id, entry, self.folder)
            write_bytes(self.folder / "sent", str(number + 1).encode())
            if "file" in entry:
                shutil.rmtree((self.folder / entry["file"]).parent, ignore_errors=True)
        return len(lines) - first


def is_tracking_server(project: Path) -> bool:
    """True where MLflow is a server, not a file."""
    return tracking_uri(project).startswith("http")


def connect_to_server(project: Path) -> "MlflowClient":
    """A client for a server that answers.

    Raises:
        Away: it does not.
    """
    uri = tracking_uri(project)
    if not is_reachable(uri):
        raise TrackingServerUnavailable(f"MLflow at {uri} does not answer")
    with short_timeouts(True):
        try:
            return connect_to_mlflow(project)
        except UserError as error:
            raise TrackingServerUnavailable(f"MLflow at {uri} does not answer") from error


@contextmanager
def short_timeouts(enabled: bool) -> Iterator[None]:
    """In this block MLflow's client gives up on a server that accepts and says nothing, and soon."""
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
    """What MLflow raises where its server is gone becomes Away, where the run is gone Gone."""
    import requests
    from mlflow.exceptions import MlflowException

    try:
        yield
    except (requests.RequestException, ConnectionError) as error:
        raise TrackingServerUnavailable(f"MLflow at {tracking_uri(project)} does not answer") from error
    except MlflowException as error:
        reason = " ".join(str(error).split())[:200]
        if reason.startswith("API request to "):  # it never got there
            raise TrackingServerUnavailable(f"MLflow at {tracking_uri(project)} does not answer") from error
        if error.get_http_status_code() in (408, 429) or error.get_http_status_code() >= 500:
            raise TrackingServerUnavailable(
                f"MLflow at {tracking_uri(project)} does not answer ({reason})"
            ) from error
        if error.error_code == "RESOURCE_DOES_NOT_EXIST" or "must be in the 'active' state" in reason:
            raise RunDeleted(f"MLflow has the run no more ({reason})") from error
        raise UserError(f"MLflow at {tracking_uri(project)} refuses what is to be logged ({reason})") from error


def create_run(client: "MlflowClient", project: Path, entry: Mapping[str, Any], local_id: str) -> str:
    """MLflow's id of a run that was begun here, which may be there already."""
    experiment = ensure_experiment(client, entry["experiment"], project)
    found = client.search_runs([experiment], f"tags.`{LOCAL_RUN_TAG}` = '{local_id}'")
    if found:
        return str(found[0].info.run_id)
    tags = {**entry["tags"], LOCAL_RUN_TAG: local_id}
    return str(client.create_run(experiment, entry["at"], tags, entry["name"]).info.run_id)


def list_queues(project: Path) -> list[LogQueue]:
    """All there are, the oldest first."""
    journals = sorted((project / QUEUE_FOLDER).glob("*/journal.jsonl"), key=lambda path: path.stat().st_mtime)
    return [LogQueue(path.parent) for path in journals]


def count_waiting(project: Path) -> dict[str, int]:
    """How many entries wait to be sent, by run; those of trainings that run, which send them themselves, too.
    Only looks: a journal that is being written to is left alone."""
    found: dict[str, int] = {}
    for one in list_queues(project):
        num = one.journal.read_bytes().count(b"\n") - one.num_sent
        found |= {one.run_id: num} if num > 0 else {}
    return found


def find_queue(project: Path, run_id: str) -> LogQueue | None:
    """The outbox of a run, if it has one."""
    return next((one for one in list_queues(project) if one.has_id(run_id)), None)


def open_queue(project: Path, run_id: str) -> LogQueue:
    """The outbox of a run that was begun earlier, a new one if need be."""
    known = find_queue(project, run_id)
    if known is None:
        local = run_id.startswith(LOCAL_ID_PREFIX)
        known = LogQueue(
            project / QUEUE_FOLDER / (run_id.removeprefix(LOCAL_ID_PREFIX) if local else uuid.uuid4().hex)
        )
        if local:
            with suppress(TrackingServerUnavailable):
                known.save_run_id(find_sent_run(connect_to_server(project), run_id))
        else:
            known.save_run_id(run_id)
    return known


def check_all_sent(project: Path, run_id: str) -> None:
    """Raise UserError if something of this run waits to be sent."""
    known = find_queue(project, run_id) if len(run_id) >= 4 else None
    if known is not None and known.num_waiting:
        wait = format_count(known.num_waiting, "entry of it waits", "entries of it wait")
        raise UserError(f"run {run_id}: {wait} for MLflow; `convoy sync` first")


def find_sent_run(client: "MlflowClient", local_id: str) -> str:
    """MLflow's id of a run that was begun while the server was away.

    Raises:
        UserError: it was never sent.
    """
    everywhere = [one.experiment_id for one in client.search_experiments()]
    found = client.search_runs(everywhere, f"tags.`{LOCAL_RUN_TAG}` LIKE '{local_id}%'")
    if not found:
        raise UserError(
            f"run {local_id} was never sent to this MLflow; `convoy sync` in the project that trained it"
        )
    return str(found[0].info.run_id)


def sync_queues(project: Path) -> str:
    """Send all that waits, and say what that was.

    Raises:
        Away: the server is still away.
    """
    waiting = [one for one in list_queues(project) if one.num_waiting]
    if not waiting:
        remove_sent(project)
        return "sync: nothing waits"
    if not is_tracking_server(project):
        wait = format_count(sum(one.num_waiting for one in waiting), "entry waits", "entries wait")
        raise UserError(f"{wait} for a server of MLflow and none is named; set MLFLOW_TRACKING_URI")
    said = []
    client = connect_to_server(project)
    for one in waiting:
        try:
            sent = one.replay(client, project)
            said.append(f"sync: run {one.run_id}: {format_count(sent, 'entry', 'entries')} sent")
        except TrackingServerUnavailable:
            raise
        except RunDeleted:
            dropped = format_count(one.num_waiting, "entry is", "entries are")
            said.append(f"sync: run {one.run_id} was deleted in MLflow; {dropped} dropped")
            shutil.rmtree(one.folder)
        except UserError as error:
            said.append(f"sync: run {one.run_id}: {error}")
    remove_sent(project)
    return "\n".join(said)


def remove_sent(project: Path) -> None:
    """Remove what is sent and whose training does not go on."""
    going_on = [path.read_text() for path in (project / ".cache" / "train").glob("*/run_id")]
    for one in list_queues(project):
        if one.num_waiting or any(one.has_id(run_id) for run_id in going_on):
            continue
        with (one.folder / "used").open("w") as used:
            try:
                fcntl.flock(used, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            shutil.rmtree(one.folder)
