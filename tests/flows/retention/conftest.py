from __future__ import annotations

import shutil

import pytest

from tests.flows.retention.spread_project import SpreadProject, make_spread_project
from tests.helpers.project import ROOT


@pytest.fixture(scope="session")
def spread_once(tmp_path_factory, empty_mlflow_db) -> SpreadProject:
    """The project that tests copy."""
    return make_spread_project(tmp_path_factory.mktemp("spread"), empty_mlflow_db)


@pytest.fixture
def spread(tmp_path, spread_once, monkeypatch) -> SpreadProject:
    """A copy of the project, of its source and of its remote."""
    top = tmp_path / "copy"
    shutil.copytree(spread_once.folder.parent, top, symlinks=True)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.chdir(top / "project")
    return SpreadProject(top / "project", top / "source", top / "remote", spread_once.run_id)
