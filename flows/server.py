"""Where flows report to: the server of `convoy up` if one runs, else a temporary one for this command alone.

Prefect would start its temporary server by itself; ours differs in four ways: it keeps its database in the
project, says what it is doing, is not hit by the terminal's Ctrl-C (the run's last state still gets through),
and does not outlive us.
"""

from __future__ import annotations

import base64
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from flows import console, processes
from flows.project import CACHE
from imageset.atomic import write_text
from imageset.errors import UserError

logger = console.get_logger(__name__)

HOST = "127.0.0.1"
UP = CACHE / "up.json"  # written by `convoy up` while it runs
OWN_API = "CONVOY_API"  # in the environment of what `convoy up` starts: the address of its Prefect server
TIMEOUT_S = 5.0  # for an answer
RETRIES = 4  # of a request of Prefect's client: after 2, 4, 8 and 16 s; a server may be started again meanwhile
PATIENCE_S = 10.0  # for a server that does not answer yet
REFUSALS = {
    401: "wants a login: set PREFECT_API_AUTH_STRING to its PREFECT_SERVER_API_AUTH_STRING",
    403: "refuses this login: see PREFECT_API_AUTH_STRING or PREFECT_API_KEY",
    404: "is not Prefect's API: PREFECT_API_URL ends in /api",
}
START_TIMEOUT_S = 180.0  # a first start migrates an empty database: 20 s on two idle cores


@dataclass(frozen=True)
class Addresses:
    """What `convoy up` serves, and its process."""

    pid: int
    mlflow: str
    prefect: str  # without /api

    def save(self, project: Path) -> None:
        write_text(project / UP, json.dumps(asdict(self), indent=2) + "\n")

    @classmethod
    def read(cls, project: Path) -> Addresses | None:
        """The addresses of a `convoy up` that is alive, or None."""
        try:
            found = cls(**json.loads((project / UP).read_text(encoding="utf-8")))
            os.kill(found.pid, 0)
        except (OSError, TypeError, ValueError):
            return None
        return found


def settings(project: Path) -> dict[str, str]:
    """Environment for everything of Prefect that we start: its database in the project, our log in its log,
    nothing sent anywhere. What the user has set stands."""
    database = (project / CACHE / "prefect.db").resolve()
    ours = {
        "DO_NOT_TRACK": "1",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{database}",
        "PREFECT_LOGGING_EXTRA_LOGGERS": "flows",
        "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
        "PREFECT_CLI_PROMPT": "false",
        "PREFECT_CLIENT_MAX_RETRIES": str(RETRIES),
        "PREFECT_LOGGING_INTERNAL_LEVEL": "CRITICAL",  # events that could not be sent, a screen full each
    }
    return {name: os.environ.get(name, value) for name, value in ours.items()}


@contextmanager
def prefect_api(project: Path) -> Iterator[None]:
    """Inside this block flows of this process report to a server that answers. To be entered before Prefect is
    imported: its settings are read then.

    Raises:
        UserError: PREFECT_API_URL names a server that does not answer, or the temporary one does not start.
    """
    os.environ.update(settings(project))
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")  # the person reads our lines
    from prefect.settings import PREFECT_API_URL, temporary_settings

    chosen = PREFECT_API_URL.value()
    if chosen:
        _take_login_from_profile()
        reach(chosen)
        with _telling_if_it_is_gone(chosen):
            yield
        return
    up = Addresses.read(project)
    if up is not None and answers(f"{up.prefect}/api/health"):
        api = f"{up.prefect}/api"
        with temporary_settings({PREFECT_API_URL: api}), _own(api, project), _telling_if_it_is_gone(api):
            yield
        return
    with _temporary_server(project) as url:
        _temporary.append(url)
        try:
            with temporary_settings({PREFECT_API_URL: f"{url}/api"}), _own(f"{url}/api", project):
                yield
        finally:
            _temporary.remove(url)


def reach(api: str) -> None:
    """See that Prefect's server answers, and lets us in; one that is just being started again gets PATIENCE_S.

    Raises:
        UserError: it does not.
    """
    begin = time.monotonic()
    while True:
        try:
            ask(f"{api}/flows/filter", {"limit": 1})  # asks its database, too
            return
        except urllib.error.HTTPError as error:
            if error.code in REFUSALS:
                raise UserError(f"Prefect's server at {api} {REFUSALS[error.code]} ({error.code})") from None
            said = f"status {error.code}"
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", error)
            said = str(getattr(reason, "strerror", None) or reason)
        took = time.monotonic() - begin
        if took > PATIENCE_S:
            raise UserError(
                f"Prefect's server at {api} does not answer: {said} (tried for {took:.0f} s); start it, or unset "
                "PREFECT_API_URL"
            )
        time.sleep(1)


@contextmanager
def if_it_is_there(what: str) -> Iterator[None]:
    """What Prefect's server is told when something is done; where it is gone, that stays done all the same."""
    import httpx

    try:
        yield
    except httpx.TransportError as error:
        logger.warning("Prefect's server does not answer any more (%s): it is not told %s", _words(error), what)


@contextmanager
def _telling_if_it_is_gone(api: str) -> Iterator[None]:
    """Prefect's client tries for half a minute and raises; a person gets one line.

    Raises:
        UserError: the server was there and is gone.
    """
    import httpx

    begin = time.monotonic()
    try:
        yield
    except httpx.TransportError as error:
        raise UserError(
            f"Prefect's server at {api} does not answer any more: {_words(error)} (it did {_since(begin)} ago; "
            "each request was tried for half a minute). What the lines above call done is done; call the same "
            "again to go on, and to close the run that Prefect shows as running"
        ) from error
    finally:
        if not answers(f"{api}/health"):
            _lost.append(api)


_lost: list[str] = []  # addresses of servers that were there and are gone


def is_lost() -> bool:
    """Whether a server that flows of this process reported to is gone. Prefect would keep this process for
    minutes, trying to send each event that it has not sent yet."""
    return bool(_lost)


def _since(begin: float) -> str:
    return f"{time.monotonic() - begin:.0f} s"


def _words(error: Exception) -> str:
    return str(error).strip() or type(error).__name__


def _take_login_from_profile() -> None:
    """A login that stands in Prefect's profile counts for what asks without Prefect, too."""
    from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_KEY

    for setting in (PREFECT_API_KEY, PREFECT_API_AUTH_STRING):
        if value := setting.value():
            os.environ.setdefault(setting.name, str(value))


def is_own(url: str) -> bool:
    """Whether this is a Prefect server on the project's own database: a temporary one, or that of `convoy up`."""
    return os.environ.get(OWN_API) == url


_temporary: list[str] = []  # addresses of servers that this process has to itself


def is_temporary() -> bool:
    """Whether flows of this process report to a server that nobody else uses."""
    return bool(_temporary)


@contextmanager
def _own(url: str, project: Path) -> Iterator[None]:
    """A server on the project's own database is there: what was killed while one was there can be closed now."""
    from flows.recovery import recover

    before = os.environ.get(OWN_API)
    os.environ[OWN_API] = url
    try:
        recover(project, own_api=url)
        yield
    finally:
        os.environ.pop(OWN_API)
        if before is not None:
            os.environ[OWN_API] = before


@contextmanager
def _temporary_server(project: Path) -> Iterator[str]:
    import prefect

    logger.info("starting Prefect's temporary server (about 10 s, 20 s the first time; none with `convoy up`)")
    port = free_port()
    command = [
        sys.executable, "-m", "uvicorn", "--app-dir", str(prefect.__module_path__.parent),
        "--factory", "prefect.server.api.server:create_app",
        "--host", HOST, "--port", str(port), "--log-level", "error", "--lifespan", "on",
    ]  # fmt: skip
    quiet = {"PREFECT_UI_ENABLED": "0", "PREFECT__SERVER_EPHEMERAL": "1", "PREFECT__SERVER_FINAL": "1"}
    log_path = project / CACHE / "prefect-server.log"
    log_path.parent.mkdir(parents=True, exist_ok=True)
    with log_path.open("wb") as log:
        child = processes.start(command, log=log, cwd=project, env=processes.environment(**quiet))
        url = f"http://{HOST}:{port}"
        try:
            if not wait_until_healthy(child, f"{url}/api/health"):
                raise UserError(f"Prefect's temporary server does not start; see {log_path}")
            yield url
        finally:
            _send_what_is_left()
            processes.stop(child)


def _send_what_is_left() -> None:
    """Prefect sends logs and events in the background; let it finish while the server is still there."""
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogHandler

    APILogHandler().flush()
    EventsWorker.drain_all(timeout=5)


def wait_until_healthy(child: subprocess.Popen[bytes], url: str, timeout_s: float = START_TIMEOUT_S) -> bool:
    """Wait until `url` answers; False if the process ends or the time is over before that."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline and child.poll() is None:
        if answers(url):
            return True
        time.sleep(0.1)
    return False


def answers(url: str, timeout_s: float = 2.0) -> bool:
    """True if a GET of `url` gets status 200."""
    try:
        with urllib.request.urlopen(url, timeout=timeout_s) as response:
            return bool(response.status == 200)
    except (OSError, ValueError, urllib.error.URLError):
        return False


def ask(
    url: str, body: dict[str, Any] | None = None, method: str | None = None, timeout_s: float = TIMEOUT_S
) -> Any:
    """The answer of Prefect's server to a GET, or a POST of `body`. Prefect itself takes seconds to import.

    Raises:
        OSError: it does not answer, or answers with an error.
    """
    headers = {"Content-Type": "application/json", **_authorization()}
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, headers, method=method)
    with urllib.request.urlopen(request, timeout=timeout_s) as response:
        text = response.read()
        return json.loads(text) if text else None


def _authorization() -> dict[str, str]:
    if key := os.environ.get("PREFECT_API_KEY"):
        return {"Authorization": f"Bearer {key}"}
    if pair := os.environ.get("PREFECT_API_AUTH_STRING"):
        return {"Authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}
    return {}


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on right now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def is_free(port: int) -> bool:
    """True if a server could listen on this port of 127.0.0.1."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True
