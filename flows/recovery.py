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

from flows import console, hooks
from flows.project import CACHE
from flows.server import OWN_API, ask, is_lost, is_own
from imageset.atomic import write_text
from imageset.errors import UserError
from imageset.words import count
from lightning_modules import outbox as outboxes
from lightning_modules.tracking import connect, tracking_uri

logger = console.get_logger(__name__)

RUNS = CACHE / "runs"
MARK = "CONVOY_RUN"  # in the environment of all that a run starts
BEAT_S, DEAD_AFTER_S = 10.0, 60.0
GRACE_S = 20.0  # between "please stop" and being killed: a training saves a checkpoint meanwhile
TRAININGS = ("train/*/run_id", "sweep/*/*/.cache/train/*/run_id")  # in .cache: the MLflow runs of unfinished ones
OPEN = ("RUNNING", "PENDING", "CANCELLING")  # states of a Prefect run that a dead process cannot leave


@dataclass(frozen=True)
class Note:
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
    def fate(self) -> str:
        return "ended while Prefect's server was gone" if self.untold else "was killed"

    def __str__(self) -> str:
        return f"`{self.command}` of {self.began} (process {self.pid})"


class Mine:
    """The note of this process, kept alive by a thread until it is done."""

    def __init__(self, project: Path, command: str) -> None:
        folder = project.resolve() / RUNS
        began = datetime.now(UTC).isoformat(timespec="seconds")
        self.note = Note(uuid.uuid4().hex, os.getpid(), socket.gethostname(), command, began)
        self.path = folder / f"{self.note.id}.json"
        self._lock: IO[str] | None = _open_new(self.path.with_suffix(".lock"))
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        self.save()
        self._over = threading.Event()
        threading.Thread(target=self._beat, name="heartbeat", daemon=True).start()

    def save(self) -> None:
        write_text(self.path, json.dumps(asdict(self.note), indent=1))

    def _beat(self) -> None:
        while not self._over.wait(BEAT_S):
            with suppress(OSError):
                os.utime(self.path)

    def end(self) -> None:
        """This process has left nothing that somebody else would have to close; or, where Prefect's server is gone
        and was not told how its run ended, just that: the note stays, for whoever comes next."""
        self._over.set()
        if self._lock is not None:
            if self.note.apis and is_lost():
                self.note = replace(self.note, untold=True)
                self.save()
            else:
                _remove(self.path)
            self._lock.close()
            self._lock = None
            with suppress(OSError):  # others are at work, or something is kept
                self.path.parent.rmdir()
                self.path.parent.parent.rmdir()


def _open_new(lock: Path) -> IO[str]:
    """A file in a folder that another process may just be removing, since it is empty."""
    while True:
        lock.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):
            return lock.open("w")


_mine: dict[Path, Mine] = {}  # project -> the note of this process


@contextmanager
def noted(project: Path, command: str) -> Iterator[None]:
    """What a command does is found by the next one, should it be killed; what a killed one left is closed."""
    recover(project)
    before = os.environ.get(MARK)
    mine = _begin(project, command)
    try:
        yield
    finally:
        del _mine[project.resolve()]
        mine.end()
        if before is None:
            os.environ.pop(MARK, None)
        else:
            os.environ[MARK] = before


def note_flow_run(flow: Any, flow_run: Any, state: Any) -> None:
    """Prefect's `on_running`: which run this process carries out. A worker's flow has no command around it and is
    noted, and looks for what was killed, here."""
    from prefect.settings import PREFECT_API_URL

    project = Path.cwd()
    mine = _mine.get(project.resolve())
    if mine is None:
        recover(project)
        mine = _begin(project, f"flow {flow.name}")
        atexit.register(mine.end)
    run_id, url = str(flow_run.id), str(PREFECT_API_URL.value())
    mine.note.apis[run_id] = None if is_own(url) else url
    mine.note.names[run_id] = f"{flow.name} ({flow_run.name})"
    mine.save()


def note_mlflow_run(project: Path, run_id: str) -> None:
    """This process has opened a run of MLflow that only it will close. (Trainings are found by themselves.)"""
    mine = _mine.get(project.resolve())
    if mine is not None:
        mine.note.mlflow_runs.append(run_id)
        mine.save()


def _begin(project: Path, command: str) -> Mine:
    mine = _mine[project.resolve()] = Mine(project, command)
    os.environ[MARK] = mine.note.id
    return mine


# ---- what was killed --------------------------------------------------------------------------------


def dead(project: Path) -> list[Note]:
    """The runs whose process is gone, the oldest first."""
    found = [note for path in (project / RUNS).glob("*.json") if (note := _read(path)) and not _lives(note, path)]
    return sorted(found, key=lambda note: note.began)


def recover(project: Path, own_api: str | None = None) -> None:
    """Close what was killed, as far as that can be done now; what is left is for whoever comes next.

    Args:
        own_api: the address of a Prefect server on the project's own database, where one runs; None: that which
            `convoy up` has told us. Runs that are noted there stay open without it.
    """
    if not dead(project):
        return
    own_api = own_api or os.environ.get(OWN_API)
    seen: set[str] = set()
    with _only_one(project):
        while new := [note for note in dead(project) if note.id not in seen]:  # to end one may show another
            for note in new:
                _close(note, own_api, project)
                seen.add(note.id)


def needs_server(project: Path) -> bool:
    """Whether a run that was killed can be closed only by a Prefect server on the project's own database."""
    return any(None in note.apis.values() for note in dead(project))


def _lives(note: Note, path: Path) -> bool:
    try:
        if note.host != socket.gethostname():
            return time.time() - path.stat().st_mtime < DEAD_AFTER_S
        return not is_free(path.with_suffix(".lock")) and psutil.pid_exists(note.pid)
    except FileNotFoundError:  # it has ended since
        return True


def is_free(lock: Path) -> bool:
    """True if nobody holds this lock."""
    try:
        with lock.open("r") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return True
    except FileNotFoundError:
        return True
    except BlockingIOError:
        return False


def _read(path: Path) -> Note | None:
    try:
        return Note(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError):
        logger.warning("%s: not readable, removed", path)
        _remove(path)
        return None


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.with_suffix(".lock").unlink(missing_ok=True)


@contextmanager
def _only_one(project: Path) -> Iterator[None]:
    with (project / RUNS / "recovery").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _close(note: Note, own_api: str | None, project: Path) -> None:
    if note.host == socket.gethostname():
        _end_processes(note)
    closed = _close_mlflow(note, project)
    if _close_prefect(note, own_api, project) and closed:
        _remove(project / RUNS / f"{note.id}.json")


# ---- the three steps --------------------------------------------------------------------------------


def _end_processes(note: Note) -> None:
    left = [process for process in psutil.process_iter() if _bears(process, note.id)]
    if not left:
        return
    processes = count(len(left), "process", "processes")
    logger.info("%s %s; ending what it left behind (%s)", note, note.fate, processes)
    for process in left:
        with suppress(psutil.Error):
            process.terminate()
    _, stubborn = psutil.wait_procs(left, GRACE_S)
    for process in stubborn:
        with suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(stubborn, GRACE_S)


def _bears(process: psutil.Process, mark: str) -> bool:
    try:
        return process.pid != os.getpid() and process.environ().get(MARK) == mark
    except (psutil.Error, OSError):  # it has ended, or is somebody else's
        return False


def _close_mlflow(note: Note, project: Path) -> bool:
    """Say KILLED of its MLflow runs; False if MLflow could not be asked."""
    suspects = [*note.mlflow_runs, *_trainings(project)]
    try:
        if not suspects or not _may_run(suspects, project):
            return True
        from mlflow.exceptions import MlflowException

        client = connect(project)
        for run_id in suspects:
            with suppress(MlflowException):  # deleted since
                if client.get_run(run_id).info.status == "RUNNING":
                    client.set_terminated(run_id, "KILLED")
                    logger.info("MLflow run %s was killed and is closed as KILLED", run_id)
    except UserError as error:
        logger.warning("what %s left in MLflow stays open: %s", note, error)
        return False
    return True


def _trainings(project: Path) -> Iterable[str]:
    """The MLflow runs of trainings that are not finished and that no process holds."""
    for place in TRAININGS:
        for note in sorted((project / CACHE).glob(place)):
            if is_free(note.with_name("lock")):
                with suppress(OSError):
                    run_id = note.read_text(encoding="utf-8").strip()
                    outbox = outboxes.find(project, run_id)  # begun while MLflow's server was away
                    yield outbox.run_id if outbox is not None else run_id


def _may_run(run_ids: list[str], project: Path) -> bool:
    """A look into MLflow's file, where it is one: its client takes seconds to import."""
    uri = tracking_uri(project)
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


def _close_prefect(note: Note, own_api: str | None, project: Path) -> bool:
    """Say CRASHED of its Prefect runs; False if one of them could not be asked about."""
    closed = True
    for run_id, api in note.apis.items():
        try:
            url = api or own_api
            closed &= url is not None
            if url is not None and close_flow_run(url, run_id, f"{note} {note.fate}; call it again to go on"):
                name = note.names.get(run_id, run_id)
                logger.info("Prefect run %s %s and is closed as crashed", name, note.fate)
                hooks.tell_crash(project, name, run_id, f"{note} {note.fate}")
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
        run = ask(f"{url}/flow_runs/{run_id}")
        if run["state_type"] not in OPEN:
            return False
        ask(
            f"{url}/flow_runs/{run_id}/set_state",
            {"state": {"type": "CRASHED", "message": message}, "force": True},
        )
        return True
    except urllib.error.HTTPError as error:
        if error.code == 404:
            return False
        raise
