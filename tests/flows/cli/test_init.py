"""`convoy init`, and the folder that commands work in."""

import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from flows.cli.init import PROJECT_TEMPLATES, fill_template, init_project
from flows.cli.main import main
from flows.project.paths import TEMPLATES
from flows.project.project import Project
from flows.versioning import git_repo, shared_cache
from flows.versioning.git_repo import run_git
from imageset.distribution import get_version
from imageset.exceptions import UserError
from tests.helpers.permissions import obey_permissions
from tests.helpers.project import ROOT


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A project as `convoy init` makes it; tests only read it."""
    folder = tmp_path_factory.mktemp("init") / "My Flowers"
    init_project(folder)
    return folder


def read_tree(folder: Path) -> dict[str, bytes]:
    """All files of a folder with their contents, without those of git and DVC."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not {".git", ".dvc"} & set(path.parts)
    }


def run(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *words], cwd=cwd, capture_output=True, text=True, check=False)


def test_it_makes_everything_that_a_project_needs(made):
    assert set(read_tree(made)) == set(PROJECT_TEMPLATES.values())
    assert (made / ".git").is_dir() and (made / ".dvc" / "config").is_file() and (made / "data/inbox").is_dir()
    params = yaml.safe_load((made / "params.yaml").read_text())
    assert (params["name"], params["convoy"]["version"]) == ("my-flowers", get_version())
    names = [
        deployment["name"] for deployment in yaml.safe_load((made / "prefect.yaml").read_text())["deployments"]
    ]
    assert names == ["my-flowers-nightly", "my-flowers-inbox", "my-flowers-weekly"]
    assert (made / "README.md").read_text().startswith("# my-flowers\n")
    assert run("-m", "dvc", "status", cwd=made).stdout.startswith("normalize:")  # its dvc.yaml is valid


def test_git_ignores_what_a_project_writes_besides_its_records(made):
    ignored = [
        "mlflow.db",
        "mlartifacts/1",
        ".cache/prefect.db",
        "data/raw/shard-00000.tar",
        "predictions.parquet",
    ]
    kept = ["data/ledger.jsonl", "data/raw.dvc", "dvc.lock", "metrics.json"]
    checked = run_git(made, "check-ignore", "--", *ignored, *kept).splitlines()
    assert checked == ignored


def test_nothing_is_committed_unless_it_is_asked_for(made, tmp_path):
    assert run_git(made, "rev-parse", "--verify", "--quiet", "HEAD", allow_failure=True) == ""
    result = init_project(tmp_path / "other", commit=True)
    assert result.lines[-1].startswith("committed as ")
    assert run_git(tmp_path / "other", "status", "--porcelain") == ""


def test_the_commit_holds_what_init_added_to_ignore_files_but_not_what_the_user_had_changed_in_them(tmp_path):
    run_git(tmp_path, "init", "--quiet")
    init_project(tmp_path / "first", commit=True)
    assert run_git(tmp_path, "status", "--porcelain") == ""

    (tmp_path / ".gitignore").write_text("mine\n")
    init_project(tmp_path / "second", commit=True)
    assert "/mlflow.db*" in (tmp_path / ".gitignore").read_text().splitlines()
    assert run_git(tmp_path, "status", "--porcelain") == "M .gitignore"
    assert "mine" not in run_git(tmp_path, "show", "HEAD:.gitignore")


def test_a_second_init_changes_nothing_and_says_so(made, tmp_path, monkeypatch):
    before = read_tree(made)
    result = init_project(made)
    assert read_tree(made) == before
    assert [line for line in result.lines if not line.startswith("kept ")] == []


def test_what_killed_inits_of_git_and_dvc_left_is_completed(tmp_path):
    for name in (".git/hooks", ".dvc/tmp"):
        (tmp_path / name).mkdir(parents=True)
    assert "initialized DVC" in init_project(tmp_path).lines
    assert run("-m", "dvc", "status", cwd=tmp_path).returncode == 0
    (tmp_path / ".dvc/.gitignore").unlink()
    (tmp_path / ".dvc/config").write_text("[core]\n    remote = ours\n")
    assert "initialized DVC" not in init_project(tmp_path).lines  # somebody has configured it


def test_a_config_of_dvc_whose_writing_was_killed_is_written_again(made, tmp_path):
    project = Path(shutil.copytree(made, tmp_path / "project"))
    config = project / ".dvc/config"
    text = config.read_text()
    assert text
    config.write_text("")  # as `dvc init` leaves it
    init_project(project)
    assert config.read_text() == ""  # somebody's own
    (project / ".dvc/.config.partial").write_text(text[:5])
    init_project(project)
    assert config.read_text() == text and not (project / ".dvc/.config.partial").exists()


def test_files_that_are_there_are_kept_and_lists_of_ignored_files_are_completed(tmp_path):
    (tmp_path / "README.md").write_text("mine\n")
    (tmp_path / ".gitignore").write_text("secrets.txt")
    lines = init_project(tmp_path, name="pets").lines
    assert (tmp_path / "README.md").read_text() == "mine\n" and "kept README.md, which was there" in lines
    ignores = (tmp_path / ".gitignore").read_text().splitlines()
    assert ignores[0] == "secrets.txt" and "/mlflow.db*" in ignores


@pytest.mark.parametrize("name", ["2024", "on", "1e5", "a.b_c-D"])
def test_a_name_that_yaml_would_read_as_something_else_stays_text(name):
    text = fill_template((TEMPLATES / "params.yaml").read_text(), name)
    assert yaml.safe_load(text)["name"] == name
    assert yaml.safe_load(fill_template((TEMPLATES / "prefect.yaml").read_text(), name))["name"] == name


def test_the_templates_are_the_files_of_this_repository_but_for_the_code_and_the_version():
    template, own = ((folder / "params.yaml").read_text() for folder in (TEMPLATES, ROOT))
    begin, rest = template.split("name: NAME  ", 1)
    comment, after = rest.split("\n\nconvoy:\n", 1)
    assert own == f"{begin}name: digits{comment}\n\n{after.split(chr(10), 2)[2]}"

    template, own = (yaml.safe_load(path.read_text()) for path in (TEMPLATES / "pipeline.yaml", ROOT / "dvc.yaml"))
    for stage in own["stages"].values():
        stage["deps"] = [path for path in stage["deps"] if path.startswith("data/")]
        stage["cmd"] = stage["cmd"].replace("python -m", "python -P -m")
        stage["params"] = ["convoy.version", *stage["params"]]
    assert template == own

    template, own = (yaml.safe_load((folder / "prefect.yaml").read_text()) for folder in (TEMPLATES, ROOT))
    entrypoints = [deployment.pop("entrypoint") for deployment in template["deployments"]]
    flows = [deployment.pop("entrypoint").rpartition(":")[2] for deployment in own["deployments"]]
    assert entrypoints == [f"convoy.deployments.{name}" for name in flows]
    for deployment in template["deployments"]:
        deployment["name"] = deployment["name"].removeprefix("NAME-")
        assert deployment.pop("tags") == ["project:NAME"]
    del template["definitions"]["work_pool"]["job_variables"]["env"]["PYTHONSAFEPATH"]  # an anchor: of all three
    assert {**template, "name": "convoy"} == own


def test_this_repository_is_one_project():
    """Neither DVC nor `convoy up` may take a template for a pipeline."""
    assert git_repo.list_project_folders(ROOT) == [ROOT]
    assert [path.parent for path in ROOT.glob("*/**/dvc.yaml") if ".venv" not in path.parts] == []


# ---- where it cannot be -----------------------------------------------------------------------------------------


def error_of(folder: Path, **options) -> str:
    with pytest.raises(UserError) as caught:
        init_project(folder, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_folder_of_another_pipeline_is_left_alone(tmp_path):
    (tmp_path / "dvc.yaml").write_text("stages: {prepare: {cmd: python prepare.py}}\n")
    assert f"choose another folder: convoy init {tmp_path}/NAME" in error_of(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["dvc.yaml"]


def test_a_file_of_another_program_in_a_sub_folder_does_not_hide_the_project(repository, monkeypatch):
    (repository / "pets" / "data" / "params.yaml").write_text("alpha: 1\n")
    monkeypatch.chdir(repository / "pets" / "data")
    assert Project.find().folder == repository / "pets"


@pytest.mark.parametrize("inside", [".git", ".dvc", ".git/hooks"])
def test_the_folders_of_git_and_dvc_are_refused(tmp_path, inside):
    folder = tmp_path / inside / "x"
    assert "which" in error_of(folder) and not folder.exists()


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "x").write_text("")
    assert "is a file; name a folder" in error_of(tmp_path / "x")


def test_a_disk_that_cannot_be_written_leaves_nothing_half_made(tmp_path, monkeypatch):
    from flows.cli import init

    def write(path, text):
        if path.name == "dvc.yaml":
            raise OSError(30, "Read-only file system", str(path))
        path.write_text(text)

    monkeypatch.setattr(init, "write_text", write)
    assert "dvc.yaml: Read-only file system; choose another folder" in error_of(tmp_path)
    assert read_tree(tmp_path) == {}


def test_a_folder_without_the_right_to_write_is_named(tmp_path):
    tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    with obey_permissions():
        assert "not writable; choose another folder: convoy init DIR" in error_of(tmp_path / "x")


@pytest.mark.parametrize("name", ["", "a b", "../x", "-x", "x" * 65, "Blümchen"])
def test_a_name_that_not_every_tool_takes_is_refused(tmp_path, name):
    assert "--name: must be at most 64 letters" in error_of(tmp_path / "x", name=name)


# ---- several in one repository ----------------------------------------------------------------------------------


@pytest.fixture
def repository(tmp_path) -> Path:
    """Somebody's repository with two projects in it."""
    run_git(tmp_path, "init", "--quiet")
    (tmp_path / ".gitignore").write_text("*.log\n")
    init_project(tmp_path / "pets")
    init_project(tmp_path / "deep" / "cars")
    return tmp_path


def test_projects_below_the_top_share_its_cache_and_their_store_stays_out_of_git(repository):
    for folder in (repository / "pets", repository / "deep" / "cars"):
        where = run("-m", "dvc", "cache", "dir", cwd=folder).stdout.strip()
        assert Path(folder / where).resolve() == repository / ".cache" / "dvc"
    assert run_git(repository, "check-ignore", "mlflow.db", "mlartifacts/x", ".cache/dvc/x", "a.log")
    assert (repository / ".gitignore").read_text().count("/mlflow.db*") == 1
    assert git_repo.list_project_folders(repository) == [repository / "deep/cars", repository / "pets"]


def test_a_project_that_is_moved_in_its_repository_or_out_of_it_finds_its_cache(repository, tmp_path_factory):
    (repository / ".cache" / "dvc").mkdir(parents=True)
    moved = repository / "deep" / "deeper" / "pets"
    moved.parent.mkdir()
    (repository / "pets").rename(moved)
    shared_cache.mend_config(moved)
    where = run("-m", "dvc", "cache", "dir", cwd=moved).stdout.strip()
    assert Path(moved / where).resolve() == repository / ".cache" / "dvc"

    alone = tmp_path_factory.mktemp("alone") / "pets"
    moved.rename(alone)
    run_git(alone, "init", "--quiet")
    shared_cache.mend_config(alone)
    where = run("-m", "dvc", "cache", "dir", cwd=alone).stdout.strip()
    assert Path(alone / where).resolve() == alone / ".dvc" / "cache"
    before = (alone / ".dvc" / "config").read_text()
    shared_cache.mend_config(alone)
    assert (alone / ".dvc" / "config").read_text() == before and "analytics = false" in before


def test_two_projects_of_one_repository_cannot_have_one_name(repository):
    assert "give another name: --name NAME" in error_of(repository / "more" / "pets")
    assert init_project(repository / "more" / "pets", name="more-pets").name == "more-pets"


def test_a_project_is_found_from_its_sub_folders_and_by_c(repository, monkeypatch, capsys):
    pets = repository / "pets"
    monkeypatch.chdir(pets / "data" / "inbox")
    assert Project.find() == Project(pets)
    monkeypatch.chdir(repository)
    assert main(["-C", "pets", "preset", "scratch"]) == 0
    assert "convnet" in (pets / "params.yaml").read_text().lower()
    monkeypatch.chdir(repository)
    assert main(["run", "../pictures"]) == 2
    said = capsys.readouterr().err
    assert said.endswith("holds deep/cars, pets; name one: convoy -C deep/cars run ...\n"), said
    assert main(["-C", "nowhere", "status"]) == 2
    assert capsys.readouterr().err == "error: -C nowhere: No such file or directory\n"


def test_paths_that_are_typed_in_a_sub_folder_are_those_of_the_sub_folder(repository, monkeypatch):
    import argparse

    from flows.cli.location import enter_project

    monkeypatch.chdir(repository / "pets" / "data")
    arguments = argparse.Namespace(
        source="inbox?labels=a", out="/tmp/x.csv", pictures="s3://a/b", report=Path("r.json")
    )
    assert enter_project(arguments).folder == repository / "pets" == Path.cwd()
    assert (arguments.source, arguments.out, arguments.pictures) == (
        "data/inbox?labels=a",
        "/tmp/x.csv",
        "s3://a/b",
    )
    assert arguments.report == Path("data/r.json")


@pytest.mark.parametrize(
    "words", [["status"], ["run", "pictures"], ["predict", "x"], ["up"], ["-C", ".", "history"]]
)
def test_every_command_outside_a_project_names_init(tmp_path, monkeypatch, capsys, words):
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    printed = capsys.readouterr().err
    assert "`convoy init` makes one" in printed and printed.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
