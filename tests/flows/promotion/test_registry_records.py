import hashlib
import json
import os
import shutil
import signal
from multiprocessing import get_context

import pytest

from flows.project.project import Project
from flows.promotion import alias_updates, ledger, model_registry, registry_records, rollback
from flows.reports.status import report_status

DECISION = {"event": ledger.DECISION, "model": "digits", "serves": True, "reason": "better", "run": "a"}


@pytest.fixture
def shared(project, monkeypatch, tmp_path):
    """An MLflow that two clones use, with three versions of `digits`."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{project / 'mlflow.db'}")
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "params.yaml").write_text("name: digits\n")
    client = model_registry.connect_registry(Project(tmp_path / "one"))
    client.create_registered_model("digits")
    for run in ("a", "b", "c"):
        client.create_model_version("digits", "/nowhere", run)
    return client


@pytest.fixture
def one(shared, tmp_path) -> Project:
    """The clone that promoted versions 1, 2 and 3."""
    project = Project(tmp_path / "one")
    for number in (1, 2, 3):
        promote(shared, project, number)
    return project


@pytest.fixture
def two(tmp_path) -> Project:
    """A clone without a ledger."""
    return Project(tmp_path / "two")


def promote(client, project: Project, number: int) -> None:
    def compute_after(before):
        return {"champion": number, **({"previous": before["champion"]} if before else {})}

    expected = model_registry.read_aliases(client, "digits")
    with alias_updates.alias_lock(project):
        entry = {**DECISION, "version": number, "tags": {"convoy.decision": f"better than {number - 1}"}}
        alias_updates.update_aliases(client, project, entry, expected, compute_after)


def read_moves(project: Project) -> list[tuple[int, int]]:
    done = ledger.find_completed(ledger.read_ledger(project))
    return [(entry["before"].get("champion"), entry["after"].get("champion")) for entry in done]


def find_problems(project: Project) -> list[str]:
    lines = report_status(project).splitlines()
    return [line.split(maxsplit=1)[1] for line in lines if line.startswith("problems")]


def test_a_rollback_in_a_clone_without_a_ledger_keeps_what_served_before(shared, one, two, monkeypatch):
    monkeypatch.setattr(rollback, "_check_version_files", lambda client, version: None)
    rollback.rollback(two, "digits")
    assert model_registry.read_aliases(shared, "digits") == {"champion": 2, "previous": 1}
    assert read_moves(two) == [(None, 1), (1, 2), (2, 3), (3, 2)]


def test_without_any_record_the_tags_of_a_version_say_what_served_before_it(shared, one, two, monkeypatch):
    monkeypatch.setattr(rollback, "_check_version_files", lambda client, version: None)
    for key in shared.get_registered_model("digits").tags:
        shared.delete_registered_model_tag("digits", key)
    shared.set_model_version_tag("digits", "2", model_registry.COMPARED_VERSION_TAG, "1")
    rollback.rollback(two, "digits")
    assert model_registry.read_aliases(shared, "digits") == {"champion": 2, "previous": 1}


def test_a_decision_of_another_clone_is_named_and_added_by_the_next_command(shared, one, two):
    assert find_problems(one) == ["none"]
    promote(shared, two, 1)
    (problem,) = find_problems(one)
    assert "MLflow records 1 decision that data/ledger.jsonl does not have, made in another clone" in problem
    alias_updates.replay_if_needed(shared, one, "digits")
    assert find_problems(one) == find_problems(two) == ["none"]
    assert read_moves(one) == read_moves(two) == [(None, 1), (1, 2), (2, 3), (3, 1)]
    size = (one / ledger.LEDGER).stat().st_size
    alias_updates.replay_if_needed(shared, one, "digits")
    assert (one / ledger.LEDGER).stat().st_size == size


def test_a_move_that_was_killed_is_completed_by_another_clone(shared, one, two):
    child = get_context("fork").Process(target=die_before_champion_moves, args=(shared, one))
    child.start()
    child.join(120)
    assert child.exitcode == -signal.SIGKILL
    assert model_registry.read_aliases(shared, "digits")["champion"] == 3
    alias_updates.replay_if_needed(shared, two, "digits")
    assert model_registry.read_aliases(shared, "digits") == {"champion": 1, "previous": 3}
    assert shared.get_model_version("digits", "1").tags["convoy.decision"] == "better than 0"
    promote(shared, two, 2)
    alias_updates.replay_if_needed(shared, one, "digits")  # does not move back what was decided since
    assert model_registry.read_aliases(shared, "digits") == {"champion": 2, "previous": 1}
    assert read_moves(one) == read_moves(two)


def die_before_champion_moves(client, project: Project) -> None:
    set_alias = model_registry.set_alias

    def dying(client, name, alias, number):
        if alias == "champion":
            os.kill(os.getpid(), signal.SIGKILL)
        set_alias(client, name, alias, number)

    model_registry.set_alias = dying
    promote(client, project, 1)


def test_a_decision_whose_record_was_never_written_is_dropped_once_others_have_decided(shared, one, two):
    before = model_registry.read_aliases(shared, "digits")
    line = {**DECISION, "version": 1, "before": before, "after": {"champion": 1, "previous": 3}, "recorded": True}
    ledger.append_entry(one, line)  # killed here
    promote(shared, two, 2)
    promote(shared, two, 3)
    shared.set_registered_model_alias("digits", "previous", "2")
    alias_updates.replay_if_needed(shared, one, "digits")
    assert model_registry.read_aliases(shared, "digits")["champion"] == 3
    assert [entry["event"] for entry in ledger.read_ledger(one)].count(ledger.DROPPED) == 1


def test_lines_that_were_cut_off_are_named_and_added_again(shared, one):
    path = one / ledger.LEDGER
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-2]))
    (problem,) = find_problems(one)
    assert "MLflow records 1 decision" in problem and "cut off here" in problem
    alias_updates.replay_if_needed(shared, one, "digits")
    assert find_problems(one) == ["none"] and read_moves(one) == [(None, 1), (1, 2), (2, 3)]


def test_last_lines_that_were_changed_are_named_and_the_remedy_writes_the_ledger_again(shared, one):
    path = one / ledger.LEDGER
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-2]))
    changed = {**json.loads(lines[-2]), "reason": "worse"}
    line = ledger.append_entry(one, {key: value for key, value in changed.items() if key != "number"})
    ledger.append_entry(one, {"event": ledger.DONE, "of": line["number"]})
    missing, unrecorded = find_problems(one)
    assert "MLflow records 1 decision" in missing
    assert unrecorded.startswith("data/ledger.jsonl: line 5, about digits version 3, is not what MLflow records")
    shutil.move(path, f"{path}.changed")
    alias_updates.replay_if_needed(shared, one, "digits")
    assert find_problems(one) == ["none"] and read_moves(one) == [(None, 1), (1, 2), (2, 3)]


def test_a_ledger_of_an_earlier_convoy_is_recorded_with_the_next_decision(shared, one, two):
    for key in shared.get_registered_model("digits").tags:
        shared.delete_registered_model_tag("digits", key)
    assert find_problems(one) == ["none"]
    promote(shared, one, 1)
    alias_updates.replay_if_needed(shared, two, "digits")
    assert read_moves(two) == [(None, 1), (1, 2), (2, 3), (3, 1)]


def test_only_the_last_records_are_kept_and_older_lines_are_not_missed(shared, one, monkeypatch):
    monkeypatch.setattr(registry_records, "NUM_KEPT", 2)
    promote(shared, one, 1)
    records = registry_records.read_records(shared, "digits")
    assert [(record["key"], record["version"]) for record in records] == [
        ("convoy.ledger.000003", 3),
        ("convoy.ledger.000004", 1),
    ]
    assert find_problems(one) == ["none"]


def test_a_long_record_fits_into_a_tag_of_mlflow(shared, one):
    entry = {**DECISION, "version": 2, "reason": "x" * 3000, "tags": {"a": "y" * 4000}, "before": {}, "after": {}}
    record = registry_records.write_record(shared, [], {**entry, "time": "2026-01-01"}, done=False)
    assert record["tags"] == {} and len(record["reason"]) == 1000


LINE = {"number": 3, "event": ledger.DECISION, "model": "digits", "version": 2, "reason": "für alle",
        "time": "2026-02", "before": {"champion": 1}, "after": {"champion": 2}, "recorded": True,
        "follows": "0"}  # fmt: skip


def format_tag(**changes) -> str:
    record = {"id": "i", "done": True, "model": "digits", "before": {}, "after": {}, "time": "2026"} | changes
    return json.dumps({name: value for name, value in record.items() if value != "missing"})


def test_the_id_of_a_decision_is_the_digest_of_its_line():
    text = json.dumps(LINE, ensure_ascii=False)
    assert registry_records.compute_id(LINE) == hashlib.sha256(text.encode()).hexdigest()
    assert registry_records.compute_id({**LINE, "copy_of": "abc"}) == "abc"


def test_records_are_read_in_order_without_other_tags_and_damaged_ones():
    names = ["id", "done", "model", "before", "after", "time"]
    damaged = {
        f"convoy.ledger.00000{number}": format_tag(**{name: "missing"}) for number, name in enumerate(names, 2)
    }
    tags = {"convoy.ledger.000010": format_tag(), "other": format_tag(), "convoy.ledger.000001": format_tag(),
            "convoy.ledger.000008": "{", "convoy.ledger.000009": "[1]", **damaged}  # fmt: skip
    keys = [record["key"] for record in registry_records.parse_records(tags)]
    assert keys == ["convoy.ledger.000001", "convoy.ledger.000010"]


def test_a_copy_of_a_decision_is_known_by_the_id_of_the_original():
    record = {"id": registry_records.compute_id(LINE), "done": True, "key": "k", "model": "digits", "who": "a@b",
              "event": ledger.DECISION, "version": 2, "before": {}, "after": {}, "time": "2026"}  # fmt: skip
    copy = registry_records.to_entry(record)
    kept = {name: value for name, value in record.items() if name not in ("id", "done", "key")}
    assert copy == {**kept, "recorded": True, "copy_of": record["id"]}
    other = {**record, "id": "another"}
    retrain = {**LINE, "event": ledger.RETRAIN, "copy_of": "another"}
    assert registry_records.find_missing([LINE, retrain], [record, other]) == [other]
    assert registry_records.find_missing([copy], [record]) == []


def test_a_line_that_mlflow_should_have_recorded_and_has_not_is_found():
    def move(number, time, **changes):
        entry = {**LINE, "number": number, "time": time, **changes}
        return [entry, {"number": number + 1, "event": ledger.DONE, "of": number, "time": time}]

    known = move(1, "2026-02")
    entries = [*known, *move(3, "2026-02", version=7), *move(5, "2026-01", version=8),
               *move(7, "2026-03", version=9, recorded=False), *move(9, "2026-03", model="other")]  # fmt: skip
    record = {"id": registry_records.compute_id(known[0]), "time": "2026-02"}
    newer = {"id": "another", "time": "2026-03"}
    found = registry_records.find_unrecorded(entries, [record, newer], "digits")
    assert [entry["version"] for entry in found] == [7]
    assert registry_records.find_unrecorded(entries, [], "digits") == []


def test_a_record_holds_what_other_clones_need_and_fits_into_a_tag_of_mlflow():
    def write(**changes):
        text = registry_records._format_record({**LINE, **changes}, "abc", True)
        assert len(text) <= 5000
        return json.loads(text)

    fields = {name: LINE[name] for name in ("event", "model", "version", "reason", "time", "before", "after")}
    assert write(tags={"a": "b"}) == {"id": "abc", "done": True, "tags": {"a": "b"}, **fields}
    assert write(tags={"a": "y" * 4500})["tags"] == {"a": "y" * 4500}
    assert write(tags={"a": "y" * 5000})["tags"] == {}
    assert write(reason=None)["reason"] == "" and write(reason="x" * 3000)["reason"] == "x" * 1000
    for tags in ({}, {"a": "y" * 5000}):
        assert "für" in registry_records._format_record({**LINE, "tags": tags}, "abc", True)
