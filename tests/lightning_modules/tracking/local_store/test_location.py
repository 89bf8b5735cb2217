from pathlib import Path

import pytest

from lightning_modules.tracking.client import connect_to_mlflow, ensure_experiment, get_tracking_uri
from lightning_modules.tracking.local_store.location import (
    find_original_project,
    find_shared_folder,
    get_database_path,
)
from lightning_modules.tracking.offline_queue import find_queue_folder


def make_folder(path: Path, *holding: str) -> Path:
    for name in holding:
        (path / name).mkdir(parents=True)
    path.mkdir(parents=True, exist_ok=True)
    return path


def test_projects_of_one_repository_share_the_store_at_its_top(tmp_path):
    top = make_folder(tmp_path / "repository", ".git")
    pets, cars = make_folder(top / "pets"), make_folder(top / "work/cars")
    assert find_shared_folder(pets) == find_shared_folder(cars) == top


def test_a_worktree_whose_git_is_a_file_is_a_top_of_its_own(tmp_path):
    make_folder(tmp_path, ".git")
    worktree = make_folder(tmp_path / "worktree")
    (worktree / ".git").write_text("gitdir: ../.git/worktrees/worktree\n")
    assert find_shared_folder(worktree) == worktree


def test_a_project_that_has_a_store_keeps_it(tmp_path):
    project = make_folder(make_folder(tmp_path, ".git") / "pets")
    (project / "mlflow.db").touch()
    assert find_shared_folder(project) == project


def test_a_project_outside_git_has_a_store_of_its_own(tmp_path):
    assert find_shared_folder(tmp_path) == find_original_project(tmp_path) == tmp_path


@pytest.mark.parametrize("place", ["tmp1a2b", "standalone/tmp1a2b"])
def test_a_temporary_copy_of_dvc_belongs_to_the_project_that_it_was_copied_from(tmp_path, place):
    top = make_folder(tmp_path, ".git", ".dvc", "pets")
    copy = make_folder(top / ".dvc/tmp/exps" / place, ".git", "pets")
    assert find_original_project(copy) == find_shared_folder(copy / "pets") == top
    assert find_original_project(copy / "pets") == top / "pets"
    assert find_queue_folder(copy / "pets") == top / "pets/.cache/mlflow-outbox"


def test_a_temporary_copy_belongs_to_its_project_where_dvc_was_initialized_below_the_top(tmp_path):
    top = make_folder(tmp_path, ".git", "pets/.dvc")
    copy = make_folder(top / "pets/.dvc/tmp/exps/standalone/tmp1a2b", ".git", "pets")
    assert find_original_project(copy / "pets") == top / "pets"
    (top / "pets" / "mlflow.db").touch()
    assert get_tracking_uri(copy / "pets") == f"sqlite:///{top}/pets/mlflow.db"


def test_artifacts_lie_beside_the_database_whatever_the_project(tmp_path, monkeypatch, empty_mlflow_db):
    elsewhere = make_folder(tmp_path / "with ä space")
    (elsewhere / "mlflow.db").write_bytes(empty_mlflow_db.read_bytes())
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{elsewhere}/mlflow.db")
    client = connect_to_mlflow(make_folder(tmp_path / "project"))
    experiment = client.get_experiment(ensure_experiment(client, "flowers", tmp_path / "project"))
    assert experiment.artifact_location == (elsewhere / "mlartifacts/flowers").as_uri()


def test_only_a_sqlite_uri_has_a_database_file(tmp_path):
    assert get_database_path(f"sqlite:///{tmp_path}/a b#c/mlflow.db?timeout=3") == tmp_path / "a b#c/mlflow.db"
    assert get_database_path("http://127.0.0.1:5000") is get_database_path("postgresql://host/db") is None
