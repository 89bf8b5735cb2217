import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from flows.project.project import Project
from flows.versioning import dvc_repo
from flows.versioning.raw_restoration import require_whole_raw, restore_raw
from imageset.exceptions import UserError
from imageset.raw.damage import find_damaged_raw_files
from imageset.raw.ingestion import ingest_source
from tests.helpers.datasets import flip_bit, snapshot
from tests.helpers.images import make_image_folder


@pytest.fixture(scope="module")
def ingested(tmp_path_factory) -> Path:
    """A project whose raw data is versioned by DVC, with data/raw.dvc in git."""
    folder = tmp_path_factory.mktemp("ingested")
    (folder / "dvc.yaml").write_text("stages: {}\n")
    run(folder, "git init -q", f"{sys.executable} -m dvc init -q")
    ingest_source(make_image_folder(folder / "set", num_each=5), folder / "data/raw")
    dvc_repo.add_raw(Project(folder), "set", "set")
    run(folder, "git add data/raw.dvc", "git -c user.name=Test -c user.email=test@localhost commit -q -m raw")
    return folder


@pytest.fixture
def project(ingested: Path, tmp_path: Path) -> Project:
    """A copy of it, to be damaged."""
    return Project(shutil.copytree(ingested, tmp_path / "project"))


def run(folder: Path, *commands: str) -> None:
    for command in commands:
        subprocess.run(command.split(), cwd=folder, check=True)


def find_cached(project: Project, name: str) -> Path:
    md5 = dvc_repo.compute_md5(project / "data/raw" / name)
    assert md5 is not None
    return project / ".dvc/cache/files/md5" / md5[:2] / md5[2:]


def test_each_damaged_file_is_restored_from_dvcs_cache(project, caplog):
    raw = project / "data/raw"
    before = snapshot(raw)
    assert {"shard-00000.tar", "records.parquet", "source.json"} <= before.keys()
    for name in before:
        flip_bit(raw / name, keep_time=True)  # `dvc checkout --force` would take it for whole
        assert restore_raw(project) == []
        assert f"{name} was damaged; restored from DVC's cache" in caplog.messages[-1]
        assert snapshot(raw) == before


def test_damage_that_dvc_has_versioned_is_undone(project):
    raw = project / "data/raw"
    before, pointer = snapshot(raw), (project / "data/raw.dvc").read_text()
    flip_bit(raw / "shard-00000.tar")
    dvc_repo.add_raw(project, "set", "set")  # as `dvc repro` by hand does
    assert (project / "data/raw.dvc").read_text() != pointer
    require_whole_raw(project, thorough=True)
    dvc_repo.add_raw(project, "set", "set")
    assert snapshot(raw) == before and (project / "data/raw.dvc").read_text() == pointer


def test_a_copy_that_is_damaged_too_is_not_used_and_the_remote_gives_the_file(project, tmp_path_factory):
    raw, remote = project / "data/raw", tmp_path_factory.mktemp("remote")
    before = snapshot(raw)
    cached = find_cached(project, "shard-00000.tar")
    flip_bit(cached)
    flip_bit(raw / "shard-00000.tar")
    assert restore_raw(project) == ["shard-00000.tar"]
    with pytest.raises(UserError, match=r"shard-00000\.tar: .*`convoy run` stores its pictures again"):
        require_whole_raw(project)
    (raw / "shard-00000.tar").write_bytes(before["shard-00000.tar"])
    dvc_repo.add_raw(project, "set", "set")
    dvc_repo.run_dvc(project.folder, "remote", "add", "-d", "there", str(remote))
    dvc_repo.push_to_remote(project)
    flip_bit(cached)
    flip_bit(raw / "shard-00000.tar")
    require_whole_raw(project)
    assert snapshot(raw) == before and find_damaged_raw_files(raw, thorough=True) == []


def test_the_description_of_other_tables_is_not_put_back(project):
    raw = project / "data/raw"
    ingest_source(make_image_folder(project / "set", num_each=1, first=30), raw)  # and no `dvc add`
    flip_bit(raw / "source.json")
    assert restore_raw(project) == ["source.json"]
    with pytest.raises(UserError, match=r"source\.json: .*`dvc checkout --force data/raw\.dvc`"):
        require_whole_raw(project)
