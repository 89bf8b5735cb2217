import hashlib
import json
import os
import subprocess
import sys

import pytest

from flows.project.project import Project
from flows.promotion import ledger
from flows.promotion.ledger import LEDGER
from imageset.exceptions import UserError

MOVE = {"event": ledger.DECISION, "model": "digits", "version": 1}


def test_what_was_written_is_read_back_with_who_and_when(tmp_path):
    ledger.append_entry(Project(tmp_path), MOVE)
    ledger.append_entry(Project(tmp_path), {**MOVE, "version": 2})
    one, two = ledger.read_ledger(Project(tmp_path))
    assert [one["version"], two["version"]] == [1, 2] and [one["number"], two["number"]] == [1, 2]
    assert "@" in one["who"] and one["time"] <= two["time"] and one["time"].endswith("+00:00")


def test_without_a_ledger_nothing_was_decided(tmp_path):
    assert ledger.read_ledger(Project(tmp_path)) == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("change", ["edit", "remove", "swap"])
def test_a_line_that_was_changed_removed_or_moved_shows(tmp_path, change):
    for version in (1, 2, 3):
        ledger.append_entry(Project(tmp_path), {**MOVE, "version": version})
    path = tmp_path / LEDGER
    lines = path.read_text().splitlines(keepends=True)
    if change == "edit":
        lines[0] = lines[0].replace('"version": 1', '"version": 9')
    elif change == "remove":
        del lines[1]
    else:
        lines[0], lines[1] = lines[1], lines[0]
    path.write_text("".join(lines))
    with pytest.raises(UserError, match=r"ledger\.jsonl: line [12] does not follow"):
        ledger.read_ledger(Project(tmp_path))
    with pytest.raises(UserError):
        ledger.append_entry(Project(tmp_path), MOVE)


def test_a_line_that_a_kill_cut_short_does_not_count_and_is_written_over(tmp_path):
    ledger.append_entry(Project(tmp_path), MOVE)
    path = tmp_path / LEDGER
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"number": 2, "ti')
    assert len(ledger.read_ledger(Project(tmp_path))) == 1
    ledger.append_entry(Project(tmp_path), {**MOVE, "version": 5})
    assert path.read_bytes().startswith(whole)
    assert [entry["version"] for entry in ledger.read_ledger(Project(tmp_path))] == [1, 5]


def test_several_processes_write_at_once_and_no_line_is_lost(tmp_path):
    code = (
        "import sys; from pathlib import Path; from flows.promotion.ledger import append_entry\n"
        "from flows.project.project import Project\n"
        "entry = {'event': 'decision', 'model': 'a', 'version': 1}\n"
        "for _ in range(20): append_entry(Project(Path(sys.argv[1])), entry)"
    )
    writers = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path)]) for _ in range(3)]
    assert [writer.wait(60) for writer in writers] == [0, 0, 0]
    assert [entry["number"] for entry in ledger.read_ledger(Project(tmp_path))] == list(range(1, 61))


def test_a_move_counts_when_its_end_is_written_too(tmp_path):
    for _ in range(3):
        ledger.append_entry(Project(tmp_path), MOVE)
    ledger.append_entry(Project(tmp_path), {"event": ledger.DONE, "of": 1})
    ledger.append_entry(Project(tmp_path), {"event": ledger.DROPPED, "of": 2, "reason": "x"})
    entries = ledger.read_ledger(Project(tmp_path))
    assert [entry["number"] for entry in ledger.find_unfinished(entries)] == [3]
    assert [entry["number"] for entry in ledger.find_completed(entries)] == [1]
    assert ledger.find_completed(entries, "flowers") == []
    assert (
        ledger.find_completed(entries)[0]["done"]
        == json.loads((tmp_path / LEDGER).read_text().splitlines()[3])["time"]
    )


def test_a_line_is_whole_and_on_the_disk_before_it_is_returned(tmp_path, monkeypatch):
    synced: list[tuple[int, int]] = []

    def record(descriptor):
        found = os.fstat(descriptor)
        synced.append((found.st_ino, found.st_size))

    monkeypatch.setattr(os, "fsync", record)
    ledger.append_entry(Project(tmp_path), MOVE)
    file, folder = (tmp_path / LEDGER).stat(), (tmp_path / LEDGER).parent.stat()
    assert synced == [(file.st_ino, file.st_size), (folder.st_ino, folder.st_size)]


def write_by_hand(path, *entries: str) -> None:
    """Write lines as they have stood in ledgers from the beginning."""
    link = "0" * 64
    path.parent.mkdir()
    with path.open("wb") as file:
        for number, entry in enumerate(entries, start=1):
            line = f'{{"number": {number}, "time": "2026-01-0{number}", {entry}, "follows": "{link}"}}'.encode()
            file.write(line + b"\n")
            link = hashlib.sha256(line).hexdigest()


def test_ledgers_of_earlier_versions_are_read_by_the_words_that_stand_in_them(tmp_path):
    move = '"model": "digits", "version": {0}, "before": {{}}, "after": {{"champion": "{0}"}}'
    write_by_hand(
        tmp_path / LEDGER,
        f'"event": "decision", {move.format(1)}',
        '"event": "done", "of": 1',
        f'"event": "rollback", {move.format(2)}',
        '"event": "done", "of": 3',
        f'"event": "decision", {move.format(3)}',
        '"event": "dropped", "of": 5',
        f'"event": "rollback", {move.format(4)}',
    )
    entries = ledger.read_ledger(Project(tmp_path))
    assert [entry["version"] for entry in ledger.find_completed(entries)] == [1, 2]
    assert [entry["version"] for entry in ledger.find_unfinished(entries)] == [4]
    assert ledger.find_serving(entries) == {"digits": {"champion": 2}}
    found = [ledger.find_decision(entries, "digits", version) is not None for version in (1, 2, 3, 4)]
    assert found == [True, False, True, False]
    assert (ledger.RETRAIN, ledger.RETRAINED) == ("retrain", "retrained")


def test_names_stand_in_the_file_as_they_are_written(tmp_path):
    ledger.append_entry(Project(tmp_path), {**MOVE, "model": "Käfer"})
    assert '"model": "Käfer"' in (tmp_path / LEDGER).read_text(encoding="utf-8")


@pytest.mark.parametrize("line", ["no JSON", '{"event": "done"}', "[1]", "3"])
def test_a_line_that_is_no_entry_is_named(tmp_path, line):
    path = tmp_path / LEDGER
    ledger.append_entry(Project(tmp_path), MOVE)
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(UserError, match=r"ledger\.jsonl: line 2 does not follow"):
        ledger.read_ledger(Project(tmp_path))


def test_the_last_decision_that_compared_a_version_is_found():
    def entry(number, event=ledger.DECISION, model="digits", version=1):
        return {"number": number, "event": event, "model": model, "version": version}

    entries = [entry(1), entry(2), entry(3, version=2), entry(4, model="other"), entry(5, event=ledger.ROLLBACK)]
    assert ledger.find_decision(entries, "digits", 1)["number"] == 2
    assert ledger.find_decision(entries, "digits", 2)["number"] == 3
    assert ledger.find_decision(entries, "digits", 3) is None


def test_a_model_without_champion_does_not_serve(tmp_path):
    for model, after in {"digits": {"champion": 2, "previous": 1}, "other": {"challenger": 1}}.items():
        line = ledger.append_entry(Project(tmp_path), {**MOVE, "model": model, "after": after})
        ledger.append_entry(Project(tmp_path), {"event": ledger.DONE, "of": line["number"]})
    assert ledger.find_serving(ledger.read_ledger(Project(tmp_path))) == {"digits": {"champion": 2, "previous": 1}}
