import os

import pytest

from flows.project.exceptions import ProjectBusy
from flows.project.project import Project


def test_two_runs_cannot_hold_one_project(tmp_path):
    project = Project(tmp_path)
    busy = pytest.raises(ProjectBusy, match=f"process {os.getpid()}")
    with project.lock(), busy, project.lock():
        pass
    with project.lock():
        pass  # free again


def test_a_project_is_its_folder_for_the_standard_library(tmp_path):
    project = Project(tmp_path)
    assert project / "data/raw" == tmp_path / "data/raw"
    assert os.fspath(project) == str(project) == str(tmp_path)
    assert os.listdir(project) == []
