from pathlib import Path

import pytest

from flows.versioning import git_repo
from imageset.exceptions import UserError
from tests.helpers.processes import run_git


@pytest.fixture
def repository(tmp_path) -> Path:
    """A project below the top of a git repository, with a commit on main, changes in the index and in a file."""
    run_git(tmp_path, "init", "-q", "-b", "main")
    project = tmp_path / "deep"
    (project / "data").mkdir(parents=True)
    (project / "code.py").write_text("one\n")
    (project / "dvc.lock").write_text("old\n")
    run_git(tmp_path, "add", ".")
    run_git(tmp_path, "commit", "-q", "-m", "begin")
    (project / "code.py").write_text("staged\n")
    run_git(tmp_path, "add", ".")
    (project / "code.py").write_text("not staged\n")
    return project


def test_files_are_committed_to_a_branch_and_nothing_of_the_users_is_touched(repository):
    (repository / "dvc.lock").write_text("new\n")
    before = run_git(repository, "status", "--porcelain"), run_git(repository, "rev-parse", "HEAD")
    made = git_repo.commit_files(repository, "convoy", ["dvc.lock", "metrics.json"], "digits: version 1 serves")
    assert (run_git(repository, "status", "--porcelain"), run_git(repository, "rev-parse", "HEAD")) == before
    assert (repository / "code.py").read_text() == "not staged\n"
    assert run_git(repository, "rev-parse", "convoy") == made
    assert run_git(repository, "show", "convoy:deep/dvc.lock") == "new"
    assert run_git(repository, "show", "convoy:deep/code.py") == "one"
    assert run_git(repository, "log", "-1", "--format=%s", "convoy") == "digits: version 1 serves"


def test_the_same_files_are_not_committed_twice_and_new_ones_follow(repository):
    (repository / "dvc.lock").write_text("new\n")
    first = git_repo.commit_files(repository, "convoy", ["dvc.lock"], "one")
    assert git_repo.commit_files(repository, "convoy", ["dvc.lock"], "again") is None
    (repository / "dvc.lock").write_text("newer\n")
    second = git_repo.commit_files(repository, "convoy", ["dvc.lock"], "two")
    assert run_git(repository, "log", "--format=%H", "convoy").splitlines()[:2] == [second, first]


def test_what_was_committed_elsewhere_meanwhile_is_joined(repository):
    (repository / "dvc.lock").write_text("new\n")
    first = git_repo.commit_files(repository, "convoy", ["dvc.lock"], "one")
    run_git(repository, "commit", "-q", "-a", "-m", "code")
    second = git_repo.commit_files(repository, "convoy", ["dvc.lock"], "two")
    main = run_git(repository, "rev-parse", "main")
    assert run_git(repository, "log", "-1", "--format=%P", second).split() == [first, main]
    assert run_git(repository, "show", "convoy:deep/code.py") == "not staged"


def test_a_branch_that_somebody_works_on_is_refused(repository):
    with pytest.raises(UserError, match="'main' is checked out"):
        git_repo.commit_files(repository, "main", ["dvc.lock"], "one")


def test_a_branch_goes_to_its_remote_if_git_has_one_for_it_and_never_by_force(repository, tmp_path):
    run_git(tmp_path, "init", "-q", "--bare", str(tmp_path / "origin.git"))
    (repository / "dvc.lock").write_text("new\n")
    made = git_repo.commit_files(repository, "convoy", ["dvc.lock"], "one")
    assert git_repo.push_branch(repository, "convoy") is None
    run_git(repository, "remote", "add", "origin", str(tmp_path / "origin.git"))
    run_git(repository, "config", "branch.convoy.remote", "origin")
    assert git_repo.push_branch(repository, "convoy") == "origin"
    assert run_git(tmp_path / "origin.git", "rev-parse", "convoy") == made
    run_git(repository, "update-ref", "refs/heads/convoy", run_git(repository, "rev-parse", "HEAD"))
    with pytest.raises(UserError, match="git push failed"):
        git_repo.push_branch(repository, "convoy")
    assert run_git(tmp_path / "origin.git", "rev-parse", "convoy") == made
