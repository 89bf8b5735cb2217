from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from flows.project.project import Project
from flows.versioning import dvc_repo
from flows.versioning.data_folder_check import check_data_folder
from imageset.exceptions import UserError

STAGES = """stages:
  work:
    cmd: python work.py
    outs: [data/models/classifier, data/models/table.csv: {persist: true}]
    metrics: [metrics.json: {cache: false}]
"""


def run(command: str, folder: Path) -> None:
    name = "-c user.name=T -c user.email=t@localhost"
    command = re.sub(r"\bdvc (?=init|add)", f"{sys.executable} -m dvc ", command)
    command = command.replace("git commit", f"git {name} commit")
    subprocess.run(command, cwd=folder, check=True, shell=True, env={**os.environ, "DVC_NO_ANALYTICS": "1"})


@pytest.fixture(scope="module")
def made_once(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "project"
    (folder / "data" / "raw").mkdir(parents=True)
    (folder / "data" / "raw" / "a").write_text("a")
    (folder / "dvc.yaml").write_text(STAGES)
    (folder / "metrics.json").write_text("{}")
    run("git init -q && dvc init -q && git add -f dvc.yaml metrics.json && git commit -q -m all", folder)
    return folder


@pytest.fixture
def repository(made_once, tmp_path) -> Path:
    return Path(shutil.copytree(made_once, tmp_path / "project"))


def test_a_project_that_dvc_can_work_in_is_taken(repository):
    check_data_folder(Project(repository))
    (repository / "link").symlink_to(repository)
    check_data_folder(Project(repository / "link"))


@pytest.mark.parametrize(
    ("change", "message", "way_out"),
    [
        ("rm -r .git", "is not in a git repository, which DVC needs; `git init`", "git init -q"),
        ("rm -r .dvc", "has no folder .dvc", "dvc init -q -f"),
        ("mv data ../disk; ln -s ../disk data", "data is a link to ../disk, and", "rm data; mv ../disk data"),
        ("mv data/raw ../raw; ln -s ../../raw data/raw", "data/raw is a link to", "rm data/raw; mv ../raw data"),
        ("mkdir ../m; ln -s ../../m data/models", "data/models is a link to", "rm data/models"),
        ("git add data/raw", "git tracks data/raw/a", "git rm -r -q --cached data/raw"),
        ("git add data/raw; git commit -q -m x", "git tracks data/raw/a", "git rm -r -q --cached data/raw"),
        (
            "mkdir -p data/models/classifier; touch data/models/classifier/b; git add data",
            "git tracks data/models/classifier/b",
            "git rm -r -q --cached data",
        ),
        ("echo '*.dvc' > .gitignore", "git ignores data/raw.dvc, .* by .gitignore:1:", "rm .gitignore"),
        ("echo /data > .gitignore", "git ignores data/raw.dvc, .* by .gitignore:1:/data", "rm .gitignore"),
    ],
)  # fmt: skip
def test_a_folder_that_dvc_would_refuse_is_named_before_anything_is_written(repository, change, message, way_out):
    run(change, repository)
    with pytest.raises(UserError, match=message) as caught:
        check_data_folder(Project(repository))
    assert "\n" not in str(caught.value)
    run(way_out, repository)
    check_data_folder(Project(repository))
    run("dvc add -q data/raw", repository)


def test_dvc_without_git_needs_none(repository):
    run("rm -r .git .dvc && dvc init -q --no-scm", repository)
    check_data_folder(Project(repository))


def test_a_failure_of_dvc_comes_with_its_reason(repository):
    (repository / ".dvcignore").write_text("/data/raw\n")
    with pytest.raises(
        UserError, match=r"^dvc add failed: Path .*data/raw' is ignored by \.dvcignore:1:/data/raw$"
    ):
        dvc_repo.add_raw(Project(repository), "source", "name")
