import os
import subprocess
import sys
from pathlib import Path

import pytest

from flows import after_run as module
from flows import versioning
from flows.after_run import after_run, carry_out
from flows.status import status
from imageset.errors import UserError

PARAMS = "after_run:\n  push: {}\n  commit: {}\n  branch: convoy\n"


@pytest.fixture
def repository(tmp_path) -> Path:
    """A project below the top of a git repository, with a commit on main, changes in the index and in a file."""
    git(tmp_path, "init", "-q", "-b", "main")
    project = tmp_path / "deep"
    (project / "data").mkdir(parents=True)
    (project / "code.py").write_text("one\n")
    (project / "dvc.lock").write_text("old\n")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "begin")
    (project / "code.py").write_text("staged\n")
    git(tmp_path, "add", ".")
    (project / "code.py").write_text("not staged\n")
    return project


def git(folder: Path, *arguments: str) -> str:
    who = ["-c", "user.name=Test", "-c", "user.email=test@localhost"]
    done = subprocess.run(["git", *who, *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def dvc(folder: Path, *arguments: str) -> None:
    env = {**os.environ, "DVC_NO_ANALYTICS": "1"}
    subprocess.run([sys.executable, "-m", "dvc", *arguments], cwd=folder, check=True, env=env, capture_output=True)


def test_files_are_committed_to_a_branch_and_nothing_of_the_users_is_touched(repository):
    (repository / "dvc.lock").write_text("new\n")
    before = git(repository, "status", "--porcelain"), git(repository, "rev-parse", "HEAD")
    made = versioning.commit_files(repository, "convoy", ["dvc.lock", "metrics.json"], "digits: version 1 serves")
    assert (git(repository, "status", "--porcelain"), git(repository, "rev-parse", "HEAD")) == before
    assert (repository / "code.py").read_text() == "not staged\n"
    assert git(repository, "rev-parse", "convoy") == made
    assert git(repository, "show", "convoy:deep/dvc.lock") == "new"
    assert git(repository, "show", "convoy:deep/code.py") == "one"
    assert git(repository, "log", "-1", "--format=%s", "convoy") == "digits: version 1 serves"


def test_the_same_files_are_not_committed_twice_and_new_ones_follow(repository):
    (repository / "dvc.lock").write_text("new\n")
    first = versioning.commit_files(repository, "convoy", ["dvc.lock"], "one")
    assert versioning.commit_files(repository, "convoy", ["dvc.lock"], "again") is None
    (repository / "dvc.lock").write_text("newer\n")
    second = versioning.commit_files(repository, "convoy", ["dvc.lock"], "two")
    assert git(repository, "log", "--format=%H", "convoy").splitlines()[:2] == [second, first]


def test_what_was_committed_elsewhere_meanwhile_is_joined(repository):
    (repository / "dvc.lock").write_text("new\n")
    first = versioning.commit_files(repository, "convoy", ["dvc.lock"], "one")
    git(repository, "commit", "-q", "-a", "-m", "code")
    second = versioning.commit_files(repository, "convoy", ["dvc.lock"], "two")
    main = git(repository, "rev-parse", "main")
    assert git(repository, "log", "-1", "--format=%P", second).split() == [first, main]
    assert git(repository, "show", "convoy:deep/code.py") == "not staged"


def test_a_branch_that_somebody_works_on_is_refused(repository):
    with pytest.raises(UserError, match="'main' is checked out"):
        versioning.commit_files(repository, "main", ["dvc.lock"], "one")


def test_no_repository_is_said_early(tmp_path):
    (tmp_path / "params.yaml").write_text(PARAMS.format("auto", "true"))
    with pytest.raises(UserError, match="not a git repository"):
        after_run(tmp_path)


def test_a_push_without_a_remote_is_left_out_by_auto_and_refused_by_true(tmp_path):
    (tmp_path / "params.yaml").write_text(PARAMS.format("auto", "false"))
    assert after_run(tmp_path).push is False
    (tmp_path / "params.yaml").write_text(PARAMS.format("true", "false"))
    with pytest.raises(UserError, match="DVC has no default remote"):
        after_run(tmp_path)


def test_what_dvc_tracks_is_pushed_to_the_remote_and_damage_is_found(prefect_server, tmp_path, monkeypatch):
    project, remote = tmp_path / "project", tmp_path / "remote"
    (project / "data/raw").mkdir(parents=True)
    (project / "data/raw/a.tar").write_text("bytes")
    git(project, "init", "-q")
    dvc(project, "init", "-q")
    dvc(project, "add", "-q", "data/raw")
    dvc(project, "remote", "add", "-q", "-d", "store", str(remote))
    (project / "params.yaml").write_text(PARAMS.format("auto", "false"))
    assert after_run(project).push is True
    monkeypatch.setattr(module, "push_data", module.push_data.with_options(retries=0))
    remote.write_text("a file where the remote's folder should be")
    with pytest.raises(UserError, match="dvc push failed"):
        carry_out(after_run(project), project, "digits")
    assert "wrong     dvc push failed: " in status(project)
    assert "; `convoy run` pushes again, and so does `dvc push` (since 20" in status(project)
    remote.unlink()
    carry_out(after_run(project), project, "digits")
    assert "dvc push" not in status(project)
    assert sum(path.is_file() for path in remote.rglob("*")) == 2
    assert list(versioning.damaged(project)) == []

    (project / "data/raw/a.tar").chmod(0o644)
    (project / "data/raw/a.tar").write_text("other")
    ((path, expected, found),) = versioning.damaged(project)
    assert path == "data/raw/a.tar" and found not in (expected, None)
    assert "data/raw.dvc" in versioning.changed_stages(project)


def test_a_branch_goes_to_its_remote_if_git_has_one_for_it_and_never_by_force(repository, tmp_path):
    git(tmp_path, "init", "-q", "--bare", str(tmp_path / "origin.git"))
    (repository / "dvc.lock").write_text("new\n")
    made = versioning.commit_files(repository, "convoy", ["dvc.lock"], "one")
    assert versioning.push_branch(repository, "convoy") is None
    git(repository, "remote", "add", "origin", str(tmp_path / "origin.git"))
    git(repository, "config", "branch.convoy.remote", "origin")
    assert versioning.push_branch(repository, "convoy") == "origin"
    assert git(tmp_path / "origin.git", "rev-parse", "convoy") == made
    git(repository, "update-ref", "refs/heads/convoy", git(repository, "rev-parse", "HEAD"))
    with pytest.raises(UserError, match="git push failed"):
        versioning.push_branch(repository, "convoy")
    assert git(tmp_path / "origin.git", "rev-parse", "convoy") == made
