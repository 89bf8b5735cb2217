import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from flows.project.exceptions import ProjectBusy
from flows.project.project import Project
from tests.helpers.project import hold_project


def test_two_runs_cannot_hold_one_project(tmp_path):
    project = Project(tmp_path)
    with hold_project(tmp_path), pytest.raises(ProjectBusy, match=r"\(process 4711\)"), project.lock():
        pass
    with project.lock():
        pass  # free again


def test_a_command_and_its_flow_hold_one_project_and_another_thread_does_not(tmp_path):
    project = Project(tmp_path)

    def enter() -> None:
        with project.lock():
            pass

    busy = pytest.raises(ProjectBusy, match=f"process {os.getpid()}")
    with project.lock(), project.lock(), ThreadPoolExecutor(1) as thread, busy:
        thread.submit(enter).result()
    enter()


def test_a_project_is_its_folder_for_the_standard_library(tmp_path):
    project = Project(tmp_path)
    assert project / "data/raw" == tmp_path / "data/raw"
    assert os.fspath(project) == str(project) == str(tmp_path)
    assert os.listdir(project) == []
