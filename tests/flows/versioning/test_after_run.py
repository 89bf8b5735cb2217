import pytest

from flows.project.project import Project
from flows.reports.status import report_status
from flows.versioning import after_run as module
from flows.versioning import dvc_repo
from flows.versioning.after_run import load_post_steps, run_post_steps
from imageset.exceptions import UserError
from tests.helpers.processes import run_dvc, run_git

PARAMS = "after_run:\n  push: {}\n  commit: {}\n  branch: convoy\n"


def test_no_repository_is_said_early(tmp_path):
    (tmp_path / "params.yaml").write_text(PARAMS.format("auto", "true"))
    with pytest.raises(UserError, match="not a git repository"):
        load_post_steps(Project(tmp_path))


def test_a_push_without_a_remote_is_left_out_by_auto_and_refused_by_true(tmp_path):
    (tmp_path / "params.yaml").write_text(PARAMS.format("auto", "false"))
    assert load_post_steps(Project(tmp_path)).push is False
    (tmp_path / "params.yaml").write_text(PARAMS.format("true", "false"))
    with pytest.raises(UserError, match="DVC has no default remote"):
        load_post_steps(Project(tmp_path))


def test_what_dvc_tracks_is_pushed_to_the_remote_and_damage_is_found(prefect_server, tmp_path, monkeypatch):
    project, remote = tmp_path / "project", tmp_path / "remote"
    (project / "data/raw").mkdir(parents=True)
    (project / "data/raw/a.tar").write_text("bytes")
    run_git(project, "init", "-q")
    run_dvc(project, "init", "-q")
    run_dvc(project, "add", "-q", "data/raw")
    run_dvc(project, "remote", "add", "-q", "-d", "store", str(remote))
    (project / "params.yaml").write_text(PARAMS.format("auto", "false"))
    assert load_post_steps(Project(project)).push is True
    monkeypatch.setattr(module, "push_data", module.push_data.with_options(retries=0))
    remote.write_text("a file where the remote's folder should be")
    with pytest.raises(UserError, match="dvc push failed"):
        run_post_steps(load_post_steps(Project(project)), Project(project), "digits")
    assert "problems  dvc push failed: " in report_status(Project(project))
    assert "; `convoy run` pushes again, and so does `dvc push` (since 20" in report_status(Project(project))
    remote.unlink()
    run_post_steps(load_post_steps(Project(project)), Project(project), "digits")
    assert "dvc push" not in report_status(Project(project))
    assert sum(path.is_file() for path in remote.rglob("*")) == 2
    assert list(dvc_repo.find_damaged_files(Project(project))) == []

    (project / "data/raw/a.tar").chmod(0o644)
    (project / "data/raw/a.tar").write_text("other")
    (damaged,) = dvc_repo.find_damaged_files(Project(project))
    assert damaged.path == "data/raw/a.tar" and damaged.actual_md5 not in (damaged.md5, None)
    assert (damaged.target, damaged.is_cached, damaged.has_copy) == ("data/raw.dvc", False, True)
    assert "data/raw.dvc" in dvc_repo.find_changed_stages(Project(project))
