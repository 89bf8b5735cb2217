"""Tracking URI, connection, experiment."""

import os
import re
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from imageset.exceptions import UserError
from imageset.utils.url_credentials import mask_url, redact

if TYPE_CHECKING:
    from mlflow import MlflowClient


MLFLOW_ENV_DEFAULTS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # by default a server that is away blocks for minutes
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "GIT_PYTHON_REFRESH": "quiet",
}
DEFAULT_PORTS = {"http": 80, "https": 443, "postgresql": 5432, "mysql": 3306, "mssql": 1433}
PROBE_TIMEOUT_S = 2.0  # what a server gets to accept a connection
CAUSE_PATTERN = re.compile(
    r"\[Errno -?\d+\] ([\w ]+)|(timed out|Connection refused)"
)  # at the end of a long story


def tracking_uri(project: Path) -> str:
    """`MLFLOW_TRACKING_URI`, else the SQLite file `mlflow.db` of the project as an absolute URI."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{project.resolve() / 'mlflow.db'}"


def connect_to_mlflow(project: Path) -> "MlflowClient":
    """A client for the project's MLflow store; the whole process then uses that store.

    Raises:
        UserError: the store cannot be opened or the server does not answer.
    """
    for name, value in MLFLOW_ENV_DEFAULTS.items():
        os.environ.setdefault(name, value)
    import logging

    import mlflow

    for noisy in ("alembic", "mlflow.store.db.utils", "mlflow.pyfunc", "mlflow.store.model_registry"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    uri, registry = tracking_uri(project), os.environ.get("MLFLOW_REGISTRY_URI")
    named = {name: os.environ.get(name) for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI")}
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(registry or uri)
    for variable, before in named.items():
        if before is None:  # MLflow has just set it; the next project in this process has a store of its own
            os.environ.pop(variable, None)
    begin = time.monotonic()
    try:
        probe_server(uri)  # MLflow itself would try a database for minutes
        client = mlflow.MlflowClient()
        client.search_experiments(max_results=1)
    except Exception as error:
        raise UserError(
            f"MLflow at {mask_url(uri)} {describe_mlflow_error(error)} (tried for {time.monotonic() - begin:.0f} s); "
            "start it, or set MLFLOW_TRACKING_URI to another"
        ) from error
    return client


def describe_mlflow_error(error: Exception) -> str:
    """That MLflow's server does not answer or refuses, in words, without a password."""
    said = redact(" ".join(str(error).split()))
    if re.search(r"\b401\b|Unauthenticated|not authenticated", said):
        return "wants a login: set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
    if re.search(r"error code 403|Permission denied$", said):
        return f"refuses this login ({said[:200]})"
    cause = CAUSE_PATTERN.search(said)
    return f"does not answer: {(cause[1] or cause[2]).strip() if cause else said[:200]}"


def probe_server(uri: str) -> None:
    """See that somebody accepts connections at the host of a URI. Of a file, a scheme that is not known, and
    behind a proxy, that cannot be said.

    Raises:
        OSError: nobody does.
    """
    parts = urlsplit(uri)
    scheme = parts.scheme.partition("+")[0]
    proxies = ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy")
    if scheme in DEFAULT_PORTS and not (
        scheme.startswith("http") and any(os.environ.get(name) for name in proxies)
    ):
        place = parts.hostname or "", parts.port or DEFAULT_PORTS[scheme]
        socket.create_connection(place, timeout=PROBE_TIMEOUT_S).close()


def is_reachable(uri: str) -> bool:
    """False if nobody accepts connections there, see `probe_server`."""
    try:
        probe_server(uri)
    except (OSError, ValueError):
        return False
    return True


def is_tracking_shared() -> bool:
    """Whether other projects and machines may use the same MLflow: its address is set."""
    return any(os.environ.get(name) for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"))


def ensure_experiment(client: "MlflowClient", name: str, project: Path) -> str:
    """The experiment of that name; a new one in a local store keeps its artifacts in `mlartifacts/`.

    Raises:
        UserError: an experiment of that name was deleted.
    """
    found = client.get_experiment_by_name(name)
    if found is not None:
        if found.lifecycle_stage != "active":
            raise UserError(
                f"MLflow's experiment {name!r} is deleted; "
                f"restore it with `mlflow experiments restore -x {found.experiment_id}`"
            )
        return str(found.experiment_id)
    local = tracking_uri(project).startswith("sqlite:")
    location = (project.resolve() / "mlartifacts" / name).as_uri() if local else None
    kind = {"mlflow.experimentKind": "custom_model_development"}  # the UI then opens on runs, not on traces
    return str(client.create_experiment(name, artifact_location=location, tags=kind))
