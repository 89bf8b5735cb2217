"""The Prefect server that flows report to: that of `convoy up` if it runs, else a temporary one for this command.

Prefect can start a temporary server itself. This one differs in four ways: it keeps its database in the project,
logs its start, is not stopped by Ctrl-C in the terminal (so the last state of the run is still received), and does
not outlive the command.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from flows.notifications import console
from flows.orchestration import local_databases, subprocesses
from flows.orchestration.prefect_api import (
    API_VARIABLE,
    HOST,
    ServerAddresses,
    check_prefect_server,
    format_project_tag,
    is_healthy,
    translate_prefect_errors,
)
from flows.project.paths import CACHE
from flows.project.project import Project
from imageset.exceptions import UserError

logger = console.get_logger(__name__)

CLIENT_RETRIES = 4  # of a request of Prefect's client, after 2, 4, 8 and 16 s: a server may be restarting
START_TIMEOUT_S = 180.0  # a first start migrates an empty database: 20 s on two idle cores


def build_prefect_settings(project: Project) -> dict[str, str]:
    """Build the environment of Prefect's processes; variables that the user has set are kept.

    The database is shared by all projects of a repository, the `flows` logger is part of a run's log, and no
    telemetry is sent.
    """
    database = local_databases.find_prefect_database(project)
    settings = {
        "DO_NOT_TRACK": "1",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{database}",
        "PREFECT_LOGGING_EXTRA_LOGGERS": "flows",
        "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
        "PREFECT_CLI_PROMPT": "false",
        "PREFECT_CLIENT_MAX_RETRIES": str(CLIENT_RETRIES),
        "PREFECT_LOGGING_INTERNAL_LEVEL": "CRITICAL",  # unsent events would fill the screen
    }
    return {name: os.environ.get(name, value) for name, value in settings.items()}


@contextmanager
def use_prefect_server(project: Project) -> Iterator[None]:
    """Let the flows of this process report to a server that answers; their runs get the project's name as a tag.

    Enter the block before Prefect is imported, which reads its settings then.

    Raises:
        UserError: PREFECT_API_URL names a server that does not answer, or the temporary server does not start.
    """
    os.environ.update(build_prefect_settings(project))
    os.environ.setdefault(
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL"
    )  # the console shows the `flows` logger
    from prefect import tags

    with _choose_server(project), tags(format_project_tag(project.read_name())):
        yield


@contextmanager
def _choose_server(project: Project) -> Iterator[None]:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    chosen = PREFECT_API_URL.value()
    if chosen:
        _export_profile_login()
        check_prefect_server(chosen)
        with translate_prefect_errors(chosen):
            yield
        return
    addresses = ServerAddresses.load(project)
    if addresses is not None and is_healthy(f"{addresses.prefect}/api/health"):
        api = f"{addresses.prefect}/api"
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
    """Copy a login from Prefect's profile to the environment, for requests that do not use Prefect's client."""
    from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_KEY

    for setting in (PREFECT_API_KEY, PREFECT_API_AUTH_STRING):
        if value := setting.value():
            os.environ.setdefault(setting.name, str(value))


_temporary_urls: list[str] = []  # addresses of servers that only this process uses


def is_server_temporary() -> bool:
    """Return whether the flows of this process report to a server that no other process uses."""
    return bool(_temporary_urls)


@contextmanager
def _use_project_server(url: str, project: Project) -> Iterator[None]:
    """Announce a server on the project's own database, and close runs of that database whose process died."""
    from flows.orchestration.crash_recovery import close_dead_processes

    previous = os.environ.get(API_VARIABLE)
    os.environ[API_VARIABLE] = url
    try:
        close_dead_processes(project, project_api=url)
        yield
    finally:
        os.environ.pop(API_VARIABLE)
        if previous is not None:
            os.environ[API_VARIABLE] = previous


@contextmanager
def _run_temporary_server(project: Project) -> Iterator[str]:
    import prefect

    logger.info("starting Prefect's temporary server (about 10 s, 20 s the first time; none with `convoy up`)")
    port = find_free_port()
    command = [
        sys.executable, "-P", "-m", "uvicorn", "--app-dir", str(prefect.__module_path__.parent),
        "--factory", "prefect.server.api.server:create_app",
        "--host", HOST, "--port", str(port), "--log-level", "error", "--lifespan", "on",
    ]  # fmt: skip
    quiet = {"PREFECT_UI_ENABLED": "0", "PREFECT__SERVER_EPHEMERAL": "1", "PREFECT__SERVER_FINAL": "1"}
    log_path = project / CACHE / "prefect-server.log"
    for folder in (log_path.parent, local_databases.find_prefect_database(project).parent):
        folder.mkdir(parents=True, exist_ok=True)
    with log_path.open("wb") as log:
        child = subprocesses.start_process(
            command, log=log, cwd=project.folder, env=subprocesses.build_environment(**quiet)
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
    """Wait until Prefect has sent its logs and events, which it does in the background."""
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogHandler

    APILogHandler().flush()
    EventsWorker.drain_all(timeout=5)


def wait_until_healthy(child: subprocess.Popen[bytes], url: str, timeout_s: float = START_TIMEOUT_S) -> bool:
    """Wait until `url` answers; return False if the process ends or the time is over before that."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline and child.poll() is None:
        if is_healthy(url):
            return True
        time.sleep(0.1)
    return False


def find_free_port() -> int:
    """Return a port of 127.0.0.1 that is free at the moment."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def is_port_free(port: int) -> bool:
    """Return whether a server can listen on this port of 127.0.0.1."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True
