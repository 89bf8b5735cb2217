import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from flows.cli.up import (
    ServerGroup,
    check_deployment_names,
    check_ports,
    find_last_line,
    list_deployments,
    select_sharing_projects,
)
from flows.orchestration import concurrency, prefect_api, prefect_server, subprocesses
from flows.project.project import Project
from imageset.exceptions import UserError
from tests.helpers.processes import has_ended, hold_limits, run_dvc, run_git
from tests.helpers.project import ROOT


@pytest.mark.parametrize("option", ["--mlflow-port", "--prefect-port"])
def test_a_port_that_is_taken_is_named_with_the_option_before_anything_starts(tmp_path, option):
    with socket.socket() as taken:
        taken.bind((prefect_api.HOST, 0))
        taken.listen()
        ports = {
            "--mlflow-port": prefect_server.find_free_port(),
            "--prefect-port": prefect_server.find_free_port(),
        }
        ports[option] = port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"port {port} .* is taken; .*{option} PORT"):
            check_ports(Project(tmp_path), ports)


def test_one_port_cannot_serve_both(tmp_path):
    port = prefect_server.find_free_port()
    with pytest.raises(UserError, match="must differ"):
        check_ports(Project(tmp_path), {"--mlflow-port": port, "--prefect-port": port})


def test_a_second_up_in_one_project_is_refused(tmp_path):
    prefect_api.ServerAddresses(os.getpid(), "http://one", "http://two").save(Project(tmp_path))
    with pytest.raises(UserError, match=f"already runs here \\(process {os.getpid()}\\)"):
        check_ports(Project(tmp_path), {})


def test_the_servers_of_an_original_are_not_those_of_its_copy(tmp_path):
    original, copy = tmp_path / "original", tmp_path / "copy"
    original.mkdir()
    prefect_api.ServerAddresses(os.getpid(), "http://one", "http://two").save(Project(original))
    shutil.copytree(original, copy)
    assert prefect_api.ServerAddresses.load(Project(copy)) is None
    assert prefect_api.ServerAddresses.load(Project(original)) is not None


def test_what_a_killed_up_left_behind_is_ignored(tmp_path):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    prefect_api.ServerAddresses(ended.pid, "http://one", "http://two").save(Project(tmp_path))
    assert prefect_api.ServerAddresses.load(Project(tmp_path)) is None


def test_a_child_that_dies_is_named_with_its_last_words_and_the_others_are_stopped(tmp_path):
    fleet = ServerGroup(tmp_path, subprocesses.build_environment())
    fleet.start("steady", sys.executable, "-c", "import time; time.sleep(300)")
    fleet.start("frail", sys.executable, "-c", "print('no more memory'); raise SystemExit(3)")
    with pytest.raises(
        UserError, match=r"^frail ended with status 3: no more memory; its output is in \S+frail\.log$"
    ):
        fleet.wait_until_ready("the impossible", lambda: False)
    fleet.stop()
    assert all(has_ended(child.process.pid) for child in fleet.children)


@pytest.mark.parametrize(
    ("output", "expected"),
    [("ready\nport 5 is taken\n\n", "port 5 is taken"), ("╭───╮\n│ no entrypoint  │\n╰───╯\n", "no entrypoint"),
     ("", "no output")],
)  # fmt: skip
def test_the_last_line_of_an_output_is_said_without_prefects_frame(output, expected):
    assert find_last_line(output) == expected


def test_a_deployment_runs_convoys_flows_though_the_project_has_folders_of_their_names(tmp_path):
    for name in ("flows", "imageset", "lightning_modules"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise ImportError('a folder of the project')\n")
    (tmp_path / "mynet.py").write_text("")
    code = (
        "from prefect.utilities.importtools import import_object\n"
        "print(import_object('convoy.deployments.pipeline').name)\n"
        "import mynet, subprocess, sys\n"
        "subprocess.run([sys.executable, '-P', '-c', 'import imageset.labels, lightning_modules'], check=True)\n"
    )
    env = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}", "PYTHONSAFEPATH": "1"}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True,
                          check=False)  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "pipeline\n"), done.stderr


def make_deployments(folder: Path, name: str, entrypoint: str = "flows.full_check.full_check") -> Project:
    """A project whose prefect.yaml has one deployment."""
    folder.mkdir()
    (folder / "params.yaml").write_text(f"name: {folder.name}\n")
    (folder / "prefect.yaml").write_text(f"deployments: [{{name: {name}, entrypoint: '{entrypoint}'}}]\n")
    return Project(folder)


def test_a_deployment_is_called_as_prefect_calls_it_with_either_kind_of_entrypoint(tmp_path):
    installed = make_deployments(tmp_path / "pets", "pets-weekly")
    in_the_repository = make_deployments(tmp_path / "cars", "weekly", "flows/full_check.py:full_check")
    assert list_deployments(installed) == ["full-check/pets-weekly"]
    assert list_deployments(in_the_repository) == ["full-check/weekly"]


def test_two_projects_with_a_deployment_of_one_name_are_refused(tmp_path):
    projects = [make_deployments(tmp_path / name, "weekly") for name in ("cars", "pets")]
    with pytest.raises(UserError, match=r"pets/prefect\.yaml: .*/cars, too; .* another name, e\.g\. pets-weekly"):
        check_deployment_names({project: list_deployments(project) for project in projects})
    check_deployment_names({projects[0]: list_deployments(projects[0])})


def test_a_project_with_a_store_of_its_own_is_not_served_with_the_others(tmp_path):
    (tmp_path / ".git").mkdir()
    cars, old, pets = (make_deployments(tmp_path / name, name) for name in ("cars", "old", "pets"))
    (old / "mlflow.db").touch()
    assert select_sharing_projects(None, [cars, old, pets]) == [cars, pets]
    assert select_sharing_projects(pets, [cars, old, pets]) == [pets, cars]
    assert select_sharing_projects(old, [cars, old, pets]) == [old]


def test_up_serves_runs_a_deployment_from_prefects_own_command_line_and_leaves_nothing(served, tmp_path):
    project = tmp_path / "project"
    shutil.copytree(served.folder, project, ignore=shutil.ignore_patterns("mlartifacts"))
    set_remotes(project, tmp_path)
    ports = prefect_server.find_free_port(), prefect_server.find_free_port()
    env = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "PREFECT_"))}
    command = [
        sys.executable,
        "-m",
        "flows",
        "up",
        "--mlflow-port",
        str(ports[0]),
        "--prefect-port",
        str(ports[1]),
    ]
    with (tmp_path / "said").open("w") as said:
        up = subprocess.Popen(command, cwd=project, env=env, stdout=said, stderr=subprocess.STDOUT)
    try:
        wait_for(lambda: "run now" in (tmp_path / "said").read_text() or up.poll() is not None, 180)
        text = (tmp_path / "said").read_text()
        assert f"MLflow   http://127.0.0.1:{ports[0]}" in text, text
        assert prefect_api.is_healthy(f"http://127.0.0.1:{ports[0]}/health")
        assert json.loads((project / ".cache/up.json").read_text())["pid"] == up.pid
        api = f"http://127.0.0.1:{ports[1]}/api"
        with hold_limits(api, "dataset-other") as killed:
            killed.kill()
        assert concurrency.ensure_limits(api, ["dataset-other"]) == {"dataset-other": 1}
        run_id = run_deployment(f"http://127.0.0.1:{ports[1]}/api", env)
        family = psutil.Process(up.pid).children(recursive=True)
        log = prefect(f"http://127.0.0.1:{ports[1]}/api", env, "flow-run", "inspect", run_id)
        assert "COMPLETED" in log, (project / ".cache/up/worker.log").read_text()
        said = prefect(f"http://127.0.0.1:{ports[1]}/api", env, "flow-run", "logs", run_id)
        assert "Stage 'train' didn't change, skipping" in said
        assert "stages up to date, skipped: normalize, train, evaluate, explain" in said
        wait_for(
            lambda: concurrency.ensure_limits(api, ["dataset-other"]) == {"dataset-other": 0}, 180
        )  # its lease is over
        assert "after run: data is pushed to DVC's remote store" in said and "committed to convoy as " in said
    finally:
        up.send_signal(signal.SIGTERM)
        status = up.wait(60)
    assert status == 128 + signal.SIGTERM
    assert len(family) >= 3 and all(has_ended(process.pid) for process in family)
    assert not (project / ".cache/up.json").exists()
    check_what_was_committed_and_pushed(project, tmp_path)


def set_remotes(project: Path, folder: Path) -> None:
    """A folder for DVC, a bare repository for git, and a params.yaml that wants the run's state in both."""
    run_dvc(project, "remote", "add", "-q", "-d", "store", str(folder / "store"))
    run_git(folder, "init", "-q", "--bare", "remote.git")
    run_git(project, "remote", "add", "origin", str(folder / "remote.git"))
    run_git(project, "commit", "-q", "-m", "a remote", ".dvc/config")
    path = project / "params.yaml"
    text = path.read_text()
    assert "  commit: false" in text
    path.write_text(text.replace("  commit: false", "  commit: true"))


def check_what_was_committed_and_pushed(project: Path, folder: Path) -> None:
    """Somebody else, who has only the two remotes, gets the data and the model as they are here."""
    run_git(project, "push", "-q", "origin", "convoy")
    run_git(folder, "clone", "-q", "-b", "convoy", str(folder / "remote.git"), "clone")
    clone = folder / "clone"
    for name in ("dvc.lock", "data/raw.dvc", "params.yaml", "metrics.json", "data/ledger.jsonl"):
        assert (clone / name).read_bytes() == (project / name).read_bytes()
    assert run_git(clone, "log", "-1", "--format=%s").startswith("digits-few: digits-few version 1 serves")
    assert run_git(project, "rev-parse", "--abbrev-ref", "HEAD") != "convoy"
    run_dvc(clone, "pull", "-q")
    for name in ("data/raw/records.parquet", "data/models/classifier/weights.safetensors"):
        assert (clone / name).read_bytes() == (project / name).read_bytes()


def run_deployment(url: str, env: dict[str, str]) -> str:
    """Start the nightly deployment as a person does, and wait for its end; returns the run's id."""
    said = prefect(url, env, "deployment", "run", "pipeline/nightly", "--watch")
    return next(line.split()[-1] for line in said.splitlines() if "UUID:" in line)


def prefect(url: str, env: dict[str, str], *arguments: str) -> str:
    done = subprocess.run(
        [Path(sys.executable).parent / "prefect", *arguments], env={**env, "PREFECT_API_URL": url},
        capture_output=True, text=True, timeout=180, check=False,
    )  # fmt: skip
    return done.stdout + done.stderr


def wait_for(condition, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)
