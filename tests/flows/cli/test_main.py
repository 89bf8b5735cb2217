import shutil
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest

from flows.cli.location import enter_project
from flows.cli.main import main
from tests.helpers.images import write_digit_images
from tests.helpers.project import copy_params


@pytest.fixture
def empty_project(tmp_path, monkeypatch) -> Path:
    project = tmp_path / "project"
    project.mkdir()
    (project / "dvc.yaml").write_text("stages: {normalize: {cmd: python -m imageset normalize}}\n")
    copy_params(project)
    monkeypatch.chdir(project)
    return project


def error_of(arguments: list[str], capsys) -> str:
    """The one line that a wrong command prints."""
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), captured.err
    return lines[0]


def test_help_imports_nothing_heavy():
    code = (
        "import sys\n"
        "from flows.__main__ import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'mlflow', 'prefect', 'pytorch_lightning', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "predict" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("missing", ["dvc.yaml", "params.yaml"])
def test_a_folder_that_is_no_project_is_named(empty_project, missing, capsys):
    (empty_project / missing).unlink()
    assert f"{missing} is missing; restore it with `git checkout {missing}`" in error_of(
        ["run", "somewhere"], capsys
    )


def test_a_source_that_does_not_exist_is_named(empty_project, capsys):
    assert "nowhere: no such folder" in error_of(["run", "nowhere"], capsys)


def test_running_again_before_anything_was_ingested_says_how_to_begin(empty_project, capsys):
    assert "convoy run FOLDER" in error_of(["run"], capsys)


def test_a_sweep_that_cannot_be_is_refused_before_anything_starts(empty_project, capsys):
    assert "no dataset here" in error_of(["sweep"], capsys)
    assert "sweep.trials is 0" in error_of(["sweep", "--trials", "0"], capsys)
    path = empty_project / "params.yaml"
    path.write_text(path.read_text().replace("train.model.warmup:", "train.model.warmupp:"))
    assert "'warmupp': did you mean 'warmup'" in error_of(["sweep"], capsys)


def test_a_source_without_pictures_is_refused(empty_project, tmp_path, capsys):
    (tmp_path / "notes" / "a").mkdir(parents=True)
    (tmp_path / "notes" / "a" / "readme.txt").write_text("no picture")
    assert "holds no pictures" in error_of(["ingest", str(tmp_path / "notes")], capsys)


def test_an_empty_folder_and_pictures_in_no_class_folder_are_refused(empty_project, tmp_path, capsys):
    write_digit_images(tmp_path, classes="3", num_each=2)
    (tmp_path / "empty").mkdir()
    assert "empty: holds no pictures; give a folder that" in error_of(["run", str(tmp_path / "empty")], capsys)
    assert "are in no class folder; move them" in error_of(["run", str(tmp_path / "3")], capsys)


def test_a_source_with_a_single_class_is_refused(empty_project, tmp_path, capsys):
    write_digit_images(tmp_path / "one", classes="3", num_each=2)
    assert "single class '3'" in error_of(["run", str(tmp_path / "one")], capsys)


def test_an_empty_class_folder_beside_a_single_class_is_named(empty_project, tmp_path, capsys):
    write_digit_images(tmp_path / "gap", classes="3", num_each=2)
    (tmp_path / "gap" / "5").mkdir()
    assert str(tmp_path / "gap" / "5") in error_of(["run", str(tmp_path / "gap")], capsys)


def test_who_reads_no_further_hears_of_no_error(empty_project):
    write_digit_images(empty_project / "pictures", classes="34", num_each=20)
    process = subprocess.Popen(
        [sys.executable, "-m", "flows", "check", "pictures"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    process.stdout.close()
    assert process.stderr.read() == "" and process.wait() == 128 + 13


@pytest.mark.parametrize(
    ("source", "out", "said"),
    [
        ("nowhere", "out.parquet", "nowhere: no such folder"),
        ("a-file", "out.parquet", "a-file: not a folder"),
        ("nothing", "out.parquet", "nothing: holds no pictures"),
        ("pictures", "no/such/out.parquet", "no/such: no such folder"),
        ("pictures", "nothing", "nothing: is a folder"),
        ("pictures", "pictures/3/0003.png", "ends in .parquet"),
    ],
)
def test_predict_refuses_places_it_cannot_use_and_writes_nothing(empty_project, source, out, said, capsys):
    write_digit_images(empty_project / "pictures", classes="3", num_each=2)
    (empty_project / "nothing").mkdir()
    (empty_project / "a-file").write_text("x")
    before = sorted(empty_project.rglob("*"))
    assert said in error_of(["predict", source, "--out", out], capsys)
    assert sorted(empty_project.rglob("*")) == before


LOSES_ITS_SERVER = """
import sys, threading, time
from flows.cli import commands
from flows.cli import main as cli
from flows.orchestration import prefect_api

def lose_server(arguments):
    assert not prefect_api.is_server_lost()
    with prefect_api.translate_prefect_errors("http://127.0.0.1:9/api"):  # nobody answers there
        pass
    threading.Thread(target=time.sleep, args=(300,)).start()  # as Prefect's do that wait for the server
    print("what was done")
    return 3

commands.run_command = lose_server
sys.exit(cli.main(["status"]))
"""


def test_a_command_whose_server_was_lost_leaves_at_once_with_its_status_and_all_it_printed():
    command = [sys.executable, "-c", LOSES_ITS_SERVER]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (3, "what was done\n"), done.stderr


def test_a_server_of_prefect_that_is_away_is_named(empty_project, tmp_path):
    from tests.helpers.project import run_convoy

    pictures = write_digit_images(tmp_path / "pictures", num_each=2)
    (empty_project / ".dvc").mkdir()
    (empty_project / ".dvc/config").write_text("[core]\n    no_scm = True\n")
    done = run_convoy(empty_project, "ingest", str(pictures), PREFECT_API_URL="http://127.0.0.1:9/api")
    assert done.returncode == 2
    assert done.stdout.startswith("error: Prefect's server at http://127.0.0.1:9/api does not answer")
    assert len(done.stdout.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["promote", "abcdef"], "MLflow has no run 'abcdef'"),
        (["promote", "abcdef", "--dry-run"], "MLflow has no run 'abcdef'"),
        (["verify", "abcdef"], "MLflow has no run 'abcdef'"),
        (["compare", "abcdef", "abcdef"], "MLflow has no run 'abcdef'"),
        (["rollback", "--model", "cats"], "no model 'cats' serves"),
        (["rollback"], "no model 'digits-few' serves"),
        (["history"], "nothing was decided yet"),
    ],
)
def test_what_is_not_there_is_one_line(empty_project, empty_mlflow_db, monkeypatch, arguments, said, capsys):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copy(empty_mlflow_db, empty_project / "mlflow.db")
    assert said in error_of(arguments, capsys)


def test_files_that_are_typed_in_a_sub_folder_are_those_of_the_sub_folder(empty_project, monkeypatch):
    (empty_project / "in").mkdir()
    monkeypatch.chdir(empty_project / "in")
    arguments = Namespace(sources=["a.png", "b/*.png", "s3://x/y", "/z.png"], source="a.png")
    enter_project(arguments)
    assert arguments.sources == ["in/a.png", "in/b/*.png", "s3://x/y", "/z.png"]
    assert arguments.source == "in/a.png"
