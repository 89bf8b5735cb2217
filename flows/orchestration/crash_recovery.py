"""Runs that were killed: found by what starts next, ended with all that they started, and closed as what they are.

.cache/runs/ID.json     a process of ours at work: who it is, and which runs of Prefect and MLflow it has opened
.cache/runs/ID.lock     held by that process; the kernel lets go of it when the process dies, whatever kills it

What a run starts bears its ID in the environment (CONVOY_RUN), so that a stage, a decoder or a temporary server
that outlived it is found without trusting process ids. Another machine's lock may not be seen here; its note is
touched every BEAT_S seconds, and counts as a dead run's when it was not for DEAD_AFTER_S.

A run that was killed is closed in three steps: its processes end, its MLflow runs are KILLED, its Prefect runs
are CRASHED. Every step can be repeated; the note goes when all three are done.
"""

from __future__ import annotations

import atexit
import fcntl
import json
import os
import socket
import sqlite3
import threading
import time
import urllib.error
import uuid
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import psutil

from flows.notifications import console, webhooks
from flows.orchestration.prefect_api import API_VARIABLE, call_prefect_api, is_project_server, is_server_lost
from flows.project.paths import CACHE
from imageset.exceptions import UserError
from imageset.utils.atomic_write import write_text
from imageset.utils.text import format_count
from lightning_modules.tracking import offline_queue as outboxes
from lightning_modules.tracking.client import connect_to_mlflow, get_tracking_uri

logger = console.get_logger(__name__)

PROCESS_RECORDS = CACHE / "runs"
RUN_ID_VARIABLE = "CONVOY_RUN"  # in the environment of all that a run starts
HEARTBEAT_S, DEAD_AFTER_S = 10.0, 60.0
GRACE_S = 20.0  # between "please stop" and being killed: a training saves a checkpoint meanwhile
TRAINING_RUN_GLOBS = (
    "train/*/run_id",
    "sweep/*/*/.cache/train/*/run_id",
)  # in .cache: the MLflow runs of unfinished ones
OPEN_STATES = ("RUNNING", "PENDING", "CANCELLING")  # states of a Prefect run that a dead process cannot leave


@dataclass(frozen=True)
class ProcessRecord:
    """One process of ours at work."""

    id: str
    pid: int
    host: str
    command: str
    began: str
    apis: dict[str, str | None] = field(default_factory=dict)  # Prefect run -> its server; None: the project's own
    names: dict[str, str] = field(default_factory=dict)  # Prefect run -> "flow (name)"
    mlflow_runs: list[str] = field(default_factory=list)
    untold: bool = False  # it came to its end, but Prefect's server was gone and was not told

    @property
    def ending(self) -> str:
        return "ended while Prefect's server was gone" if self.untold else "was killed"

    def __str__(self) -> str:
        return f"`{self.command}` of {self.began} (process {self.pid})"


class ProcessHeartbeat:
    """The note of this process, kept alive by a thread until it is done."""

    def __init__(self, project: Path, command: str) -> None:
        folder = project.resolve() / PROCESS_RECORDS
        began = datetime.now(UTC).isoformat(timespec="seconds")
        self.record = ProcessRecord(uuid.uuid4().hex, os.getpid(), socket.gethostname(), command, began)
        self.path = folder / f"{self.record.id}.json"
        self._lock: IO[str] | None = _open_lock_file(self.path.with_suffix(".lock"))
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        self.save()
        self._stopped = threading.Event()
        threading.Thread(target=self._beat, name="heartbeat", daemon=True).start()

    def save(self) -> None:
        write_text(self.path, json.dumps(asdict(self.record), indent=1))

    def _beat(self) -> None:
        while not self._stopped.wait(HEARTBEAT_S):
            with suppress(OSError):
                os.utime(self.path)

    def close(self) -> None:
        """This process has left nothing that somebody else would have to close; or, where Prefect's server is gone
        and was not told how its run ended, just that: the note stays, for whoever comes next."""
        self._stopped.set()
        if self._lock is not None:
            if self.record.apis and is_server_lost():
                self.record = replace(self.record, untold=True)
                self.save()
            else:
                _remove_record(self.path)
            self._lock.close()
            self._lock = None
            with suppress(OSError):  # others are at work, or something is kept
                self.path.parent.rmdir()
                self.path.parent.parent.rmdir()


def _open_lock_file(lock: Path) -> IO[str]:
    """A file in a folder that another process may just be removing, since it is empty."""
    while True:
        lock.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):
            return lock.open("w")


_heartbeats: dict[Path, ProcessHeartbeat] = {}  # project -> the note of this process


@contextmanager
def record_process(project: Path, command: str) -> Iterator[None]:
    """What a command does is found by the next one, should it be killed; what a killed one left is closed."""
    close_dead_processes(project)
    before = os.environ.get(RUN_ID_VARIABLE)
    mine = _start_heartbeat(project, command)
    try:
        yield
    finally:
        del _heartbeats[project.resolve()]
        mine.close()
        if before is None:
            os.environ.pop(RUN_ID_VARIABLE, None)
        else:
            os.environ[RUN_ID_VARIABLE] = before


def record_flow_run(flow: Any, flow_run: Any, state: Any) -> None:
    """Prefect's `on_running`: which run this process carries out. A worker's flow has no command around it and is
    noted, and looks for what was killed, here."""
    from prefect.settings import PREFECT_API_URL

    project = Path.cwd()
    mine = _heartbeats.get(project.resolve())
    if mine is None:
        close_dead_processes(project)
        mine = _start_heartbeat(project, f"flow {flow.name}")
        atexit.register(mine.close)
    run_id, url = str(flow_run.id), str(PREFECT_API_URL.value())
    mine.record.apis[run_id] = None if is_project_server(url) else url
    mine.record.names[run_id] = f"{flow.name} ({flow_run.name})"
    mine.save()


def record_mlflow_run(project: Path, run_id: str) -> None:
    """This process has opened a run of MLflow that only it will close. (Trainings are found by themselves.)"""
    mine = _heartbeats.get(project.resolve())
    if mine is not None:
        mine.record.mlflow_runs.append(run_id)
        mine.save()


def _start_heartbeat(project: Path, command: str) -> ProcessHeartbeat:
    mine = _heartbeats[project.resolve()] = ProcessHeartbeat(project, command)
    os.environ[RUN_ID_VARIABLE] = mine.record.id
    return mine


# ---- what was killed --------------------------------------------------------------------------------


def find_dead_processes(project: Path) -> list[ProcessRecord]:
    """The runs whose process is gone, the oldest first."""
    found = [
        note
        for path in (project / PROCESS_RECORDS).glob("*.json")
        if (note := _read_record(path)) and not _is_alive(note, path)
    ]
    return sorted(found, key=lambda note: note.began)


def close_dead_processes(project: Path, own_api: str | None = None) -> None:
    """Close what was killed, as far as that can be done now; what is left is for whoever comes next.

    Args:
        own_api: the address of a Prefect server on the project's own database, where one runs; None: that which
            `convoy up` has told us. Runs that are noted there stay open without it.
    """
    if not find_dead_processes(project):
        return
    own_api = own_api or os.environ.get(API_VARIABLE)
    seen: set[str] = set()
    with _recovery_lock(project):
        while new := [
            note for note in find_dead_processes(project) if note.id not in seen
        ]:  # to end one may show another
            for note in new:
                _close_process(note, own_api, project)
                seen.add(note.id)


def needs_prefect_server(project: Path) -> bool:
    """Whether a run that was killed can be closed only by a Prefect server on the project's own database."""
    return any(None in note.apis.values() for note in find_dead_processes(project))


def _is_alive(note: ProcessRecord, path: Path) -> bool:
    try:
        if note.host != socket.gethostname():
            return time.time() - path.stat().st_mtime < DEAD_AFTER_S
        return not is_lock_free(path.with_suffix(".lock")) and psutil.pid_exists(note.pid)
    except FileNotFoundError:  # it has ended since
        return True


def is_lock_free(lock: Path) -> bool:
    """True if nobody holds this lock."""
    try:
        with lock.open("r") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return True
    except FileNotFoundError:
        return True
    except BlockingIOError:
        return False


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


@contextmanager
def _recovery_lock(project: Path) -> Iterator[None]:
    with (project / PROCESS_RECORDS / "recovery").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _close_process(note: ProcessRecord, own_api: str | None, project: Path) -> None:
    if note.host == socket.gethostname():
        _terminate_processes(note)
    closed = _close_mlflow_runs(note, project)
    if _close_prefect_runs(note, own_api, project) and closed:
        _remove_record(project / PROCESS_RECORDS / f"{note.id}.json")


# ---- the three steps --------------------------------------------------------------------------------


def _terminate_processes(note: ProcessRecord) -> None:
    left = [process for process in psutil.process_iter() if _has_run_id(process, note.id)]
    if not left:
        return
    processes = format_count(len(left), "process", "processes")
    logger.info("%s %s; ending what it left behind (%s)", note, note.ending, processes)
    for process in left:
        with suppress(psutil.Error):
            process.terminate()
    _, stubborn = psutil.wait_procs(left, GRACE_S)
    for process in stubborn:
        with suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(stubborn, GRACE_S)


def _has_run_id(process: psutil.Process, mark: str) -> bool:
    try:
        return process.pid != os.getpid() and process.environ().get(RUN_ID_VARIABLE) == mark
    except (psutil.Error, OSError):  # it has ended, or is somebody else's
        return False


def _close_mlflow_runs(note: ProcessRecord, project: Path) -> bool:
    """Say KILLED of its MLflow runs; False if MLflow could not be asked."""
    suspects = [*note.mlflow_runs, *_find_unfinished_trainings(project)]
    try:
        if not suspects or not _has_running_mlflow_run(suspects, project):
            return True
        from mlflow.exceptions import MlflowException

        client = connect_to_mlflow(project)
        for run_id in suspects:
            with suppress(MlflowException):  # deleted since
                if client.get_run(run_id).info.status == "RUNNING":
                    client.set_terminated(run_id, "KILLED")
                    logger.info("MLflow run %s was killed and is closed as KILLED", run_id)
    except UserError as error:
        logger.warning("what %s left in MLflow stays open: %s", note, error)
        return False
    return True


def _find_unfinished_trainings(project: Path) -> Iterable[str]:
    """The MLflow runs of trainings that are not finished and that no process holds."""
    for place in TRAINING_RUN_GLOBS:
        for note in sorted((project / CACHE).glob(place)):
            if is_lock_free(note.with_name("lock")):
                with suppress(OSError):
                    run_id = note.read_text(encoding="utf-8").strip()
                    outbox = outboxes.find_queue(project, run_id)  # begun while MLflow's server was away
                    yield outbox.run_id if outbox is not None else run_id


def _has_running_mlflow_run(run_ids: list[str], project: Path) -> bool:
    """A look into MLflow's file, where it is one: its client takes seconds to import."""
    uri = get_tracking_uri(project)
    if not uri.startswith("sqlite:///"):
        return True
    path, marks = Path(uri.removeprefix("sqlite:///")), ", ".join("?" * len(run_ids))
    if not path.exists():
        return False
    query = f"SELECT count(*) FROM runs WHERE status = 'RUNNING' AND run_uuid IN ({marks})"
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=rw", uri=True, timeout=5)) as connection:
            return bool(connection.execute(query, run_ids).fetchone()[0])
    except sqlite3.Error:
        return True


def _close_prefect_runs(note: ProcessRecord, own_api: str | None, project: Path) -> bool:
    """Say CRASHED of its Prefect runs; False if one of them could not be asked about."""
    closed = True
    for run_id, api in note.apis.items():
        try:
            url = api or own_api
            closed &= url is not None
            if url is not None and close_flow_run(url, run_id, f"{note} {note.ending}; call it again to go on"):
                name = note.names.get(run_id, run_id)
                logger.info("Prefect run %s %s and is closed as crashed", name, note.ending)
                webhooks.notify_crash(project, name, run_id, f"{note} {note.ending}")
        except OSError as error:
            logger.warning("what %s left at %s stays open: %s", note, url, error)
            closed = False
    return closed


def close_flow_run(url: str, run_id: str, message: str) -> bool:
    """Set a Prefect run that says it runs to Crashed; False where it has ended, or is not known there.

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
