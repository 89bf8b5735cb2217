"""Talk to a Prefect server: its address, its health, and requests to its REST API."""

from __future__ import annotations

import base64
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from flows.notifications import console
from flows.project.paths import CACHE
from flows.project.project import Project
from imageset.exceptions import UserError
from imageset.utils.atomic_write import write_text
from lightning_modules.tracking.local_store.location import find_shared_folder

logger = console.get_logger(__name__)

HOST = "127.0.0.1"
ADDRESSES_FILE = CACHE / "up.json"  # written by `convoy up` while it runs
API_VARIABLE = "CONVOY_API"  # in the environment of all that `convoy up` starts: the address of its Prefect server
PROJECT_TAG_PREFIX = "project:"
TIMEOUT_S = 5.0  # for one answer
PATIENCE_S = 10.0  # for a server that is just starting
REFUSALS = {
    401: "wants a login: set PREFECT_API_AUTH_STRING to its PREFECT_SERVER_API_AUTH_STRING",
    403: "refuses this login: see PREFECT_API_AUTH_STRING or PREFECT_API_KEY",
    404: "is not Prefect's API: PREFECT_API_URL ends in /api",
}


def format_project_tag(name: str) -> str:
    """Return the tag by which the flow runs of a project are found in a database that several projects share.

    `convoy init` writes the same one into prefect.yaml.
    """
    return f"{PROJECT_TAG_PREFIX}{name}"


def find_addresses_file(project: Project) -> Path:
    """Return the file with the addresses of `convoy up`, which serves all projects that share its stores."""
    return find_shared_folder(project.folder) / ADDRESSES_FILE


@dataclass(frozen=True)
class ServerAddresses:
    """The process of `convoy up` and the addresses of its servers.

    Attributes:
        pid: process id.
        mlflow: address of MLflow.
        prefect: address of Prefect's server, without /api.
        folder: that of the stores when they were started; servers of another folder are not used.
    """

    pid: int
    mlflow: str
    prefect: str
    folder: str = ""  # an earlier Convoy did not write it

    def save(self, project: Project) -> None:
        """Write the addresses beside the stores of the servers."""
        here = replace(self, folder=str(find_shared_folder(project.folder)))
        write_text(find_addresses_file(project), json.dumps(asdict(here), indent=2) + "\n")

    @classmethod
    def load(cls, project: Project) -> ServerAddresses | None:
        """Return the addresses of a `convoy up` that is alive, or None.

        In a copy of a project, and after a move, they are those of the original, which writes to its own folder.
        """
        try:
            addresses = cls(**json.loads(find_addresses_file(project).read_text(encoding="utf-8")))
            os.kill(addresses.pid, 0)
        except (OSError, TypeError, ValueError):
            return None
        is_here = addresses.folder in ("", str(find_shared_folder(project.folder)))
        return addresses if is_here else None


def check_prefect_server(api: str) -> None:
    """Verify that Prefect's server answers and accepts the login, within PATIENCE_S.

    Raises:
        UserError: it does not.
    """
    begin = time.monotonic()
    while True:
        try:
            call_prefect_api(f"{api}/flows/filter", {"limit": 1})  # needs its database, too
            return
        except urllib.error.HTTPError as error:
            if error.code in REFUSALS:
                raise UserError(f"Prefect's server at {api} {REFUSALS[error.code]} ({error.code})") from None
            message = f"status {error.code}"
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", error)
            message = str(getattr(reason, "strerror", None) or reason)
        elapsed_s = time.monotonic() - begin
        if elapsed_s > PATIENCE_S:
            raise UserError(
                f"Prefect's server at {api} does not answer: {message} (tried for {elapsed_s:.0f} s); "
                "start it, or unset PREFECT_API_URL"
            )
        time.sleep(1)


@contextmanager
def tolerate_lost_server(report: str) -> Iterator[None]:
    """Log a warning instead of an error if Prefect's server is gone when finished work is reported.

    Args:
        report: a noun phrase for what the server does not receive.
    """
    import httpx

    try:
        yield
    except httpx.TransportError as error:
        logger.warning(
            "Prefect's server no longer answers (%s); it does not receive %s", _format_error(error), report
        )


@contextmanager
def translate_prefect_errors(api: str) -> Iterator[None]:
    """Turn the error that Prefect's client raises after half a minute of retries into one line.

    Raises:
        UserError: the server answered before and is gone.
    """
    import httpx

    begin = time.monotonic()
    try:
        yield
    except httpx.TransportError as error:
        raise UserError(
            f"Prefect's server at {api} no longer answers: {_format_error(error)} "
            f"(it did {_format_elapsed(begin)} ago; each request was tried for half a minute). Finished steps are "
            "kept; run the command again to resume, and to close the run that Prefect shows as running"
        ) from error
    finally:
        if not is_healthy(f"{api}/health"):
            _lost_servers.append(api)


_lost_servers: list[str] = []  # addresses of servers that answered before and are gone


def is_server_lost() -> bool:
    """Return whether a server that flows of this process reported to is gone.

    Prefect would keep the process for minutes, retrying every event that is not sent yet.
    """
    return bool(_lost_servers)


def _format_elapsed(begin: float) -> str:
    return f"{time.monotonic() - begin:.0f} s"


def _format_error(error: Exception) -> str:
    return str(error).strip() or type(error).__name__


def is_project_server(url: str) -> bool:
    """Return whether a Prefect server uses the project's own database: a temporary one, or that of `convoy up`."""
    return os.environ.get(API_VARIABLE) == url


def is_healthy(url: str, timeout_s: float = 2.0) -> bool:
    """Return whether a GET of `url` is answered with status 200."""
    try:
        with urllib.request.urlopen(url, timeout=timeout_s) as response:
            return bool(response.status == 200)
    except (OSError, ValueError, urllib.error.URLError):
        return False


def call_prefect_api(
    url: str, body: dict[str, Any] | None = None, method: str | None = None, timeout_s: float = TIMEOUT_S
) -> Any:
    """Call the REST API of a Prefect server without importing Prefect, which takes seconds.

    Args:
        url: the whole address.
        body: sent as JSON by POST; None for a GET.
        method: another HTTP method.
        timeout_s: for the answer.

    Raises:
        OSError: the server does not answer, or answers with an error.
    """
    headers = {"Content-Type": "application/json", **_build_prefect_auth_headers()}
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, headers, method=method)
    with urllib.request.urlopen(request, timeout=timeout_s) as response:
        text = response.read()
        return json.loads(text) if text else None


def _build_prefect_auth_headers() -> dict[str, str]:
    if key := os.environ.get("PREFECT_API_KEY"):
        return {"Authorization": f"Bearer {key}"}
    if pair := os.environ.get("PREFECT_API_AUTH_STRING"):
        return {"Authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}
    return {}
