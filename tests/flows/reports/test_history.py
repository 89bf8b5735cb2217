import subprocess
import sys
from datetime import UTC, datetime

import pytest

from flows.project.project import Project
from flows.promotion import ledger
from flows.reports.history import report_history
from imageset.exceptions import UserError


def decide(project, monkeypatch, when: str, version: int, before: dict, after: dict, **more) -> None:
    """A decision of a day, carried out."""
    time = datetime.fromisoformat(when).replace(tzinfo=UTC).isoformat()
    monkeypatch.setattr(ledger, "format_utc_now", lambda: time)
    entry = {"event": ledger.DECISION, "model": "digits", "version": version, "serves": after != before,
             "reason": f"reason {version}", "before": before, "after": after, **more}  # fmt: skip
    line = ledger.append_entry(Project(project), entry)
    ledger.append_entry(Project(project), {"event": ledger.DONE, "of": line["number"]})


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Version 1 since March 1, version 3 since March 10, version 2 never."""
    monkeypatch.setenv("TZ", "UTC")
    one, three = {"champion": 1}, {"champion": 3, "previous": 1}
    decide(tmp_path, monkeypatch, "2026-03-01T10:00", 1, {}, one)
    decide(tmp_path, monkeypatch, "2026-03-05T10:00", 2, one, one)
    decide(tmp_path, monkeypatch, "2026-03-10T10:00", 3, one, three)
    return tmp_path


@pytest.mark.parametrize(
    ("at", "said"),
    [
        ("2026-02-28", "digits: nothing served"),
        ("2026-03-01", "digits version 1 served"),
        ("2026-03-01T09:59Z", "digits: nothing served"),
        ("2026-03-09", "digits version 1 served"),
        ("2026-03-10T12:00+01:00", "digits version 3 served"),
        ("2026-03-10T10:30+01:00", "digits version 1 served"),
        ("2027-01-01", "digits version 3 served"),
    ],
)
def test_what_served_on_a_date(project, at, said):
    assert report_history(Project(project), at=at).startswith(said)


def test_a_decision_that_was_never_carried_out_did_not_serve(project):
    entry = {"event": ledger.DECISION, "model": "digits", "version": 4, "serves": True, "reason": "x"}
    ledger.append_entry(Project(project), {**entry, "before": {"champion": 3}, "after": {"champion": 4}})
    assert report_history(Project(project), at="2030-01-01").startswith("digits version 3 served")
    assert "not completed" in report_history(Project(project)).splitlines()[-1]


def test_every_decision_is_a_line_with_its_reason(project):
    lines = report_history(Project(project)).splitlines()
    assert [line.split("digits ")[1].split(":")[0] for line in lines] == [
        "version 1 serves", "version 2 does not serve", "version 3 serves instead of version 1",
    ]  # fmt: skip
    assert all("reason" in line for line in lines)


def test_what_cannot_be_answered_is_one_line(project, tmp_path_factory):
    with pytest.raises(UserError, match="not a date"):
        report_history(Project(project), at="yesterday")
    with pytest.raises(UserError, match="no decision about a model 'cats'; there are: digits"):
        report_history(Project(project), model="cats")
    with pytest.raises(UserError, match="nothing was decided yet"):
        report_history(Project(tmp_path_factory.mktemp("empty")))


def test_history_and_status_import_neither_mlflow_nor_prefect(project):
    for name in ("dvc.yaml", "params.yaml"):
        (project / name).write_text("{}\n")
    code = (
        "import sys; from flows.__main__ import main\n"
        "assert main(['history', '--at', '2026-03-20']) == main(['status']) == 0\n"
        "print(sorted({'torch', 'mlflow', 'prefect', 'pandas', 'dvc', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=project, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0].startswith("digits version 3 served")
    assert done.stdout.splitlines()[-1] == "[]"
