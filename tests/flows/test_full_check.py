import re
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from flows.full_check import find_data_problems, full_check
from flows.inbox import inbox
from flows.project.project import Project
from flows.promotion import ledger
from flows.reports.status import report_status
from flows.versioning import dvc_repo
from imageset.exceptions import UserError
from tests.helpers.datasets import flip_bit, make_store
from tests.helpers.images import make_image_folder
from tests.helpers.processes import has_ended
from tests.helpers.project import make_project


@pytest.fixture
def project(served, tmp_path, monkeypatch) -> Path:
    """A copy of the served project, to be worked in."""
    project = tmp_path / "project"
    shutil.copytree(served.folder, project, ignore=shutil.ignore_patterns("mlartifacts", ".cache"))
    monkeypatch.chdir(project)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return project


def test_the_full_check_finds_what_is_wrong_and_nothing_else(project):
    checked = full_check()
    assert checked.problems == [] and len(checked.findings) == 6
    assert re.search(r"^checked   20.*: 6 checks, 0 problems$", report_status(Project(project)), re.M)

    shard = next((project / "data/raw").glob("*.tar"))
    shard.chmod(0o644)
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")
    line = {"event": ledger.DECISION, "model": "digits-few", "version": 1, "reason": "cut short",
            "before": {"champion": 1}, "after": {"champion": 1}}  # fmt: skip
    ledger.append_entry(Project(project), line)
    with pytest.raises(UserError) as wrong:
        full_check()
    found = str(wrong.value)
    assert "full check: 6 checks, 4 problems" in found
    assert f"data: data/raw/{shard.name} has changed" in found
    assert "stages: data/raw.dvc is out of date (data/raw modified)" in found
    assert "stages: normalize is out of date (data/raw modified)" in found
    assert "ledger: line 3, about digits-few version 1, is unfinished" in found
    wrong = [
        line
        for line in report_status(Project(project)).splitlines()
        if re.match(r"problems +the full check of 20.* found: ", line)
    ]
    assert len(wrong) == 4 and f"data/raw/{shard.name} has changed" in wrong[0]


def test_damage_that_dvc_has_versioned_or_cannot_see_is_found(tmp_path):
    for command in ("git init -q", f"{sys.executable} -m dvc init -q"):
        subprocess.run(command.split(), cwd=tmp_path, check=True)
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    project = Project(tmp_path)
    make_store(tmp_path / "data", make_image_folder(tmp_path / "set", num_each=20))
    dvc_repo.add_raw(project, "set", "set")
    assert list(find_data_problems(project)) == []
    flip_bit(tmp_path / "data/raw/shard-00000.tar")
    dvc_repo.add_raw(project, "set", "set")  # as `dvc repro` by hand does
    flip_bit(tmp_path / "data/normalized/images-00000.npy", keep_time=True)
    dataset, shard = find_data_problems(project)
    assert dataset.startswith("data/normalized/images-00000.npy is damaged, and DVC has versioned it so")
    assert dataset.endswith("; `dvc repro -f normalize` makes it again")
    assert shard.startswith("data/raw/shard-00000.tar is damaged, ") and shard.endswith("`convoy run` restores it")


def test_the_inbox_is_tagged_once_and_nothing_to_do_is_no_failure(project, served):
    assert inbox() is None
    (project / "data/inbox").mkdir()
    assert inbox() is None
    assert not (project / "data/predictions/inbox").exists()
    pictures = sorted((served.pictures / "1").iterdir())
    for path in pictures[:2]:
        shutil.copy(path, project / "data/inbox")
    first = inbox()
    assert first is not None and first.num_rows == 2
    assert inbox() is None
    shutil.copy(pictures[2], project / "data/inbox")
    second = inbox()
    assert second is not None and pq.read_table(second.out)["uri"].to_pylist() == [pictures[2].name]
    assert sorted(project.glob("data/predictions/inbox/*")) == sorted({first.out, second.out})


def test_an_inbox_without_a_model_waits(prefect_server, tmp_path, monkeypatch):
    project = make_project(tmp_path)
    monkeypatch.chdir(project)
    (project / "data/inbox").mkdir(parents=True)
    (project / "data/inbox/a.png").write_bytes(b"any")
    assert inbox() is None


def test_a_run_that_takes_too_long_is_stopped_with_its_stages(prefect_server, tmp_path, monkeypatch):
    from flows import ingest as module
    from flows.orchestration.subprocesses import stream_output
    from flows.pipeline import pipeline

    started: list[int] = []

    def slow(*_: object):
        command = ["sh", "-c", "sleep 300 & echo $!; wait"]
        for line in stream_output(command, cwd=tmp_path, finished=lambda status: None):
            started.append(int(line))

    project = make_project(tmp_path)
    monkeypatch.chdir(project)
    monkeypatch.setattr(module.ingest, "fn", slow)
    with pytest.raises(UserError, match=r"pipeline took longer than .* h .* was stopped"):
        pipeline(timeout_h=3 / 3600)
    assert started and has_ended(started[0])
    with Project(project).lock():  # and the next run finds the project free
        pass
