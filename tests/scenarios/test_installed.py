"""Projects elsewhere, with Convoy installed from its wheel: made, moved, copied, cloned and served."""

import json
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from flows.orchestration.prefect_server import find_free_port
from tests.helpers.images import write_digit_images
from tests.helpers.installation import install_wheel
from tests.helpers.processes import run_git

pytestmark = pytest.mark.long  # `make projects`


class Shell:
    """A terminal of a user: an empty home, and nothing of this repository on any path."""

    def __init__(self, commands: Path, home: Path) -> None:
        self.commands = commands
        self.environment = {
            "HOME": str(home), "PATH": f"{commands}:/usr/local/bin:/usr/bin:/bin", "OMP_NUM_THREADS": "2",
            "DVC_NO_ANALYTICS": "1", "GIT_AUTHOR_NAME": "Test", "GIT_AUTHOR_EMAIL": "test@localhost",
            "GIT_COMMITTER_NAME": "Test", "GIT_COMMITTER_EMAIL": "test@localhost",
        }  # fmt: skip

    def start(self, folder: Path, *words: str, **options) -> subprocess.Popen[str]:
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True} | options
        return subprocess.Popen(words, cwd=folder, env=self.environment, **options)

    def call(self, folder: Path, *words: str) -> tuple[int, str]:
        process = self.start(folder, *words)
        output, _ = process.communicate(timeout=900)
        return process.returncode, output

    def convoy(self, folder: Path, *words: str) -> str:
        """Call `convoy`; return what it printed, and fail if it failed."""
        status, output = self.call(folder, "convoy", *words)
        assert status == 0, output
        assert "Traceback" not in output
        return output

    def dvc(self, folder: Path, *words: str) -> str:
        status, output = self.call(folder, "python", "-m", "dvc", *words)
        assert status == 0, output
        return output


@pytest.fixture(scope="module")
def shell(tmp_path_factory) -> Shell:
    return Shell(install_wheel(tmp_path_factory.mktemp("wheel")), tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Path:
    """The folder with the pictures of two projects."""
    folder = tmp_path_factory.mktemp("work")
    write_digit_images(folder / "even", "024", num_each=40)
    write_digit_images(folder / "odd", "135", num_each=40)
    return folder


@pytest.fixture(scope="module")
def repository(shell, work) -> Path:
    """A repository with two trained projects, each with folders of its own that bear our names."""
    repository = work / "repository"
    repository.mkdir()
    run_git(repository, "init", "--quiet")
    for name in ("even", "odd"):
        shell.convoy(repository, "init", name)
        shell.convoy(repository, "-C", name, "preset", "scratch")
        shorten_training(repository / name)
        for ours in ("flows", "imageset", "lightning_modules"):
            (repository / name / ours).mkdir()
            (repository / name / ours / "__init__.py").write_text("raise ImportError('a folder of the project')\n")
        shell.convoy(repository, "-C", name, "run", f"../../{name}")
    return repository


def shorten_training(project: Path) -> None:
    path = project / "params.yaml"
    changes = {"max_epochs: 15": "max_epochs: 12", "resamples: 1000": "resamples: 200", "steps: 48": "steps: 4"}
    text = path.read_text()
    for before, after in changes.items():
        text = text.replace(before, after)
    path.write_text(text)


def read_models(table: Path) -> set[str]:
    return set(pq.read_table(table)["model_name"].to_pylist())


def test_the_version_is_that_of_the_distribution(shell, work):
    assert re.fullmatch(r"convoy-vision \d+\.\d+\.\d+\n", shell.convoy(work, "--version"))


def test_two_projects_share_one_store_and_each_predicts_with_its_own_model(shell, repository, work):
    assert (repository / "mlflow.db").exists() and (repository / ".cache" / "prefect.db").exists()
    for name in ("even", "odd"):
        assert not (repository / name / "mlflow.db").exists()
        shell.convoy(repository / name / "data", "predict", str(work / "odd"), "--out", "table.parquet")
        assert read_models(repository / name / "data" / "table.parquet") == {name}
    listed = shell.convoy(repository, "status").splitlines()
    assert [line.split()[0] for line in listed[:2]] == ["even", "odd"]
    assert all("version 1 since" in line for line in listed[:2])
    status = shell.convoy(repository, "-C", "odd", "status")
    assert (
        "odd version 1" in status and "even version" not in status and status.rstrip().endswith("problems  none")
    )


def test_a_second_source_is_refused_and_the_next_run_has_nothing_to_do(shell, repository, work):
    status, said = shell.call(repository / "even", "convoy", "run", str(work / "odd"))
    assert status == 2 and "--replace-source" in said and said.count("\n") == 1
    assert "stages up to date, skipped: normalize, train, evaluate, explain" in shell.convoy(
        repository / "even", "run"
    )


def test_what_was_moved_and_what_was_copied_works_on_its_own(shell, repository, work):
    moved, copied = work / "moved elsewhere", work / "copied"
    shutil.copytree(repository, moved, symlinks=True)  # a move, but the other tests need the first place
    shutil.copytree(repository, copied, symlinks=True)
    repository.rename(work / "away")
    try:
        shell.convoy(moved / "even", "predict", str(work / "even"), "--out", "t.parquet")
        assert read_models(moved / "even" / "t.parquet") == {"even"}
        params = moved / "even" / "params.yaml"
        params.write_text(params.read_text().replace("max_epochs: 12", "max_epochs: 13"))
        shell.convoy(moved / "even", "run")
        assert shell.convoy(moved / "even", "status").rstrip().endswith("problems  none")
        assert not repository.exists()
    finally:
        (work / "away").rename(repository)
    before = read_tree(repository)
    shell.convoy(copied / "odd", "promote")
    shell.convoy(copied / "odd", "predict", str(work / "odd"), "--out", "t.parquet")
    assert read_tree(repository) == before


def read_tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_clone_predicts_after_a_pull_with_what_the_ledger_says_is_serving(shell, repository, work):
    remote, clone = work / "remote", work / "clone"
    for name in ("even", "odd"):
        shell.dvc(repository / name, "remote", "add", "-f", "-d", "store", str(remote))
        shell.dvc(repository / name, "push", "--quiet")
    run_git(repository, "add", ".")
    run_git(repository, "-c", "user.name=T", "-c", "user.email=t@localhost", "commit", "--quiet", "-m", "all")
    run_git(work, "clone", "--quiet", str(repository), str(clone))
    shell.dvc(clone / "odd", "pull", "--quiet")
    assert "odd version 1" in shell.convoy(clone, "-C", "odd", "status")
    shell.convoy(clone / "odd", "predict", str(work / "odd"), "--out", "t.parquet")
    first = pq.read_table(repository / "odd" / "data" / "table.parquet")
    again = pq.read_table(clone / "odd" / "t.parquet")
    assert again["label"].to_pylist() == first["label"].to_pylist()
    assert set(again["model_version"].to_pylist()) == set(first["model_version"].to_pylist())
    assert "already serves" in shell.convoy(clone / "odd", "promote") + shell.convoy(clone / "odd", "history")


def test_up_at_the_top_serves_all_projects(shell, repository, work):
    (repository / "odd" / "data" / "inbox").mkdir(exist_ok=True)
    *_, unseen = sorted((write_digit_images(work / "unseen", "1", num_each=41) / "1").iterdir())
    shutil.copy(unseen, repository / "odd" / "data" / "inbox")
    ports = find_free_port(), find_free_port()
    log = work / "up.log"
    with log.open("w") as output:
        command = ("convoy", "up", "--mlflow-port", str(ports[0]), "--prefect-port", str(ports[1]))
        up = shell.start(repository, *command, stdout=output)
    try:
        wait_until(lambda: "Ctrl-C stops" in log.read_text() or up.poll() is not None, 600)
        text = log.read_text()
        assert [name for name in ("even", "odd") if f"pipeline/{name}-nightly" in text] == ["even", "odd"], text
        api = f"PREFECT_API_URL=http://127.0.0.1:{ports[1]}/api"
        run = ("env", api, "python", "-m", "prefect", "deployment", "run", "inbox/odd-inbox", "--watch")
        status, said = shell.call(work, *run)
        assert status == 0, said + (repository / ".cache" / "up" / "worker.log").read_text()
        tables = list((repository / "odd" / "data" / "predictions" / "inbox").glob("*.parquet"))
        assert len(tables) == 1 and read_models(tables[0]) == {"odd"}
        assert not (repository / "even" / "data" / "predictions" / "inbox").exists()
        last_run = {
            name: next(
                line for line in shell.convoy(repository, "-C", name, "status").splitlines() if "last run" in line
            )
            for name in ("even", "odd")
        }
        assert "inbox" in last_run["odd"] and "inbox" not in last_run["even"]
    finally:
        up.send_signal(signal.SIGINT)
        up.wait(60)


def wait_until(is_done, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not is_done() and time.monotonic() < deadline:
        time.sleep(0.5)


def test_the_demo_makes_a_project_in_an_empty_folder_and_nowhere_else(shell, work):
    folder = work / "full"
    folder.mkdir()
    (folder / "letter.txt").write_text("")
    status, said = shell.call(folder, "convoy", "demo")
    assert status == 2 and "run the demo in an empty folder" in said
    assert os.listdir(folder) == ["letter.txt"]


def test_a_report_for_machines_names_the_project_that_is_meant(shell, repository):
    assert json.loads(shell.convoy(repository, "-C", "odd", "status", "--json"))
