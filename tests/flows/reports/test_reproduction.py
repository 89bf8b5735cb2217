import json
import subprocess
from pathlib import Path

import pytest

from flows.project.project import Project
from flows.promotion import model_registry
from flows.reports.reproduction import VerifyResult, verify_run
from imageset.exceptions import UserError
from tests.helpers.project import run_convoy


def run_id(project: Path) -> str:
    return str(json.loads((project / "data/models/classifier/run.json").read_text())["run_id"])


def tree(project: Path) -> str:
    git = ["git", "-C", str(project), "status", "--porcelain", "--ignored=no"]
    return subprocess.run(git, capture_output=True, text=True, check=True).stdout


@pytest.mark.long
def test_a_run_is_trained_again_from_its_commit_and_the_same_comes_of_it(served):
    before = tree(served.folder), (served.folder / "metrics.json").read_bytes()
    done = run_convoy(served.folder, "verify", run_id(served.folder)[:8])
    assert done.returncode == 0, done.stdout
    said = done.stdout.splitlines()[-1]
    assert "reproduced; " in said and said.endswith("metrics agree to the last digit, the same weights")
    assert (tree(served.folder), (served.folder / "metrics.json").read_bytes()) == before
    assert list((served.folder / ".cache").glob("verify-*")) == []


def test_what_differs_is_named_with_both_values():
    first = {"test_accuracy": 0.9, "test_loss": 0.5, "num_test": 7.0}
    again = {"test_accuracy": 0.8, "num_test": 7.0}
    found = VerifyResult("abc", "c" * 40, first, again, False, 0.01)
    assert not found.agrees and found.differing_metrics == ["test_accuracy"]
    assert "NOT reproduced, other weights" in str(found)
    assert "0.900000 then, 0.800000 now" in str(found) and "test_loss: in one of the two only" in str(found)


def test_metrics_within_the_tolerance_agree_and_nothing_agrees_with_no_number():
    near = VerifyResult("abc", "c" * 40, {"test_loss": 0.5}, {"test_loss": 0.504}, False, 0.01)
    assert near.agrees and "agree within 0.01" in str(near)
    assert not VerifyResult("abc", "c" * 40, {"test_loss": 0.5}, {"test_loss": float("nan")}, False, 0.01).agrees


def test_a_run_from_outside_git_or_of_a_commit_that_is_not_here_is_refused(project):
    client = model_registry.connect_registry(Project(project))
    run = client.create_run(client.create_experiment("digits"))
    client.set_terminated(run.info.run_id)
    with pytest.raises(UserError, match="was trained outside git"):
        verify_run(Project(project), run.info.run_id)
    subprocess.run(["git", "init", "-q"], cwd=project, check=True)
    client.set_tag(run.info.run_id, "convoy.git_commit", "0" * 40)
    with pytest.raises(UserError, match=r"commit 0000000.* is not in this repository"):
        verify_run(Project(project), run.info.run_id)
