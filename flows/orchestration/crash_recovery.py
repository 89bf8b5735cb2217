"""Crash recovery: the next command finds runs whose process died, ends their child processes and closes them.

.cache/runs/ID.json     record of a process at work: its identity, and the Prefect and MLflow runs it has opened
.cache/runs/ID.lock     locked by that process; the kernel releases the lock when the process ends, for any reason

Every child process has the ID in its environment (CONVOY_RUN), so that a stage, a decoder or a temporary server
that outlived its parent is found without relying on process ids. The lock of another machine may not be visible
here. Records are therefore touched every HEARTBEAT_S seconds, and a record of another machine that was not touched
for DEAD_AFTER_S belongs to a dead process.

A dead process is closed in three steps: its child processes are terminated, its MLflow runs are marked KILLED, its
Prefect runs CRASHED. Every step can be repeated. The record is deleted after the last one.
"""

from __future__ import annotations

import atexit
import json
import os
import socket
import sqlite3
import threading
import time
import urllib.error
import uuid
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from flows.notifications import console, webhooks
from flows.orchestration import local_databases
from flows.orchestration.prefect_api import API_VARIABLE, call_prefect_api, is_project_server, is_server_lost
from flows.project.paths import CACHE
from flows.project.project import Project
from imageset import termination
from imageset.exceptions import UserError
from imageset.utils.atomic_write import remove_unowned, write_text
from imageset.utils.file_lock import file_lock, is_locked, is_open_at
from imageset.utils.text import format_count
from lightning_modules.tracking import offline_queue
from lightning_modules.tracking.client import connect_to_mlflow, get_tracking_uri, is_tracking_shared
from lightning_modules.tracking.local_store.location import get_database_path

logger = console.get_logger(__name__)

PROCESS_RECORDS = CACHE / "runs"
RUN_ID_VARIABLE = "CONVOY_RUN"  # in the environment of every child process
HEARTBEAT_S, DEAD_AFTER_S = 10.0, 60.0
GRACE_S = 20.0  # between SIGTERM and SIGKILL: a training saves a checkpoint meanwhile
TRAINING_RUN_GLOBS = ("train/*/run_id", "sweep/*/*/.cache/train/*/run_id")  # in .cache: of unfinished trainings
OPEN_STATES = ("RUNNING", "PENDING", "CANCELLING")  # of a Prefect run that its process has not ended


@dataclass(frozen=True)
class ProcessRecord:
    """One process at work, as its record in .cache/runs describes it.

    Attributes:
        id: hexadecimal, unique.
        pid: process id on `host`.
        host: name of the machine.
        command: as it was typed.
        began: ISO 8601.
        apis: id of a Prefect run -> address of its server; None for the server on the project's own database.
        names: id of a Prefect run -> "flow (run name)".
        mlflow_runs: ids of the MLflow runs that the process has opened.
        folder: the project's folder at that time; "" in a record of an earlier Convoy.
        untold: whether the process ended normally, but its Prefect server was gone before it received the end.
    """

    id: str
    pid: int
    host: str
    command: str
    began: str
    apis: dict[str, str | None] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    mlflow_runs: list[str] = field(default_factory=list)
    untold: bool = False
    folder: str = ""

    @property
    def ending(self) -> str:
        """How the process ended, as messages say it."""
        return "ended after its Prefect server was gone" if self.untold else "was killed"

    def __str__(self) -> str:
        return f"`{self.command}` of {self.began} (process {self.pid})"


class ProcessHeartbeat:
    """The record of this process, which a thread keeps fresh until `close`."""

    def __init__(self, project: Project, command: str) -> None:
        folder = project.folder.resolve() / PROCESS_RECORDS
        began = datetime.now(UTC).isoformat(timespec="seconds")
        self.record = ProcessRecord(
            uuid.uuid4().hex,
            os.getpid(),
            socket.gethostname(),
            command,
            began,
            folder=str(project.folder.resolve()),
        )
        self.path = folder / f"{self.record.id}.json"
        self._lock: ExitStack | None = _lock_new_file(self.path.with_suffix(".lock"))
        self.save()
        self._stopped = threading.Event()
        threading.Thread(target=self._beat, name="heartbeat", daemon=True).start()

    def save(self) -> None:
        """Write the record."""
        write_text(self.path, json.dumps(asdict(self.record), indent=1))

    def _beat(self) -> None:
        while not self._stopped.wait(HEARTBEAT_S):
            with suppress(OSError):
                os.utime(self.path)

    def close(self) -> None:
        """Delete the record of this process.

        Keep it if the Prefect server went away before it received the final state, so that the next command can
        close the run.
        """
        self._stopped.set()
        if self._lock is not None:
            with suppress(OSError):  # a full or read-only disk: the next command finds the record, as after a kill
                if self.record.apis and is_server_lost():
                    self.record = replace(self.record, untold=True)
                    self.save()
                else:
                    _remove_record(self.path)
            self._lock.close()
            self._lock = None
            with suppress(OSError):  # not empty: other processes are at work, or the record is kept
                self.path.parent.rmdir()
                self.path.parent.parent.rmdir()


def _lock_new_file(path: Path) -> ExitStack:
    """Create and lock a file, also while another process removes it before the lock, or its empty folder."""
    while True:
        stack = ExitStack()
        path.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):
            file = stack.enter_context(file_lock(path))
            if is_open_at(path, file.fileno()):
                return stack
        stack.close()


_heartbeats: dict[Path, ProcessHeartbeat] = {}  # by project: the record of this process


@contextmanager
def record_process(project: Project, command: str) -> Iterator[None]:
    """Close processes that died, and keep a record of this one while the block runs."""
    close_dead_processes(project)
    previous_id = os.environ.get(RUN_ID_VARIABLE)
    heartbeat = _start_heartbeat(project, command)
    try:
        yield
    finally:
        del _heartbeats[project.folder.resolve()]
        heartbeat.close()
        if previous_id is None:
            os.environ.pop(RUN_ID_VARIABLE, None)
        else:
            os.environ[RUN_ID_VARIABLE] = previous_id


def record_flow_run(flow: Any, flow_run: Any, state: Any) -> None:
    """Record which Prefect run this process executes; Prefect's hook `on_running`.

    A flow that a worker starts has no command around it: then its record begins here, and processes that died are
    closed here.
    """
    from prefect.settings import PREFECT_API_URL

    termination.listen_again()  # Prefect has just installed a handler that does not limit the time to the end
    project = Project.find_or_none() or Project(Path.cwd())
    heartbeat = _heartbeats.get(project.folder.resolve())
    if heartbeat is None:
        close_dead_processes(project)
        heartbeat = _start_heartbeat(project, f"flow {flow.name}")
        atexit.register(heartbeat.close)
    run_id, url = str(flow_run.id), str(PREFECT_API_URL.value())
    heartbeat.record.apis[run_id] = None if is_project_server(url) else url
    heartbeat.record.names[run_id] = f"{flow.name} ({flow_run.name})"
    heartbeat.save()


def record_mlflow_run(project: Project, run_id: str) -> None:
    """Record an MLflow run that only this process will close; trainings are found by their own folders."""
    heartbeat = _heartbeats.get(project.folder.resolve())
    if heartbeat is not None:
        heartbeat.record.mlflow_runs.append(run_id)
        heartbeat.save()


def _start_heartbeat(project: Project, command: str) -> ProcessHeartbeat:
    heartbeat = _heartbeats[project.folder.resolve()] = ProcessHeartbeat(project, command)
    os.environ[RUN_ID_VARIABLE] = heartbeat.record.id
    return heartbeat


# ---- dead processes ---------------------------------------------------------------------------------


def find_dead_processes(project: Project) -> list[ProcessRecord]:
    """Return the records whose process has died, the oldest first."""
    records = [
        record
        for path in (project / PROCESS_RECORDS).glob("*.json")
        if (record := _read_record(path)) and not _is_alive(record, path)
    ]
    return sorted(records, key=lambda record: record.began)


def close_dead_processes(project: Project, project_api: str | None = None) -> None:
    """Close processes that died, as far as that is possible now; the next command closes the rest.

    Args:
        project: the project's folder.
        project_api: address of a Prefect server on the project's own database, if one runs; None for the one that
            `convoy up` has announced. Without it, runs of that database stay open.
    """
    _remove_leftovers(project / PROCESS_RECORDS)
    if not find_dead_processes(project):
        return
    project_api = project_api or os.environ.get(API_VARIABLE)
    seen: set[str] = set()
    with file_lock(project / PROCESS_RECORDS / "recovery"):
        # Ending one process may reveal another.
        while new := [record for record in find_dead_processes(project) if record.id not in seen]:
            for record in new:
                _close_process(record, project_api, project)
                seen.add(record.id)


def _remove_leftovers(folder: Path) -> None:
    """Remove the files of processes that were killed before their record had its name."""
    remove_unowned(folder)
    for lock in folder.glob("*.lock"):
        if not lock.with_suffix(".json").exists() and not is_locked(lock):
            with suppress(OSError):  # on a read-only disk it stays
                lock.unlink(missing_ok=True)


def needs_prefect_server(project: Project) -> bool:
    """Return whether a run of a dead process can be closed only by a server on the project's own database."""
    return any(None in record.apis.values() for record in find_dead_processes(project))


def _is_alive(record: ProcessRecord, path: Path) -> bool:
    try:
        if record.host != socket.gethostname():
            return time.time() - path.stat().st_mtime < DEAD_AFTER_S
        return is_locked(path.with_suffix(".lock")) and psutil.pid_exists(record.pid)
    except FileNotFoundError:  # it has ended in the meantime
        return True


def _read_record(path: Path) -> ProcessRecord | None:
    try:
        return ProcessRecord(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError):
        logger.warning("%s: not readable, removed", path)
        _remove_record(path)
        return None


def _remove_record(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.with_suffix(".lock").unlink(missing_ok=True)


def _close_process(record: ProcessRecord, project_api: str | None, project: Project) -> None:
    if _is_of_original(record, project):  # only what was copied is closed: runs in the copy's own databases
        record = replace(record, apis={run_id: None for run_id, api in record.apis.items() if api is None})
    elif record.host == socket.gethostname():
        _terminate_children(record)
    closed = (is_tracking_shared() and _is_of_original(record, project)) or _close_mlflow_runs(record, project)
    if _close_prefect_runs(record, project_api, project) and closed:
        _remove_record(project / PROCESS_RECORDS / f"{record.id}.json")


def _is_of_original(record: ProcessRecord, project: Project) -> bool:
    """Return whether a record was copied with the project: the process is of the original, alive or not."""
    folder = Path(record.folder)
    is_elsewhere = record.folder != "" and folder.resolve() != project.folder.resolve()
    return is_elsewhere and (folder / PROCESS_RECORDS / f"{record.id}.json").exists()


# ---- the three steps --------------------------------------------------------------------------------


def _terminate_children(record: ProcessRecord) -> None:
    children = [process for process in psutil.process_iter() if _has_run_id(process, record.id)]
    if not children:
        return
    num_children = format_count(len(children), "process", "processes")
    logger.info("%s %s; ending its child processes (%s)", record, record.ending, num_children)
    for process in children:
        with suppress(psutil.Error):
            process.terminate()
    _, stubborn = psutil.wait_procs(children, GRACE_S)
    for process in stubborn:
        with suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(stubborn, GRACE_S)


def _has_run_id(process: psutil.Process, run_id: str) -> bool:
    try:
        return process.pid != os.getpid() and process.environ().get(RUN_ID_VARIABLE) == run_id
    except (psutil.Error, OSError):  # it has ended, or belongs to another user
        return False


def _close_mlflow_runs(record: ProcessRecord, project: Project) -> bool:
    """Mark the MLflow runs of a dead process as KILLED; return False if MLflow does not answer."""
    run_ids = [*record.mlflow_runs, *_find_unfinished_trainings(project)]
    try:
        if not run_ids or not _has_running_mlflow_run(run_ids, project):
            return True
        from mlflow.exceptions import MlflowException

        client = connect_to_mlflow(project.folder)
        for run_id in run_ids:
            with suppress(MlflowException):  # deleted in the meantime
                if client.get_run(run_id).info.status == "RUNNING":
                    client.set_terminated(run_id, "KILLED")
                    logger.info("MLflow run %s was killed and is closed as KILLED", run_id)
    except UserError as error:
        logger.warning("the MLflow runs of %s stay open: %s", record, error)
        return False
    return True


def _find_unfinished_trainings(project: Project) -> Iterable[str]:
    """Yield the MLflow runs of unfinished trainings that no process works on."""
    for pattern in TRAINING_RUN_GLOBS:
        for path in sorted((project / CACHE).glob(pattern)):
            if not is_locked(path.with_name("lock")):
                with suppress(OSError):
                    run_id = path.read_text(encoding="utf-8").strip()
                    queue = offline_queue.find_queue(
                        project.folder, run_id
                    )  # started while MLflow's server was unavailable
                    yield queue.run_id if queue is not None else run_id


def _has_running_mlflow_run(run_ids: list[str], project: Project) -> bool:
    """Return whether one of the runs may be RUNNING; a local file is queried without MLflow's client."""
    database = get_database_path(get_tracking_uri(project.folder))
    if database is None:
        return True
    try:
        return local_databases.has_running_run(database, run_ids)
    except sqlite3.Error:
        return True


def _close_prefect_runs(record: ProcessRecord, project_api: str | None, project: Project) -> bool:
    """Mark the Prefect runs of a dead process as CRASHED; return False if a server does not answer."""
    closed = True
    for run_id, api in record.apis.items():
        try:
            url = api or project_api
            closed &= url is not None
            if url is not None and close_flow_run(
                url, run_id, f"{record} {record.ending}; run it again to resume"
            ):
                name = record.names.get(run_id, run_id)
                logger.info("Prefect run %s %s and is closed as crashed", name, record.ending)
                webhooks.notify_crash(project, name, run_id, f"{record} {record.ending}")
        except OSError as error:
            logger.warning("the Prefect runs of %s at %s stay open: %s", record, url, error)
            closed = False
    return closed


def close_flow_run(url: str, run_id: str, message: str) -> bool:
    """Set an open Prefect run to Crashed; return False if it has ended or is unknown to the server.

    Raises:
        OSError: the server does not answer.
    """
    try:
        run = call_prefect_api(f"{url}/flow_runs/{run_id}")
        if run["state_type"] not in OPEN_STATES:
            return False
        call_prefect_api(
            f"{url}/flow_runs/{run_id}/set_state",
            {"state": {"type": "CRASHED", "message": message}, "force": True},
        )
        return True
    except urllib.error.HTTPError as error:
        if error.code == 404:
            return False
        raise
