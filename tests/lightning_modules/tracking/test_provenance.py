import hashlib
import subprocess
from pathlib import Path

import pytest

from lightning_modules.tracking import provenance


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=Test", "-c", "user.email=test@localhost")
    return subprocess.run(
        ["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True
    ).stdout.strip()


@pytest.fixture
def repository(tmp_path) -> Path:
    """A commit with code, parameters and a note."""
    folder = tmp_path / "repository"
    folder.mkdir()
    (folder / "net.py").write_text("one = 1\n")
    (folder / "params.yaml").write_text("a: 1\n")
    (folder / "notes.txt").write_text("old\n")
    git(folder, "init", "-q")
    git(folder, "add", ".")
    git(folder, "commit", "-q", "-m", "all")
    return folder


def test_the_commit_and_its_changes_give_the_code_and_the_parameters_of_a_training(repository, tmp_path):
    (repository / "params.yaml").write_text("a: 2\n")
    (repository / "more").mkdir()
    (repository / "more/new.py").write_text("new = 'é'\n")
    (repository / "data.dvc").write_text("outs: []\n")
    (repository / "notes.txt").write_text("new\n")
    (repository / "picture.png").write_bytes(b"\x89PNG")
    status = git(repository, "status", "--porcelain")

    patch = provenance.make_patch(repository)

    assert git(repository, "status", "--porcelain") == status  # the user's own index is as it was
    copy = tmp_path / "copy"
    git(tmp_path, "clone", "-q", str(repository), str(copy))
    git(copy, "checkout", "-q", str(provenance.read_git_commit(repository)))
    subprocess.run(["git", "apply", "-"], cwd=copy, input=patch, check=True)
    assert (copy / "params.yaml").read_text() == "a: 2\n"
    assert (copy / "more/new.py").read_text() == "new = 'é'\n"
    assert (copy / "data.dvc").exists() and not (copy / "picture.png").exists()
    assert (copy / "notes.txt").read_text() == "old\n"


def test_without_changes_the_patch_is_empty(repository):
    assert provenance.make_patch(repository) == b""


def test_outside_git_there_is_neither_a_commit_nor_a_patch(tmp_path):
    assert provenance.read_git_commit(tmp_path) is None
    assert provenance.make_patch(tmp_path) == b""


def test_the_lock_is_known_by_its_digest(tmp_path):
    assert provenance.hash_lock_file(tmp_path) is None
    (tmp_path / "requirements.lock").write_bytes(b"a==1\n")
    assert provenance.hash_lock_file(tmp_path) == hashlib.sha256(b"a==1\n").hexdigest()
