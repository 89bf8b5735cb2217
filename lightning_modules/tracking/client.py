"""Connect to MLflow: its tracking URI, a client, and the project's experiment."""

import errno
import os
import re
import shlex
import socket
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from imageset.exceptions import UserError
from imageset.system_errors import describe_system_error
from imageset.utils.url_credentials import mask_url, redact
from lightning_modules.tracking.local_store.location import (
    ARTIFACTS,
    DATABASE,
    SQLITE,
    find_shared_folder,
    get_database_path,
)
from lightning_modules.tracking.local_store.migration import LOG_LEVELS, prepare_database
from lightning_modules.tracking.local_store.relocation import relocate_store

if TYPE_CHECKING:
    from mlflow import MlflowClient


MLFLOW_ENV_DEFAULTS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # MLflow's own default blocks for minutes if the server is down
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "GIT_PYTHON_REFRESH": "quiet",
}
DEFAULT_PORTS = {"http": 80, "https": 443, "postgresql": 5432, "mysql": 3306, "mssql": 1433}
LOCK_TIMEOUT_S = 20.0  # while another process writes into the SQLite file
PROBE_TIMEOUT_S = 2.0  # time that a server gets to accept a connection
# The cause of a connection error; it stands at the end of a long chain of messages.
DELETED_RUN = re.compile(r"The run (\w+) must be in the 'active' state")  # of an error of MLflow
CAUSE_PATTERN = re.compile(r"\[Errno -?\d+\] ([\w ]+)|(timed out|Connection refused)")


def get_tracking_uri(project: Path) -> str:
    """Return `MLFLOW_TRACKING_URI`, else the absolute URI of the SQLite file in `find_shared_folder`."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"{SQLITE}{find_shared_folder(project) / DATABASE}"


def connect_to_mlflow(project: Path) -> "MlflowClient":
    """Return a client of the project's MLflow store; the whole process uses that store from then on.

    Raises:
        UserError: the store cannot be opened, or the server does not answer.
    """
    for name, value in MLFLOW_ENV_DEFAULTS.items():
        os.environ.setdefault(name, value)
    import logging

    import mlflow

    for logger_name, level in LOG_LEVELS.items():
        logging.getLogger(logger_name).setLevel(level)
    uri, registry = get_tracking_uri(project), os.environ.get("MLFLOW_REGISTRY_URI")
    variables = {name: os.environ.get(name) for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI")}
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(registry or uri)
    for name, before in variables.items():
        if before is None:  # MLflow has just set it; the next project in this process has a store of its own
            os.environ.pop(name, None)
    for path in dict.fromkeys((get_database_path(uri), get_database_path(registry or uri))):
        if path is not None:
            prepare_database(path)
    database = find_shared_folder(project) / DATABASE
    if get_database_path(uri) == database:
        relocate_store(database.parent)
    begin = time.monotonic()
    try:
        probe_server(uri)  # MLflow itself would try a database for minutes
        _probe_database(uri)
        client = mlflow.MlflowClient()
        client.search_experiments(max_results=1)
    except Exception as error:
        if (folder := find_store_folder(uri)) is not None:
            raise UserError(describe_store_folder(folder)) from error
        if (line := describe_system_error(error)) is not None:
            raise UserError(line) from error
        tried_s = time.monotonic() - begin
        raise UserError(
            f"MLflow at {mask_url(uri)} {describe_mlflow_error(error)} (tried for {tried_s:.0f} s); "
            "start it, or set MLFLOW_TRACKING_URI to another"
        ) from error
    return client


def find_store_folder(uri: str) -> Path | None:
    """Return the folder that a tracking URI names as MLflow's store, as file:///PATH or PATH do; else None."""
    if uri.startswith("file:"):
        return Path(unquote(urlsplit(uri).path)).absolute()
    return None if re.match(r"\w[\w+.-]*:", uri) or uri == "databricks" else Path(uri).absolute()


def describe_store_folder(folder: Path) -> str:
    """Describe how to go on where MLFLOW_TRACKING_URI names a folder, which MLflow 3 refuses as a store."""
    database = f"{SQLITE}{folder.parent / folder.name}.db"
    copy = shlex.join(["mlflow", "migrate-filestore", "--source", str(folder), "--target", database])
    return (
        f"MLFLOW_TRACKING_URI is the folder {folder}, and MLflow 3 takes none as its store; unset it, and the "
        f"project has a store of its own, or copy the folder: `{copy}`, then set it to {database}"
    )


def format_mlflow_command(uri: str, *arguments: str) -> str:
    """Return a command of MLflow for the user's shell, with the address of the store unless the shell has it."""
    variable = "" if os.environ.get("MLFLOW_TRACKING_URI") else f"MLFLOW_TRACKING_URI={shlex.quote(uri)} "
    return variable + shlex.join(["mlflow", *arguments])


def describe_deleted_run(run_id: str, uri: str) -> str:
    """Describe how to go on where somebody deleted a run, for example in MLflow's UI."""
    command = format_mlflow_command(uri, "runs", "restore", "--run-id", run_id)
    return f"MLflow's run {run_id} was deleted; restore it with `{command}`, or train again: `dvc repro -f train`"


def describe_mlflow_error(error: Exception) -> str:
    """Describe why the MLflow server does not answer or rejects the request, without passwords."""
    message = redact(" ".join(str(error).split()))
    if re.search(r"\b401\b|Unauthenticated|not authenticated", message):
        return "wants a login: set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
    if re.search(r"error code 403|Permission denied$", message):
        return f"refuses this login ({message[:200]})"
    cause = CAUSE_PATTERN.search(message)
    return f"does not answer: {(cause[1] or cause[2]).strip() if cause else message[:200]}"


def probe_server(uri: str) -> None:
    """Open a TCP connection to the host of a tracking URI.

    Files, unknown schemes and servers behind a proxy cannot be tested this way; they are skipped.

    Raises:
        OSError: the connection is refused or times out.
    """
    url = urlsplit(uri)
    scheme = url.scheme.partition("+")[0]
    proxies = ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy")
    if scheme in DEFAULT_PORTS and not (
        scheme.startswith("http") and any(os.environ.get(name) for name in proxies)
    ):
        address = url.hostname or "", url.port or DEFAULT_PORTS[scheme]
        socket.create_connection(address, timeout=PROBE_TIMEOUT_S).close()


def _probe_database(uri: str) -> None:
    """Read from the SQLite file of a tracking URI, if it is one and there is one.

    Raises:
        IsADirectoryError: it is a folder.
        sqlite3.Error: the file cannot be opened, or another process has locked it for longer than LOCK_TIMEOUT_S.
    """
    database = get_database_path(uri)
    if database is not None and database.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(database))
    if database is not None and database.exists():
        address = f"{database.absolute().as_uri()}?mode=ro"
        with closing(sqlite3.connect(address, uri=True, timeout=LOCK_TIMEOUT_S)) as connection:
            connection.execute("SELECT count(*) FROM sqlite_master")


def is_reachable(uri: str) -> bool:
    """Return False if the host of a tracking URI accepts no connection; see `probe_server`."""
    try:
        probe_server(uri)
    except (OSError, ValueError):
        return False
    return True


def is_tracking_shared() -> bool:
    """Return whether other projects and machines may use the same MLflow, because its address is set."""
    return any(os.environ.get(name) for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"))


def ensure_experiment(client: "MlflowClient", name: str, project: Path) -> str:
    """Return the id of the experiment `name`, and create it if it is missing.

    A new experiment in a local store keeps its artifacts in `mlartifacts/`, beside the SQLite file.

    Raises:
        UserError: an experiment of that name was deleted.
    """
    experiment = client.get_experiment_by_name(name)
    if experiment is not None:
        if experiment.lifecycle_stage != "active":
            command = format_mlflow_command(
                get_tracking_uri(project), "experiments", "restore", "-x", str(experiment.experiment_id)
            )
            raise UserError(f"MLflow's experiment {name!r} is deleted; restore it with `{command}`")
        return str(experiment.experiment_id)
    database = get_database_path(get_tracking_uri(project))
    location = (database.parent / ARTIFACTS / name).as_uri() if database is not None else None
    kind = {"mlflow.experimentKind": "custom_model_development"}  # the UI then opens on runs, not on traces
    return str(client.create_experiment(name, artifact_location=location, tags=kind))
