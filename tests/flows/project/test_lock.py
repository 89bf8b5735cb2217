import os

import pytest

from flows.project import lock
from flows.project.exceptions import ProjectBusy


def test_two_runs_cannot_hold_one_project(tmp_path):
    busy = pytest.raises(ProjectBusy, match=f"process {os.getpid()}")
    with lock.project_lock(tmp_path), busy, lock.project_lock(tmp_path):
        pass
    with lock.project_lock(tmp_path):
        pass  # free again
