"""Where flows report to: the server of `convoy up` if one runs, else a temporary one for this command alone.

Prefect would start its temporary server by itself; ours differs in four ways: it keeps its database in the
project, says what it is doing, is not hit by the terminal's Ctrl-C (the run's last state still gets through),
and does not outlive us.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flows.notifications import console
from flows.orchestration import subprocesses
from flows.orchestration.prefect_api import (
    API_VARIABLE,
    HOST,
    ServerAddresses,
    check_prefect_server,
    is_healthy,
    translate_prefect_errors,
)
from flows.project.paths import CACHE
from imageset.exceptions import UserError

logger = console.get_logger(__name__)
CLIENT_RETRIES = (
    4  # of a request of Prefect's client: after 2, 4, 8 and 16 s; a server may be started again meanwhile
)
START_TIMEOUT_S = 180.0  # a first start migrates an empty database: 20 s on two idle cores


def build_prefect_settings(project: Path) -> dict[str, str]:
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
        "PREFECT_CLIENT_MAX_RETRIES": str(CLIENT_RETRIES),
        "PREFECT_LOGGING_INTERNAL_LEVEL": "CRITICAL",  # events that could not be sent, a screen full each
    }
    return {name: os.environ.get(name, value) for name, value in ours.items()}


@contextmanager
def use_prefect_server(project: Path) -> Iterator[None]:
    """Inside this block flows of this process report to a server that answers. To be entered before Prefect is
    imported: its settings are read then.

    Raises:
        UserError: PREFECT_API_URL names a server that does not answer, or the temporary one does not start.
    """
    os.environ.update(build_prefect_settings(project))
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")  # the person reads our lines
    from prefect.settings import PREFECT_API_URL, temporary_settings

    chosen = PREFECT_API_URL.value()
    if chosen:
        _export_profile_login()
        check_prefect_server(chosen)
        with translate_prefect_errors(chosen):
            yield
        return
    up = ServerAddresses.load(project)
    if up is not None and is_healthy(f"{up.prefect}/api/health"):
        api = f"{up.prefect}/api"
        with (
            temporary_settings({PREFECT_API_URL: api}),
            _use_project_server(api, project),
            translate_prefect_errors(api),
        ):
            yield
        return
    with _run_temporary_server(project) as url:
        _temporary_urls.append(url)
        try:
            with temporary_settings({PREFECT_API_URL: f"{url}/api"}), _use_project_server(f"{url}/api", project):
                yield
        finally:
            _temporary_urls.remove(url)


def _export_profile_login() -> None:
    """A login that stands in Prefect's profile counts for what asks without Prefect, too."""
    from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_KEY

    for setting in (PREFECT_API_KEY, PREFECT_API_AUTH_STRING):
        if value := setting.value():
            os.environ.setdefault(setting.name, str(value))


_temporary_urls: list[str] = []  # addresses of servers that this process has to itself


def is_server_temporary() -> bool:
    """Whether flows of this process report to a server that nobody else uses."""
    return bool(_temporary_urls)


@contextmanager
def _use_project_server(url: str, project: Path) -> Iterator[None]:
    """A server on the project's own database is there: what was killed while one was there can be closed now."""
    from flows.orchestration.crash_recovery import close_dead_processes

    before = os.environ.get(API_VARIABLE)
    os.environ[API_VARIABLE] = url
    try:
        close_dead_processes(project, project_api=url)
        yield
    finally:
        os.environ.pop(API_VARIABLE)
        if before is not None:
            os.environ[API_VARIABLE] = before


@contextmanager
def _run_temporary_server(project: Path) -> Iterator[str]:
    import prefect

    logger.info("starting Prefect's temporary server (about 10 s, 20 s the first time; none with `convoy up`)")
    port = find_free_port()
    command = [
        sys.executable, "-m", "uvicorn", "--app-dir", str(prefect.__module_path__.parent),
        "--factory", "prefect.server.api.server:create_app",
        "--host", HOST, "--port", str(port), "--log-level", "error", "--lifespan", "on",
    ]  # fmt: skip
    quiet = {"PREFECT_UI_ENABLED": "0", "PREFECT__SERVER_EPHEMERAL": "1", "PREFECT__SERVER_FINAL": "1"}
    log_path = project / CACHE / "prefect-server.log"
    log_path.parent.mkdir(parents=True, exist_ok=True)
    with log_path.open("wb") as log:
        child = subprocesses.start_process(
            command, log=log, cwd=project, env=subprocesses.build_environment(**quiet)
        )
        url = f"http://{HOST}:{port}"
        try:
            if not wait_until_healthy(child, f"{url}/api/health"):
                raise UserError(f"Prefect's temporary server does not start; see {log_path}")
            yield url
        finally:
            _flush_logs_and_events()
            subprocesses.stop_process(child)


def _flush_logs_and_events() -> None:
    """Prefect sends logs and events in the background; let it finish while the server is still there."""
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogHandler

    APILogHandler().flush()
    EventsWorker.drain_all(timeout=5)


def wait_until_healthy(child: subprocess.Popen[bytes], url: str, timeout_s: float = START_TIMEOUT_S) -> bool:
    """Wait until `url` answers; False if the process ends or the time is over before that."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline and child.poll() is None:
        if is_healthy(url):
            return True
        time.sleep(0.1)
    return False


def find_free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on right now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def is_port_free(port: int) -> bool:
    """True if a server could listen on this port of 127.0.0.1."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True
