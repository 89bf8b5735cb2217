import io
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import yaml

from flows.project.exceptions import ProjectBusy, StageFailed
from flows.project.project import Project
from flows.versioning import dvc_repo
from imageset.exceptions import UserError
from lightning_modules.tracking import provenance
from tests.helpers.processes import has_ended


@pytest.fixture
def repository(tmp_path) -> Path:
    """A DVC repository with one stage, `work`, that runs work.py."""
    for command in ("git init -q", f"{sys.executable} -m dvc init -q"):
        subprocess.run(command.split(), cwd=tmp_path, check=True, env={**os.environ, "DVC_NO_ANALYTICS": "1"})
    stages = {"work": {"cmd": "python -u work.py", "deps": ["work.py"], "outs": ["out"]}}
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
    return tmp_path


def work(repository: Path, code: str) -> None:
    (repository / "work.py").write_text(f"import os, sys, time\n{code}\n")


def test_a_stage_runs_once_and_is_skipped_the_next_time(repository, caplog):
    work(repository, "print('at work'); open('out', 'w').write('x')")
    with caplog.at_level("INFO"):
        first = dvc_repo.repro(Project(repository))
        assert "at work" in caplog.text
        second = dvc_repo.repro(Project(repository))
    assert (first.ran, first.skipped) == (["work"], [])
    assert (second.ran, second.skipped) == ([], ["work"])
    assert "stages up to date, skipped: work" in caplog.text


def test_a_forced_stage_runs_though_nothing_changed(repository):
    work(repository, "open('out', 'w').write('x')")
    dvc_repo.repro(Project(repository))
    assert dvc_repo.repro(Project(repository), force="work").ran == ["work"]


def test_what_dvc_advises_stays_off_the_screen(repository, caplog):
    work(repository, "print('at work'); open('out', 'w').write('x')")
    with caplog.at_level("INFO"):
        dvc_repo.repro(Project(repository))
    shown = [record.message for record in caplog.records if not getattr(record, "quiet", False)]
    assert shown == ["Running stage 'work':", "at work"]
    assert any("git add" in record.message for record in caplog.records)


def test_a_stage_that_names_a_users_error_fails_with_that_line_and_status_2(repository):
    work(repository, "print('error: params.yaml: unknown key', file=sys.stderr); sys.exit(2)")
    with pytest.raises(StageFailed, match=r"^params\.yaml: unknown key$") as failed:
        dvc_repo.repro(Project(repository))
    assert failed.value.status == 2


def test_a_stage_that_breaks_down_fails_with_status_1_and_is_named(repository, caplog):
    work(repository, "raise RuntimeError('a bug')")
    with caplog.at_level("INFO"), pytest.raises(StageFailed, match="stage work ended with status 1") as failed:
        dvc_repo.repro(Project(repository))
    assert failed.value.status == 1
    assert "RuntimeError: a bug" in caplog.text


def test_a_second_repro_at_once_is_told_that_somebody_is_at_work(repository):
    work(repository, "open('started', 'w'); time.sleep(30); open('out', 'w').write('x')")
    process = subprocess.Popen([sys.executable, "-m", "dvc", "repro"], cwd=repository, start_new_session=True)
    try:
        _until((repository / "started").exists)
        with pytest.raises(ProjectBusy, match="another dvc command"):
            dvc_repo.repro(Project(repository))
    finally:
        os.killpg(process.pid, 9)
        process.wait()


def test_an_interrupted_repro_takes_the_stage_with_it(repository, monkeypatch):
    work(repository, "open('pid', 'w').write(str(os.getpid())); print('go'); time.sleep(300)")

    def interrupt(line: str, **_: object) -> None:
        if line == "go":
            raise KeyboardInterrupt

    monkeypatch.setattr(dvc_repo.logger, "info", interrupt)
    with pytest.raises(KeyboardInterrupt):
        dvc_repo.repro(Project(repository))
    assert has_ended(int((repository / "pid").read_text()))


def test_raw_data_is_versioned_with_a_note_of_its_source(repository):
    raw = repository / "data" / "raw"
    raw.mkdir(parents=True)
    (raw / "a").write_text("a")
    assert dvc_repo.add_raw(Project(repository), "/pictures/cats", "cats")
    assert not dvc_repo.add_raw(Project(repository), "/pictures/cats", "cats")
    (raw / "b").write_text("b")
    assert dvc_repo.add_raw(Project(repository), "/pictures/cats", "cats")
    note = yaml.safe_load((repository / "data" / "raw.dvc").read_text())
    assert note["meta"] == {"source": "/pictures/cats", "name": "cats"}
    assert note["outs"][0]["nfiles"] == 2
    assert dvc_repo.read_last_source(Project(repository)) == "/pictures/cats"


def test_the_note_of_the_source_does_not_make_stages_run_again(repository):
    raw = repository / "data" / "raw"
    raw.mkdir(parents=True)
    (raw / "a").write_text("a")
    stages = {"work": {"cmd": "python work.py", "deps": ["data/raw"], "outs": ["out"]}}
    (repository / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
    work(repository, "open('out', 'w').write('x')")
    dvc_repo.add_raw(Project(repository), "/here", "name")
    dvc_repo.repro(Project(repository))
    dvc_repo.add_raw(Project(repository), "/moved/to/there", "name")
    assert dvc_repo.repro(Project(repository)).skipped == ["work"]


def test_a_source_that_is_not_noted_is_asked_for(repository):
    with pytest.raises(UserError, match="nothing was ingested yet"):
        dvc_repo.read_last_source(Project(repository))
    (repository / "data").mkdir()
    (repository / "data" / "raw.dvc").write_text("outs: []\n")
    with pytest.raises(UserError, match="does not say where"):
        dvc_repo.read_last_source(Project(repository))


def test_the_commit_is_none_before_the_first_one(repository):
    assert provenance.read_git_commit(repository) is None
    commit = "git -c user.name=T -c user.email=t@localhost commit -q --allow-empty -m first"
    subprocess.run(commit.split(), cwd=repository, check=True)
    assert len(provenance.read_git_commit(repository) or "") == 40


def _until(condition, timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        threading.Event().wait(0.05)


def test_a_warning_of_a_stage_is_a_warning_and_the_rest_is_information(repository, caplog):
    work(repository, "print('warning: two classes have no test picture'); print('done'); open('out', 'w')")
    with caplog.at_level("INFO"):
        dvc_repo.repro(Project(repository))
    levels = {record.message: record.levelname for record in caplog.records}
    assert levels["warning: two classes have no test picture"] == "WARNING"
    assert levels["done"] == "INFO"


RELAYS = """
from imageset.utils.progress import Progress
with Progress('work') as progress:
    progress.begin(total=2)
    for _ in range(2):
        time.sleep(0.3)
        progress.advance()
open('out', 'w')
"""


def test_a_stage_shows_a_bar_on_the_terminal_of_convoy_and_no_marks_in_the_log(repository, caplog, monkeypatch):
    work(repository, RELAYS)
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setattr("imageset.utils.progress.BAR_DELAY_S", 0.0)
    monkeypatch.setattr(dvc_repo.console, "shows_bars", lambda: True)
    with caplog.at_level("INFO"):
        dvc_repo.repro(Project(repository))
    assert re.search(r"work: +50%\|.*\| 1/2 pictures, .*pictures/s, 00:00 left", terminal.getvalue())
    assert "progress" not in caplog.text


def test_without_a_terminal_a_stage_is_told_to_print_lines(repository, caplog):
    work(repository, "print('mode', os.environ['CONVOY_PROGRESS']); open('out', 'w')")
    with caplog.at_level("INFO"):
        dvc_repo.repro(Project(repository))
    assert "mode lines" in caplog.text
