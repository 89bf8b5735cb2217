"""`convoy up`: MLflow's UI, Prefect's server, the deployments and a worker on this machine, until Ctrl-C."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from flows.notifications import console
from flows.orchestration import concurrency, crash_recovery, prefect_api, prefect_server, subprocesses
from flows.orchestration.prefect_api import HOST, ServerAddresses, call_prefect_api, is_healthy
from flows.orchestration.prefect_server import is_port_free
from flows.project.exceptions import ProjectBusy
from flows.project.paths import CACHE
from flows.project.project import Project
from imageset.exceptions import UserError
from lightning_modules.tracking.local_store.location import ARTIFACTS, DATABASE, SQLITE, find_shared_folder
from lightning_modules.tracking.local_store.migration import prepare_database
from lightning_modules.tracking.local_store.relocation import relocate_store

logger = console.get_logger(__name__)

WORK_POOL = "convoy"
LOCKING_FLOWS = ("pipeline", "ingest", "train", "promote")  # flows that run while `lock.project_lock` is held
START_TIMEOUT_S = 180.0
RECOVERY_INTERVAL_S = 15.0  # between two searches for runs whose process died


def find_last_line(output: str) -> str:
    """Return the last line of a program's output that has text, without the frame that Prefect draws around it."""
    lines = (line.strip(" \t│╭╮╰╯─") for line in reversed(output.splitlines()))
    return next((line for line in lines if line), "no output")


@dataclass(frozen=True)
class ChildServer:
    """One server process, and the file that its output goes to."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    def raise_if_dead(self) -> None:
        """Raise UserError with the last line of its log if the process has ended."""
        status = self.process.poll()
        if status is not None:
            last = find_last_line(self.log.read_text(errors="replace"))
            raise UserError(f"{self.name} ended with status {status}: {last}; its output is in {self.log}")


class ServerGroup:
    """All servers of `convoy up`: started one by one, stopped together with every process that they started."""

    def __init__(self, folder: Path, env: Mapping[str, str]) -> None:
        self.folder, self.env = folder, dict(env)
        self.logs = folder / CACHE / "up"
        self.children: list[ChildServer] = []

    def start(self, name: str, *command: str) -> None:
        """Start a server with its output in .cache/up/NAME.log."""
        self.logs.mkdir(parents=True, exist_ok=True)
        path = self.logs / f"{name}.log"
        with path.open("wb") as log:
            process = subprocesses.start_process(command, log=log, cwd=self.folder, env=self.env)
        self.children.append(ChildServer(name, process, path))

    def wait_until_ready(self, name: str, ready: Callable[[], bool]) -> None:
        """Wait until `ready` returns True.

        Args:
            name: the server, as messages call it.
            ready: called several times a second.

        Raises:
            UserError: a server process ended, or START_TIMEOUT_S passed.
        """
        begin = last_logged = time.monotonic()
        while not ready():
            self.raise_if_dead()
            now = time.monotonic()
            if now - begin > START_TIMEOUT_S:
                raise UserError(f"{name} is not ready after {START_TIMEOUT_S:.0f} s; see {self.logs}")
            if now - last_logged > 5:
                logger.info("up: waiting for %s (%.0f s)", name, now - begin)
                last_logged = now
            time.sleep(0.2)
        logger.info("up: %s is ready", name)

    def raise_if_dead(self) -> None:
        """Raise UserError if a server process has ended."""
        for child in self.children:
            child.raise_if_dead()

    def stop(self) -> None:
        """Stop all servers, the last one first: running flows can still report their end to Prefect's server."""
        for child in reversed(self.children):
            subprocesses.stop_children(child.process)
            subprocesses.stop_process(child.process)


def run_servers(
    projects: Sequence[Project], mlflow_port: int, prefect_port: int, announce: Callable[[str], None]
) -> None:
    """Start all servers, announce their addresses, and watch them until a signal or the end of a server.

    Args:
        projects: they share one MLflow store and one database of Prefect, see `select_sharing_projects`.
        mlflow_port: of MLflow's server.
        prefect_port: of Prefect's server.
        announce: called once with the addresses.

    Raises:
        UserError: a port is taken, another `convoy up` runs here, two projects have a deployment of one name, or a
            server does not start, or ends.
    """
    first = projects[0]
    folder = find_shared_folder(first.folder)
    check_ports(first, {"--mlflow-port": mlflow_port, "--prefect-port": prefect_port})
    deployments = {project: list_deployments(project) for project in projects}
    check_deployment_names(deployments)
    addresses = ServerAddresses(os.getpid(), f"http://{HOST}:{mlflow_port}", f"http://{HOST}:{prefect_port}")
    api = f"{addresses.prefect}/api"
    fleet = ServerGroup(folder, build_server_environment(first, addresses))
    try:
        start_servers(fleet, addresses, mlflow_port, prefect_port)
        close_dead_processes(projects, api)
        close_dead_runs(projects, api)
        concurrency.ensure_limits(api, name_project_limits(projects))
        start_worker(fleet, addresses)
        for project in projects:
            apply_deployments(fleet, project)
        addresses.save(first)
        announce(format_welcome(deployments, addresses))
        watch_servers(projects, fleet, api)
    finally:
        logger.info("up: stopping")
        prefect_api.find_addresses_file(first).unlink(missing_ok=True)
        fleet.stop()
        logger.info("up: all stopped")


def select_sharing_projects(project: Project | None, others: Sequence[Project]) -> list[Project]:
    """Select the projects that `convoy up` serves together: those of a repository that share one store.

    Args:
        project: the project that the command was called in, or None at the top of a repository without one.
        others: all projects of the repository.
    """
    candidates = list(dict.fromkeys([*([project] if project else []), *others]))
    folder = find_shared_folder(candidates[0].folder)
    served = [each for each in candidates if find_shared_folder(each.folder) == folder]
    for each in candidates:
        if each not in served:
            logger.info("up: %s has a store of its own; serve it with `convoy -C %s up`", each, each)
    return served


def list_deployments(project: Project) -> list[str]:
    """List the deployments of a project's prefect.yaml as FLOW/NAME.

    Raises:
        UserError: the file is missing or is not YAML.
    """
    import yaml

    path = project / "prefect.yaml"
    try:
        entries = yaml.safe_load(path.read_text(encoding="utf-8"))["deployments"]
        return [
            f"{re.split('[.:]', entry['entrypoint'])[-1].replace('_', '-')}/{entry['name']}" for entry in entries
        ]
    except (OSError, yaml.YAMLError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not readable ({' '.join(str(error).split())}); `git checkout` it") from None


def check_deployment_names(deployments: Mapping[Project, Sequence[str]]) -> None:
    """Raise UserError if two projects have a deployment of one name: the second would replace the first."""
    owners: dict[str, Project] = {}
    for project, names in deployments.items():
        for name in names:
            if name in owners:
                raise UserError(
                    f"{project / 'prefect.yaml'}: the deployment {name} is in {owners[name]}, too; give it "
                    f"another name, e.g. {project.read_name()}-{name.rpartition('/')[2]}"
                )
            owners[name] = project


def close_dead_processes(projects: Sequence[Project], api: str) -> None:
    """Close the runs of processes that died, of all projects."""
    for project in projects:
        crash_recovery.close_dead_processes(project, project_api=api)


def watch_servers(projects: Sequence[Project], fleet: ServerGroup, api: str) -> None:
    """Watch the servers, and close runs whose process died: a run that stays Running delays all later ones."""
    last_recovery = time.monotonic()
    while True:
        fleet.raise_if_dead()
        if time.monotonic() - last_recovery > RECOVERY_INTERVAL_S:
            close_dead_processes(projects, api)
            last_recovery = time.monotonic()
        time.sleep(0.5)


def check_ports(project: Project, ports: dict[str, int]) -> None:
    """Raise UserError for a port that is taken or named twice, before anything is started."""
    running = ServerAddresses.load(project)
    if running is not None:
        raise UserError(
            f"`convoy up` already runs here (process {running.pid}): {running.mlflow} and {running.prefect}"
        )
    for option, port in ports.items():
        if not is_port_free(port):
            raise UserError(f"port {port} of {HOST} is taken; choose another: convoy up {option} PORT")
    if len(set(ports.values())) < len(ports):
        raise UserError(f"{' and '.join(ports)} must differ")


def build_server_environment(project: Project, addresses: ServerAddresses) -> dict[str, str]:
    """Build the environment of the servers, of the worker, and of the flows that the worker starts."""
    return subprocesses.build_environment(
        **prefect_server.build_prefect_settings(project),
        PREFECT_API_URL=f"{addresses.prefect}/api",
        PREFECT_SERVER_UI_API_URL=f"{addresses.prefect}/api",
        **{prefect_api.API_VARIABLE: f"{addresses.prefect}/api"},
        PYTHONSAFEPATH="1",  # a project's folder called flows/ or imageset/ does not shadow ours
        MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false",
        MLFLOW_DISABLE_TELEMETRY="true",
    )


def start_servers(fleet: ServerGroup, addresses: ServerAddresses, mlflow_port: int, prefect_port: int) -> None:
    """Start MLflow and Prefect at the same time, and wait until both answer."""
    logger.info("up: starting MLflow and Prefect (about 20 s)")
    prepare_database(fleet.folder / DATABASE)
    relocate_store(fleet.folder)
    fleet.start(
        "mlflow", sys.executable, "-m", "mlflow", "server",
        "--backend-store-uri", f"{SQLITE}{fleet.folder / DATABASE}",
        "--artifacts-destination", str(fleet.folder / ARTIFACTS),
        "--host", HOST, "--port", str(mlflow_port), "--workers", "1",
    )  # fmt: skip
    fleet.start(
        "prefect", sys.executable, "-m", "prefect", "server", "start", "--host", HOST, "--port", str(prefect_port)
    )
    fleet.wait_until_ready("Prefect's server", lambda: is_healthy(f"{addresses.prefect}/api/health"))
    fleet.wait_until_ready("MLflow", lambda: is_healthy(f"{addresses.mlflow}/health"))


def close_dead_runs(projects: Sequence[Project], api: str) -> None:
    """Mark Running flow runs as Crashed if their process is gone without a record, and release their slots.

    A process that runs a pipeline holds the project lock. If the lock is free, no such process is alive.
    """
    try:
        with ExitStack() as stack:
            for project in projects:
                stack.enter_context(project.lock())
            running = {"flow_runs": {"state": {"type": {"any_": ["RUNNING", "CANCELLING"]}}},
                       "flows": {"name": {"any_": list(LOCKING_FLOWS)}}}  # fmt: skip
            for run in call_prefect_api(f"{api}/flow_runs/filter", running):
                if crash_recovery.close_flow_run(api, run["id"], "its process is gone"):
                    logger.info("up: run %s was killed and is closed as crashed", run["name"])
            concurrency.release_limits(api)
    except ProjectBusy:
        logger.info("up: another run is active in a project; crashed runs are not searched for")


def name_project_limits(projects: Sequence[Project]) -> list[str]:
    """Name the limits of one run at a time: of the dataset in each project's data/raw, and of each GPU."""
    names = [name for project in projects if (name := project.read_ingested_name())]
    return [*(concurrency.name_dataset_limit(name) for name in names), *concurrency.name_gpu_limits()]


def start_worker(fleet: ServerGroup, addresses: ServerAddresses) -> None:
    """Start one worker of the work pool `convoy`; Prefect creates the pool if it is missing."""
    fleet.start("worker", sys.executable, "-m", "prefect", "worker", "start",
                "--pool", WORK_POOL, "--type", "process", "--name", f"convoy-{os.getpid()}")  # fmt: skip
    workers = f"{addresses.prefect}/api/work_pools/{WORK_POOL}/workers/filter"
    fleet.wait_until_ready("the worker", lambda: _is_worker_online(workers))


def _is_worker_online(workers: str) -> bool:
    try:
        return any(worker["status"] == "ONLINE" for worker in call_prefect_api(workers, {}))
    except OSError:  # the pool does not exist yet
        return False


def apply_deployments(fleet: ServerGroup, project: Project) -> None:
    """Apply the deployments of a project's prefect.yaml; their runs work in its folder.

    Raises:
        UserError: `prefect deploy` failed; with the last line of its output.
    """
    done = subprocess.run(
        [sys.executable, "-P", "-m", "prefect", "--no-prompt", "deploy", "--all"],
        cwd=project.folder,
        env=fleet.env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    log = fleet.logs / "deploy.log"
    log.write_text(done.stdout + done.stderr)
    if done.returncode != 0:
        last = find_last_line(done.stdout + done.stderr)
        raise UserError(
            f"{project / 'prefect.yaml'} cannot be applied: {last}; the output of `prefect deploy` is in {log}"
        )
    logger.info("up: the deployments of %s are applied", project / "prefect.yaml")


def format_welcome(deployments: Mapping[Project, Sequence[str]], addresses: ServerAddresses) -> str:
    """Format the addresses of the servers, the projects, and the command that starts a run by hand."""
    prefect = Path(sys.executable).parent / "prefect"
    command = prefect.relative_to(Path.cwd()) if prefect.is_relative_to(Path.cwd()) else prefect
    names = [name for each in deployments.values() for name in each if name.startswith("pipeline/")]
    projects = [f"project  {project.read_name()}, {project}" for project in deployments]
    return "\n".join([
        f"MLflow   {addresses.mlflow}",
        f"Prefect  {addresses.prefect}",
        *(projects if len(projects) > 1 else ()),
        *(f"run now  PREFECT_API_URL={addresses.prefect}/api {command} deployment run {name}" for name in names),
        "Ctrl-C stops all of it",
    ])  # fmt: skip
