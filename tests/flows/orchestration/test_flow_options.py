from __future__ import annotations

import errno
from pathlib import Path

import pytest

from flows.orchestration.flow_options import conclude_run
from flows.project.exceptions import ProjectBusy
from flows.project.project import Project
from flows.reports.status import read_flow_runs, report_runs
from imageset.exceptions import UserError
from tests.helpers.project import hold_project, make_project, run_convoy, set_params
from tests.helpers.servers import Listener


@pytest.fixture
def listener():
    listening = Listener()
    yield listening
    listening.server.shutdown()
    listening.server.server_close()


def read_lines(project: Path) -> tuple[dict[str, str], list[str]]:
    """Return the lines of the status about runs by label, and the problems: other tests share the database."""
    problems: list[str] = []
    lines = {line.label: line.text for line in report_runs(Project(project), None, problems)}
    return lines, problems


def test_a_scheduled_run_that_finds_another_one_at_work_is_cancelled_and_no_failure(
    tmp_path,
    monkeypatch,
    prefect_server,
    listener,
):
    from flows.pipeline import pipeline

    project = make_project(tmp_path)
    set_params(project, hooks__on_failure=listener.url)
    monkeypatch.chdir(project)
    monkeypatch.setenv("PREFECT_API_URL", prefect_server)
    _, problems_before = read_lines(project)
    with hold_project(project), pytest.raises(ProjectBusy, match=r"\(process 4711\)"):
        pipeline(str(tmp_path))
    assert read_flow_runs(Project(project))[-1][2] == "CANCELLED"
    lines, problems = read_lines(project)
    assert "another run is at work" in lines["last run"]
    assert (problems, listener.heard) == (problems_before, [])


@pytest.mark.parametrize("command", ["run", "ingest"])
def test_a_command_that_finds_another_run_at_work_is_one_line_and_no_run(tmp_path, command):
    project = make_project(tmp_path / "project")
    with hold_project(project):
        done = run_convoy(project, command, "sklearn://digits")
    assert done.returncode == 2, done.stdout
    assert done.stdout == "error: another run is at work in this project (process 4711); wait until it ends\n"
    assert not (project / ".cache/prefect.db").exists()


def test_a_full_disk_ends_a_flow_with_one_line_and_a_fault_of_ours_stays_as_it_is():
    def fail(error: Exception) -> None:
        raise error

    with pytest.raises(UserError, match=r"^/data/a: the disk is full; free some space") as caught:
        conclude_run(fail)(OSError(errno.ENOSPC, "No space left on device", "/data/a"))
    assert isinstance(caught.value.__cause__, OSError)
    with pytest.raises(KeyError):
        conclude_run(fail)(KeyError("a bug"))


def test_options_of_predict_that_do_not_go_together_are_one_line_and_no_run(tmp_path):
    project = make_project(tmp_path / "project")
    (tmp_path / "0.png").write_bytes(b"")
    table = str(tmp_path / "out.csv")
    for options in (["--review", "0"], ["--review-for", "cvat"], ["--in-place"]):
        done = run_convoy(project, "predict", str(tmp_path / "0.png"), "--out", table, *options)
        assert (done.returncode, done.stdout.count("\n")) == (2, 1), done.stdout
    assert not (project / ".cache/prefect.db").exists()
