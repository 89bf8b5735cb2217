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
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imageset.atomic import sync_file, write_bytes
from imageset.errors import UserError
from imageset.words import count
from lightning_modules.tracking import TrackedRun, accepts, connect, experiment_id, send, tracking_uri

if TYPE_CHECKING:
    from mlflow import MlflowClient

FOLDER = Path(".cache") / "mlflow-outbox"
LOCAL = "local-"  # how the id of a run begins that the server does not know yet
LOCAL_TAG = "convoy.local_run"
RETRY_S = 30.0  # between two tries while a training runs
BRIEF = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "10", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}


class Away(UserError):
    """MLflow's server does not answer."""


class Gone(UserError):
    """MLflow's server does not have the run any more."""


class Outbox:
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
        return f"{LOCAL}{self.folder.name}"

    def is_of(self, run_id: str) -> bool:
        """True for either of the run's ids, and for the beginning of one."""
        return any(one.startswith(run_id) for one in (self.run_id, self.local_id))

    def name_run(self, run_id: str) -> None:
        write_bytes(self.folder / "run_id", run_id.encode())

    def put(self, entry: dict[str, Any], *paths: Path) -> None:
        """Append what is to be sent; files and folders are copied first."""
        lines = self.lines()
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

    def lines(self) -> list[dict[str, Any]]:
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
        return len(self.lines()) - self.num_sent

    def send(self, client: "MlflowClient", project: Path) -> int:
        """Send what waits; returns how many lines that were.

        Raises:
            Away: the server went away meanwhile; what it has is noted.
            Gone: the run was deleted there.
        """
        with (self.folder / "sending").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # a training and `convoy sync` may both want to
            return self._send(client, project)

    def _send(self, client: "MlflowClient", project: Path) -> int:
        lines, first = self.lines(), self.num_sent
        for number in range(first, len(lines)):
            entry = lines[number]
            with telling_away(project), brief(entry["do"] not in ("artifact", "model")):
                if entry["do"] == "create":
                    self.name_run(create_run(client, project, entry, self.local_id))
                else:
                    send(client, self.run_id, entry, self.folder)
            write_bytes(self.folder / "sent", str(number + 1).encode())
            if "file" in entry:
                shutil.rmtree((self.folder / entry["file"]).parent, ignore_errors=True)
        return len(lines) - first


class PatientRun(TrackedRun):
    """A run on an MLflow server that may be away for a while.

    Args:
        project: whose server.
        outbox: what waits for it.
    """

    def __init__(self, project: Path, outbox: Outbox) -> None:
        self.project, self.outbox = project, outbox
        self.used = (outbox.folder / "used").open("w")
        fcntl.flock(self.used, fcntl.LOCK_SH)  # not to be tidied away
        self.tried_at = -RETRY_S  # by the monotonic clock
        self.away = False
        self.called: str | None = None
        self.strict = True  # what the server refuses is an error; later, training goes on whatever it says
        self.there: MlflowClient | None = None  # a client that got an answer the last time

    @classmethod
    def open(  # type: ignore[override]
        cls, project: Path, experiment: str, run_id: str | None, name: str, tags: Mapping[str, str]
    ) -> "PatientRun":
        """Go on with the run `run_id`, or begin a new one, whether the server is there or not."""
        from mlflow.tracking.context.registry import resolve_tags

        known = find(project, run_id) if run_id is not None else None
        if known is not None:
            run = cls(project, known)
            try:
                run.do({"do": "status", "status": "RUNNING"})
                return run
            except Gone:
                shutil.rmtree(known.folder)
        run = cls(project, Outbox(project / FOLDER / uuid.uuid4().hex))
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
        if self.called is None or self.called.startswith(LOCAL):
            self.called = self.outbox.run_id
        return self.called

    def do(self, entry: dict[str, Any], *paths: Path) -> None:
        """Write it down, then send it, unless the server was found away a moment ago."""
        self.outbox.put(entry, *paths)
        if not self.away or time.monotonic() - self.tried_at >= RETRY_S:
            self.try_to_send()

    def try_to_send(self) -> bool:
        """Send what waits; False if the server is away."""
        self.tried_at = time.monotonic()
        try:
            self.there = self.there or client_of(self.project)
            sent = self.outbox.send(self.there, self.project)
        except UserError as error:
            if self.strict and not isinstance(error, Away):
                raise
            if not self.away:
                print(f"mlflow: {error}; what is to be logged waits in {FOLDER}", flush=True)
            self.away, self.there = True, None
            return False
        if self.away:
            were = count(sent, "entry that waited was", "entries that waited were")
            print(f"mlflow: the server is back; {were} sent", flush=True)
        self.away = False
        return True

    def is_of(self, run_id: str | None) -> bool:
        return run_id is not None and self.outbox.is_of(run_id)

    def last_step(self, metric: str) -> int:
        """The last step at which `metric` was logged, sent or not."""
        logged = [one["step"] for one in self.outbox.lines() if metric in one.get("metrics", {})]
        return max(logged, default=-1)

    def close(self, status: str) -> None:
        """End the run; what waits is tried once more."""
        self.outbox.put({"do": "status", "status": status, "at": time.time_ns() // 1_000_000})
        self.leave()

    def leave(self) -> None:
        """The last try of this process."""
        sent = self.outbox.num_waiting == 0 or self.try_to_send()
        self.used.close()
        if sent:
            tidy(self.project)
        else:
            wait = count(self.outbox.num_waiting, "entry waits", "entries wait")
            print(f"mlflow: {wait} for MLflow; `convoy sync` sends them", flush=True)


def is_server(project: Path) -> bool:
    """True where MLflow is a server, not a file."""
    return tracking_uri(project).startswith("http")


def client_of(project: Path) -> "MlflowClient":
    """A client for a server that answers.

    Raises:
        Away: it does not.
    """
    uri = tracking_uri(project)
    if not accepts(uri):
        raise Away(f"MLflow at {uri} does not answer")
    with brief(True):
        try:
            return connect(project)
        except UserError as error:
            raise Away(f"MLflow at {uri} does not answer") from error


@contextmanager
def brief(wanted: bool) -> Iterator[None]:
    """In this block MLflow's client gives up on a server that accepts and says nothing, and soon."""
    before = {name: os.environ.get(name) for name in BRIEF}
    if wanted:
        os.environ.update(BRIEF)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def telling_away(project: Path) -> Iterator[None]:
    """What MLflow raises where its server is gone becomes Away, where the run is gone Gone."""
    import requests
    from mlflow.exceptions import MlflowException

    try:
        yield
    except (requests.RequestException, ConnectionError) as error:
        raise Away(f"MLflow at {tracking_uri(project)} does not answer") from error
    except MlflowException as error:
        reason = " ".join(str(error).split())[:200]
        if reason.startswith("API request to "):  # it never got there
            raise Away(f"MLflow at {tracking_uri(project)} does not answer") from error
        if error.get_http_status_code() in (408, 429) or error.get_http_status_code() >= 500:
            raise Away(f"MLflow at {tracking_uri(project)} does not answer ({reason})") from error
        if error.error_code == "RESOURCE_DOES_NOT_EXIST" or "must be in the 'active' state" in reason:
            raise Gone(f"MLflow has the run no more ({reason})") from error
        raise UserError(f"MLflow at {tracking_uri(project)} refuses what is to be logged ({reason})") from error


def create_run(client: "MlflowClient", project: Path, entry: Mapping[str, Any], local_id: str) -> str:
    """MLflow's id of a run that was begun here, which may be there already."""
    experiment = experiment_id(client, entry["experiment"], project)
    found = client.search_runs([experiment], f"tags.`{LOCAL_TAG}` = '{local_id}'")
    if found:
        return str(found[0].info.run_id)
    tags = {**entry["tags"], LOCAL_TAG: local_id}
    return str(client.create_run(experiment, entry["at"], tags, entry["name"]).info.run_id)


def outboxes(project: Path) -> list[Outbox]:
    """All there are, the oldest first."""
    journals = sorted((project / FOLDER).glob("*/journal.jsonl"), key=lambda path: path.stat().st_mtime)
    return [Outbox(path.parent) for path in journals]


def waiting(project: Path) -> dict[str, int]:
    """How many entries wait to be sent, by run; those of trainings that run, which send them themselves, too.
    Only looks: a journal that is being written to is left alone."""
    found: dict[str, int] = {}
    for one in outboxes(project):
        num = one.journal.read_bytes().count(b"\n") - one.num_sent
        found |= {one.run_id: num} if num > 0 else {}
    return found


def find(project: Path, run_id: str) -> Outbox | None:
    """The outbox of a run, if it has one."""
    return next((one for one in outboxes(project) if one.is_of(run_id)), None)


def outbox_of(project: Path, run_id: str) -> Outbox:
    """The outbox of a run that was begun earlier, a new one if need be."""
    known = find(project, run_id)
    if known is None:
        local = run_id.startswith(LOCAL)
        known = Outbox(project / FOLDER / (run_id.removeprefix(LOCAL) if local else uuid.uuid4().hex))
        if local:
            with suppress(Away):
                known.name_run(sent_as(client_of(project), run_id))
        else:
            known.name_run(run_id)
    return known


def check_sent(project: Path, run_id: str) -> None:
    """Raise UserError if something of this run waits to be sent."""
    known = find(project, run_id) if len(run_id) >= 4 else None
    if known is not None and known.num_waiting:
        wait = count(known.num_waiting, "entry of it waits", "entries of it wait")
        raise UserError(f"run {run_id}: {wait} for MLflow; `convoy sync` first")


def sent_as(client: "MlflowClient", local_id: str) -> str:
    """MLflow's id of a run that was begun while the server was away.

    Raises:
        UserError: it was never sent.
    """
    everywhere = [one.experiment_id for one in client.search_experiments()]
    found = client.search_runs(everywhere, f"tags.`{LOCAL_TAG}` LIKE '{local_id}%'")
    if not found:
        raise UserError(
            f"run {local_id} was never sent to this MLflow; `convoy sync` in the project that trained it"
        )
    return str(found[0].info.run_id)


def sync(project: Path) -> str:
    """Send all that waits, and say what that was.

    Raises:
        Away: the server is still away.
    """
    waiting = [one for one in outboxes(project) if one.num_waiting]
    if not waiting:
        tidy(project)
        return "sync: nothing waits"
    if not is_server(project):
        wait = count(sum(one.num_waiting for one in waiting), "entry waits", "entries wait")
        raise UserError(f"{wait} for a server of MLflow and none is named; set MLFLOW_TRACKING_URI")
    said = []
    client = client_of(project)
    for one in waiting:
        try:
            sent = one.send(client, project)
            said.append(f"sync: run {one.run_id}: {count(sent, 'entry', 'entries')} sent")
        except Away:
            raise
        except Gone:
            dropped = count(one.num_waiting, "entry is", "entries are")
            said.append(f"sync: run {one.run_id} was deleted in MLflow; {dropped} dropped")
            shutil.rmtree(one.folder)
        except UserError as error:
            said.append(f"sync: run {one.run_id}: {error}")
    tidy(project)
    return "\n".join(said)


def tidy(project: Path) -> None:
    """Remove what is sent and whose training does not go on."""
    going_on = [path.read_text() for path in (project / ".cache" / "train").glob("*/run_id")]
    for one in outboxes(project):
        if one.num_waiting or any(one.is_of(run_id) for run_id in going_on):
            continue
        with (one.folder / "used").open("w") as used:
            try:
                fcntl.flock(used, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            shutil.rmtree(one.folder)
