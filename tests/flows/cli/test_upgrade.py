"""`convoy upgrade`, and what happens to a project of another version before it."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from flows.cli.init import init_project
from flows.cli.main import main
from flows.cli.upgrade import upgrade_project
from flows.project.params import load_section_params
from flows.project.project import Project
from flows.reports.status import report_status
from imageset.distribution import get_version
from imageset.exceptions import UserError
from imageset.normalize.params import read_normalize_params
from imageset.params import check_convoy_version
from tests.helpers.project import copy_params


@pytest.fixture(scope="module")
def initial(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("upgrade") / "pets"
    init_project(folder)
    return folder


@pytest.fixture
def project(initial, tmp_path) -> Project:
    """A new project; tests may change its params.yaml and dvc.yaml."""
    for name in ("params.yaml", "dvc.yaml"):
        (tmp_path / name).write_text((initial / name).read_text())
    return Project(tmp_path)


def set_version(project: Project, version: str) -> None:
    path = project / "params.yaml"
    path.write_text(re.sub(r"(?m)^  version: \S+", f"  version: {version}", path.read_text(), count=1))


def read(project: Project, name: str) -> dict:
    return yaml.safe_load((project / name).read_text())


def test_an_upgrade_writes_the_version_and_says_which_stages_run_again_and_why(project):
    set_version(project, "0.1.0")
    lines = upgrade_project(project).lines
    assert lines[0] == f"convoy.version in params.yaml: 0.1.0 -> {get_version()}"
    again = [line.split(",")[0] for line in lines if line.startswith("runs again: ")]
    assert again == [f"runs again: {name}" for name in ("normalize", "train", "evaluate", "explain")]
    assert read(project, "params.yaml")["convoy"]["version"] == get_version()
    assert "# 1 | 3 | auto: 1 if every picture is grey" in (project / "params.yaml").read_text()
    check_convoy_version(project / "params.yaml")


def test_every_stage_depends_on_the_version_that_an_upgrade_writes(initial):
    def list_stages_that_depend_on_the_version() -> list[str]:
        stages = read(Project(initial), "dvc.yaml")["stages"]
        return [name for name, stage in stages.items() if "convoy.version" in stage["params"]]

    assert list_stages_that_depend_on_the_version() == ["normalize", "train", "evaluate", "explain"]


def test_a_dry_run_says_the_same_and_writes_nothing(project):
    set_version(project, "0.1.0")
    before = (project / "params.yaml").read_bytes(), (project / "dvc.yaml").read_bytes()
    dry = upgrade_project(project, dry_run=True).lines
    assert ((project / "params.yaml").read_bytes(), (project / "dvc.yaml").read_bytes()) == before
    assert dry[:-1] == upgrade_project(project).lines[:-1]


def test_keys_and_outputs_that_are_new_are_added_and_own_ones_stay(project):
    set_version(project, "0.1.0")
    params = (project / "params.yaml").read_text()
    (project / "params.yaml").write_text(
        re.sub(r"  patience:.*\n|  max_slowdown:.*\n|    shift:.*\n|  near_duplicate_bits:.*\n", "", params)
        + "mine: {x: 1}\n"
    )
    pipeline = read(project, "dvc.yaml")
    pipeline["stages"]["train"]["deps"].append("mynet.py")
    pipeline["stages"]["evaluate"]["outs"].remove("data/models/report/slices.csv")
    pipeline["stages"]["train"]["cmd"] = "python -m lightning_modules fit"
    del pipeline["stages"]["explain"]
    (project / "dvc.yaml").write_text(yaml.safe_dump(pipeline, sort_keys=False))
    lines = upgrade_project(project).lines
    new = [line for line in lines if line.startswith("new in params.yaml")]
    assert new == [f"new in params.yaml: {key}" for key in ("train.model.shift", "promote.max_slowdown")]
    assert [line for line in lines if line.startswith("changed in dvc.yaml")] == [
        f"changed in dvc.yaml: stage {name}" for name in ("train", "evaluate", "explain")
    ]
    assert load_section_params(project / "params.yaml", "promote")["max_slowdown"] == 3.0
    after = read(project, "params.yaml")
    assert after["mine"] == {"x": 1} and "near_duplicate_bits" not in after["normalize"]  # it has a default
    stages = read(project, "dvc.yaml")["stages"]
    assert "mynet.py" in stages["train"]["deps"] and stages["train"]["cmd"].startswith("python -P")
    assert "data/models/report/slices.csv" in stages["evaluate"]["outs"] and "explain" in stages


def test_a_project_of_this_version_has_nothing_to_do(project):
    before = (project / "params.yaml").read_bytes()
    assert upgrade_project(project).lines == (f"the project is of Convoy {get_version()} already",)
    assert (project / "params.yaml").read_bytes() == before


@pytest.mark.parametrize(
    ("version", "said"),
    [
        ("99.0.0", r"is older; install 99\.0\.0 or a later one: pip install 'convoy-vision>=99\.0\.0'"),
        ("later", "'later' is not a version"),
        ("[1]", "convoy.version: must be text"),
    ],
)
def test_a_newer_or_a_wrong_version_is_one_line(project, version, said):
    set_version(project, version)
    before = (project / "params.yaml").read_bytes()
    with pytest.raises(UserError, match=said) as caught:
        upgrade_project(project)
    assert "\n" not in str(caught.value) and (project / "params.yaml").read_bytes() == before


def test_a_project_that_depends_on_the_code_itself_needs_no_upgrade(tmp_path):
    copy_params(tmp_path)
    with pytest.raises(UserError, match="depend on Convoy's code itself"):
        upgrade_project(Project(tmp_path))


@pytest.mark.parametrize(
    "command", [["imageset", "normalize"], ["lightning_modules", "fit"], ["lightning_modules", "test"]]
)
def test_no_stage_runs_for_another_version_than_dvc_would_record(project, command):
    set_version(project, "0.1.0")
    done = subprocess.run(
        [sys.executable, "-P", "-m", *command],
        cwd=project.folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2 and "the project is of Convoy 0.1.0" in done.stderr
    assert "`convoy upgrade`" in done.stderr and done.stderr.count("\n") == 1


def test_status_says_so_among_the_problems(project):
    assert "problems  none" in report_status(project)
    set_version(project, "0.1.0")
    assert "`convoy upgrade`" in report_status(project).splitlines()[-1]


def test_run_says_so_before_anything_starts(project, tmp_path, monkeypatch, capsys):
    set_version(project, "0.1.0")
    (tmp_path / "pictures" / "a").mkdir(parents=True)
    monkeypatch.chdir(project.folder)
    assert main(["run", "pictures"]) == 2
    assert "`convoy upgrade` says what runs again" in capsys.readouterr().err


def test_an_upgrade_of_a_project_that_knew_no_automatic_groups_leaves_its_split_as_it_was(project):
    """A key that is left out means null; written as `auto`, it would divide the pictures anew."""
    assert read(project, "params.yaml")["normalize"]["split"]["group"] == "auto"  # of a new project
    path = project / "params.yaml"
    path.write_text(re.sub(r"(?m)^    group: auto.*\n", "", path.read_text()))
    set_version(project, "0.1.0")
    before = read_normalize_params(path)
    assert before["split"]["group"] is None
    assert not any("group" in line for line in upgrade_project(project).lines)
    assert read_normalize_params(path) == before
