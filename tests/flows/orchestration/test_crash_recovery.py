import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from flows.orchestration import crash_recovery
from flows.orchestration.crash_recovery import PROCESS_RECORDS, RUN_ID_VARIABLE
from flows.project.project import Project
from tests.helpers.processes import has_ended
from tests.helpers.project import run_convoy


@pytest.fixture
def killed(served, tmp_path) -> tuple[Path, str]:
    """A project in which `convoy run` was killed within its training, with a Prefect server of its own; and its
    note's id."""
    project = tmp_path / "project"
    shutil.copytree(served.folder, project, ignore=shutil.ignore_patterns("mlartifacts"))
    text = (project / "params.yaml").read_text()
    (project / "params.yaml").write_text(text.replace("max_epochs: 3", "max_epochs: 12"))
    env = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "PREFECT_", "CONVOY_"))}
    run = subprocess.Popen(
        [sys.executable, "-m", "flows", "run"], cwd=project, env=env, text=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert run.stderr is not None
    said = []
    for line in run.stderr:
        said.append(line)
        if "train: epoch 2/12" in line:
            break
    os.kill(run.pid, signal.SIGKILL)
    assert run.wait() == -signal.SIGKILL, "".join(said)
    (note,) = (project / PROCESS_RECORDS).glob("*.json")
    return project, note.stem


def marked(mark: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(RUN_ID_VARIABLE) == mark:
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


def rows(path: Path, query: str) -> list[tuple]:
    connection = sqlite3.connect(path)
    try:
        return connection.execute(query).fetchall()
    finally:
        connection.close()


LAST = "SELECT state_type FROM flow_run ORDER BY created DESC LIMIT 1"
TRAININGS = "SELECT status FROM runs ORDER BY start_time"


def test_a_killed_run_is_ended_and_closed_by_whatever_starts_next_and_the_one_after_goes_on(
    killed, prefect_server
):
    project, mark = killed
    assert rows(project / ".cache/prefect.db", LAST) == [("RUNNING",)]
    assert rows(project / "mlflow.db", TRAININGS) == [("FINISHED",), ("RUNNING",)]
    assert any("fit" in process.cmdline() for process in marked(mark))
    status = run_convoy(project, "status").stdout
    assert "`convoy run` of" in status and "was killed" in status

    said = run_convoy(project, "rollback").stdout
    assert "ending its child processes" in said
    assert "nothing served before digits-few version 1" in said  # what was asked for is done first
    assert not marked(mark)
    assert rows(project / ".cache/prefect.db", LAST) == [("CRASHED",)]
    closed = rows(project / "mlflow.db", TRAININGS)[1]  # FAILED: it found nobody reading what it says, and said so
    assert closed in [("KILLED",), ("FAILED",)]
    assert not list((project / PROCESS_RECORDS).glob("*.json"))
    status = run_convoy(project, "status").stdout
    assert "pending   a training that stopped after 20" in status and "`dvc repro` resumes it" in status

    again = run_convoy(project, "run", PREFECT_API_URL=prefect_server).stdout
    assert "train: resuming after step" in again
    assert rows(project / "mlflow.db", TRAININGS) == [("FINISHED",), ("FINISHED",)]
    assert "digits-few version 2" in again


def test_who_is_at_work_is_not_taken_for_dead(tmp_path):
    before = os.environ.get(RUN_ID_VARIABLE)
    with crash_recovery.record_process(Project(tmp_path), "convoy test"):
        assert len(list((tmp_path / PROCESS_RECORDS).glob("*.json"))) == 1
        assert crash_recovery.find_dead_processes(Project(tmp_path)) == []
        child = "import os; print(os.environ['CONVOY_RUN'])"
        mark = subprocess.run([sys.executable, "-c", child], capture_output=True, text=True, check=True).stdout
        assert (tmp_path / PROCESS_RECORDS / f"{mark.strip()}.json").exists()
    assert not list((tmp_path / PROCESS_RECORDS).glob("*.json"))
    assert os.environ.get(RUN_ID_VARIABLE) == before


def test_a_record_that_the_disk_does_not_let_go_stays_without_an_error(tmp_path):
    heartbeat = crash_recovery.ProcessHeartbeat(Project(tmp_path), "convoy run")
    heartbeat.path.unlink()
    heartbeat.path.mkdir()  # it cannot be removed as a file, as on a disk that has become read-only
    heartbeat.close()
    assert heartbeat.path.exists()


def test_what_a_process_left_that_was_killed_before_its_record_stood_is_removed_and_a_living_ones_stays(tmp_path):
    with crash_recovery.record_process(Project(tmp_path), "convoy test"):
        folder = tmp_path / PROCESS_RECORDS
        kept = {path.name for path in folder.iterdir()}
        (folder / ".0a.json.partial").write_text("{")
        (folder / "0a.lock").write_text("")
        crash_recovery.close_dead_processes(Project(tmp_path))
        assert {path.name for path in folder.iterdir()} == kept and len(kept) == 2


def test_what_a_dead_process_started_is_ended_and_nothing_else_is(tmp_path):
    code = (
        "import os, subprocess, sys\nfrom pathlib import Path\n"
        "from flows.orchestration.crash_recovery import record_process\n"
        "from flows.project.project import Project\n"
        "with record_process(Project(Path('.')), 'convoy test'):\n"
        "    sleeper = [sys.executable, '-c', 'import time; time.sleep(300)']\n"
        "    apart = {'start_new_session': True, 'stdout': subprocess.DEVNULL, 'stderr': subprocess.DEVNULL}\n"
        "    print(subprocess.Popen(sleeper, **apart).pid, flush=True)\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
    try:
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        child = psutil.Process(int(done.stdout))
        assert child.is_running()
        (note,) = crash_recovery.find_dead_processes(Project(tmp_path))
        assert note.command == "convoy test"
        crash_recovery.close_dead_processes(Project(tmp_path))
        assert has_ended(child.pid)
        assert other.poll() is None
        assert crash_recovery.find_dead_processes(Project(tmp_path)) == []
    finally:
        other.kill()
        other.wait()


def test_a_copy_of_a_project_leaves_the_processes_of_the_original_alone(tmp_path):
    original, copy = Project(tmp_path / "original"), Project(tmp_path / "copy")
    original.folder.mkdir()
    with crash_recovery.record_process(original, "convoy test"):
        sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
        try:
            shutil.copytree(original.folder, copy.folder)
            assert len(crash_recovery.find_dead_processes(copy)) == 1
            crash_recovery.close_dead_processes(copy)
            assert sleeper.poll() is None
            assert crash_recovery.find_dead_processes(copy) == []
            assert len(list((original / PROCESS_RECORDS).glob("*.json"))) == 1
        finally:
            sleeper.kill()
            sleeper.wait()


def test_another_machines_run_counts_as_dead_when_its_heart_has_stopped(tmp_path):
    (tmp_path / PROCESS_RECORDS).mkdir(parents=True)
    path = tmp_path / PROCESS_RECORDS / "a.json"
    note = {
        "id": "a",
        "pid": 1,
        "host": "elsewhere",
        "command": "convoy run",
        "began": "2026-03-01T00:00:00+00:00",
    }
    path.write_text(json.dumps(note))
    assert crash_recovery.find_dead_processes(Project(tmp_path)) == []
    os.utime(path, (time.time() - 120, time.time() - 120))
    assert [one.id for one in crash_recovery.find_dead_processes(Project(tmp_path))] == ["a"]


def test_the_heart_of_a_run_beats(tmp_path, monkeypatch):
    monkeypatch.setattr(crash_recovery, "HEARTBEAT_S", 0.05)
    with crash_recovery.record_process(Project(tmp_path), "convoy test"):
        (path,) = (tmp_path / PROCESS_RECORDS).glob("*.json")
        os.utime(path, (0, 0))
        deadline = time.monotonic() + 30
        while path.stat().st_mtime == 0:
            assert time.monotonic() < deadline
            time.sleep(0.05)
