import os
import signal
import subprocess
import sys
import threading
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import pytest

from flows.project.exceptions import ChampionChanged, ProjectBusy
from flows.project.project import Project
from flows.promotion import alias_updates, ledger, model_registry, registry_records
from imageset.exceptions import UserError
from imageset.utils.file_lock import file_lock

NEW = {"event": ledger.DECISION, "model": "digits", "version": 2, "reason": "better",
       "tags": {model_registry.DECISION_TAG: "better", "convoy.num_test": "9"}}  # fmt: skip
AFTER = {"champion": 2, "previous": 1}


@pytest.fixture
def client(project):
    """Version 1 of `digits` serves, version 2 asks to; version 3 is there too."""
    client = model_registry.connect_registry(Project(project))
    client.create_registered_model("digits")
    for run in ("a", "b", "c"):
        client.create_model_version("digits", "/nowhere", run)
    client.set_registered_model_alias("digits", "champion", "1")
    client.set_registered_model_alias("digits", "challenger", "2")
    return client


def move(client, project, **changes):
    with alias_updates.alias_lock(Project(project)):
        return alias_updates.update_aliases(
            client, Project(project), {**NEW, **changes}, {"champion": 1}, lambda before: AFTER
        )


def events(project):
    return [entry["event"] for entry in ledger.read_ledger(Project(project))]


def test_aliases_and_tags_move_and_the_ledger_says_before_and_after(client, project):
    line = move(client, project)
    assert model_registry.read_aliases(client, "digits") == AFTER
    assert client.get_model_version("digits", "2").tags[model_registry.DECISION_TAG] == "better"
    assert (line["before"], line["after"]) == ({"champion": 1, "challenger": 2}, AFTER)
    assert events(project) == ["decision", "done"]


def test_a_champion_that_changed_since_the_comparison_stops_the_move(client, project):
    client.set_registered_model_alias("digits", "champion", "3")
    with pytest.raises(ChampionChanged, match="version 3 has become champion in the meantime"):
        move(client, project)
    assert model_registry.read_aliases(client, "digits") == {"champion": 3, "challenger": 2}
    assert events(project) == []


def die_after(num_steps: int, project: Path) -> None:
    """Run a process up to a step at which it is killed, without any clean-up."""
    left = num_steps

    def dying(function):
        def call(*arguments, **named):
            nonlocal left
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left -= 1
            return function(*arguments, **named)

        return call

    model_registry.set_alias, model_registry.set_version_tags = (
        dying(model_registry.set_alias),
        dying(model_registry.set_version_tags),
    )
    ledger.append_entry = dying(ledger.append_entry)
    move(model_registry.connect_registry(Project(project)), project)


STEPS = ["before the line is written", "before previous moves", "before champion moves", "before challenger moves",
         "before the tags", "before it is called done"]  # fmt: skip


@pytest.mark.parametrize("step", range(len(STEPS)), ids=STEPS)
def test_a_move_that_was_killed_anywhere_is_carried_out_or_never_happened(client, project, step):
    child = get_context("fork").Process(target=die_after, args=(step, project))
    child.start()
    child.join(120)
    assert child.exitcode == -signal.SIGKILL
    assert model_registry.read_aliases(client, "digits")["champion"] in (1, 2)  # a reader never finds none

    alias_updates.replay_if_needed(client, Project(project))
    if step == 0:
        assert model_registry.read_aliases(client, "digits") == {"champion": 1, "challenger": 2}
        assert events(project) == []
    else:
        assert model_registry.read_aliases(client, "digits") == AFTER
        assert client.get_model_version("digits", "2").tags["convoy.num_test"] == "9"
        assert events(project) == ["decision", "done"]


def test_what_somebody_else_moved_meanwhile_is_left_alone(client, project):
    before = model_registry.read_aliases(client, "digits")
    ledger.append_entry(Project(project), {**NEW, "before": before, "after": AFTER})
    client.set_registered_model_alias("digits", "champion", "3")
    alias_updates.replay_if_needed(client, Project(project))
    assert model_registry.read_aliases(client, "digits") == {"champion": 3, "challenger": 2}
    assert events(project) == ["decision", "dropped"]
    alias_updates.replay_if_needed(client, Project(project))
    assert events(project) == ["decision", "dropped"]


def test_a_server_that_goes_away_in_the_middle_leaves_it_to_the_next(client, project, monkeypatch):
    set_alias = model_registry.set_alias

    def away(client, name, alias, number):
        if alias == "champion":
            raise ConnectionError("gone")
        set_alias(client, name, alias, number)

    with monkeypatch.context() as patch:
        patch.setattr(model_registry, "set_alias", away)
        with pytest.raises(ConnectionError):
            move(client, project)
    assert model_registry.read_aliases(client, "digits")["champion"] == 1
    with alias_updates.alias_lock(Project(project)):
        alias_updates.replay_unfinished(client, Project(project))
    assert model_registry.read_aliases(client, "digits") == AFTER


def test_only_one_process_moves_at_a_time(project, monkeypatch):
    monkeypatch.setattr(alias_updates, "TIMEOUT_S", 0.2)
    with (
        alias_updates.alias_lock(Project(project)),
        pytest.raises(UserError, match="another promotion or rollback"),
    ):
        alias_updates.alias_lock(Project(project)).__enter__()


def test_two_processes_that_promote_at_once_cannot_both_win(client, project):
    code = """
import sys
from pathlib import Path
from flows.project.exceptions import ChampionChanged, ProjectBusy
from flows.project.project import Project
from flows.promotion import alias_updates, model_registry
project, version = Project(Path(sys.argv[1])), int(sys.argv[2])
client = model_registry.connect_registry(project)
print("ready", flush=True)
sys.stdin.readline()
entry, after = {"event": "decision", "model": "digits", "version": version}, {"champion": version, "previous": 1}
try:
    with alias_updates.alias_lock(project):
        alias_updates.update_aliases(client, project, entry, {"champion": 1}, lambda before: after)
except ChampionChanged:
    sys.exit(7)
"""
    start = partial(subprocess.Popen, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ)
    both = [start([sys.executable, "-c", code, str(project), version]) for version in ("2", "3")]
    for one in both:
        assert one.stdout.readline() == "ready\n"
    for one in both:
        one.stdin.write("go\n")
        one.stdin.flush()
    for one in both:
        one.communicate(timeout=120)
    assert sorted(one.returncode for one in both) == [0, 7]
    winner = 2 if both[0].returncode == 0 else 3
    assert model_registry.read_aliases(client, "digits") == {"champion": winner, "previous": 1}
    assert events(project) == ["decision", "done"]


def test_between_two_steps_previous_and_champion_both_name_the_old_champion(client, project, monkeypatch):
    set_alias, seen = model_registry.set_alias, []

    def observe(*arguments):
        set_alias(*arguments)
        seen.append(model_registry.read_aliases(client, "digits"))

    monkeypatch.setattr(model_registry, "set_alias", observe)
    move(client, project)
    between = {"champion": 1, "previous": 1, "challenger": 2}
    assert seen == [between, {**between, "champion": 2}, AFTER]


@pytest.fixture
def posted(monkeypatch) -> list[dict]:
    """What would be posted to webhooks, and whether the lock was free by then."""
    bodies: list[dict] = []

    def post(project, name, body):
        assert name == "on_promotion"
        with file_lock(project / ".cache" / "registry.lock", wait=False):
            bodies.append(body)

    monkeypatch.setattr(alias_updates, "post_webhook", post)
    return bodies


def test_another_champion_is_told_to_the_webhook_after_the_lock_is_released(client, project, posted):
    with alias_updates.alias_lock(Project(project)):
        line = alias_updates.update_aliases(
            client, Project(project), {**NEW, "run": "b", "numbers": {"gain": 1}}, {"champion": 1}, lambda _: AFTER
        )
        assert posted == [] and line["recorded"] is True
    assert posted == [{"event": "promotion", "model": "digits", "version": 2, "instead_of": 1, "reason": "better",
                       "numbers": {"gain": 1}, "run_id": "b"}]  # fmt: skip
    back = {"champion": 1}
    with alias_updates.alias_lock(Project(project)):
        entry = {"event": ledger.ROLLBACK, "model": "digits", "version": 2}
        alias_updates.update_aliases(client, Project(project), entry, {"champion": 2}, lambda _: back)
    assert posted[1:] == [{"event": "rollback", "model": "digits", "version": 1, "instead_of": 2, "reason": None,
                           "numbers": {}, "run_id": None}]  # fmt: skip


def test_several_decisions_are_told_in_their_order(tmp_path, monkeypatch):
    told: list[int] = []
    monkeypatch.setattr(alias_updates, "notify_promotion", lambda project, entry: told.append(entry["number"]))
    with alias_updates.alias_lock(Project(tmp_path)):
        alias_updates._applied_entries.extend({"number": number} for number in (1, 2, 3))
    assert told == [1, 2, 3] and alias_updates._applied_entries == []


def test_a_decision_that_leaves_the_champion_is_told_to_nobody(client, project, posted):
    with alias_updates.alias_lock(Project(project)):
        alias_updates.update_aliases(
            client, Project(project), NEW, {"champion": 1}, lambda before: {**before, "challenger": 3}
        )
    assert posted == [] and model_registry.read_aliases(client, "digits") == {"champion": 1, "challenger": 3}


def test_a_lock_that_is_released_soon_is_waited_for(tmp_path):
    path = tmp_path / ".cache" / "registry.lock"
    path.parent.mkdir()
    with file_lock(path):
        waiter = threading.Thread(target=lambda: alias_updates.alias_lock(Project(tmp_path)).__enter__())
        waiter.start()
        waiter.join(0.3)
        assert waiter.is_alive()
    waiter.join(30)
    assert not waiter.is_alive()


def append(project, **changes):
    """Append a decision as a process that dies right after it does."""
    before = {"champion": 1, "challenger": 2}
    line = {**NEW, "before": before, "after": AFTER, "recorded": True, **changes}
    return ledger.append_entry(Project(project), line)


def test_a_decision_whose_record_says_that_it_was_carried_out_is_not_carried_out_again(client, project):
    registry_records.write_record(client, [], append(project), done=True)
    alias_updates.replay_if_needed(client, Project(project))
    assert model_registry.read_aliases(client, "digits") == {"champion": 1, "challenger": 2}
    assert events(project) == ["decision", "done"]


def test_a_decision_that_cannot_be_carried_out_any_more_loses_its_record(client, project):
    registry_records.write_record(client, [], append(project), done=False)
    client.set_registered_model_alias("digits", "champion", "3")
    alias_updates.replay_if_needed(client, Project(project))
    dropped = ledger.read_ledger(Project(project))[-1]
    assert (dropped["event"], dropped["of"]) == ("dropped", 1)
    assert dropped["reason"] == "somebody else has moved champion in the meantime"
    assert registry_records.read_records(client, "digits") == []


def test_a_copy_whose_record_is_gone_was_dropped_by_the_clone_that_made_it(client, project):
    append(project, copy_of="abc")
    alias_updates.replay_if_needed(client, Project(project))
    assert ledger.read_ledger(Project(project))[-1]["reason"] == "somebody else has moved aliases in the meantime"
    assert model_registry.read_aliases(client, "digits") == {"champion": 1, "challenger": 2}


def test_earlier_decisions_do_not_overtake_one_that_was_not_recorded_yet(client, project):
    move(client, project)
    append(project, version=3, before=AFTER, after={"champion": 3, "previous": 2})
    alias_updates.replay_if_needed(client, Project(project))
    assert model_registry.read_aliases(client, "digits") == {"champion": 3, "previous": 2}
    assert events(project) == ["decision", "done"] * 2


def test_decisions_of_other_models_are_completed_for_each(client, project):
    client.create_registered_model("flowers")
    client.create_model_version("flowers", "/nowhere", "d")
    append(project)
    append(project, model="flowers", version=1, before={}, after={"champion": 1})
    with alias_updates.alias_lock(Project(project)):
        alias_updates.replay_unfinished(client, Project(project), "digits")
    assert model_registry.read_aliases(client, "digits") == AFTER
    assert model_registry.read_aliases(client, "flowers") == {"champion": 1}


def test_the_lock_is_taken_only_where_something_is_unfinished(client, project, monkeypatch):
    monkeypatch.setattr(alias_updates, "TIMEOUT_S", 0.1)
    move(client, project)
    with file_lock(project / ".cache" / "registry.lock"):
        alias_updates.replay_if_needed(client, Project(project), "digits", "flowers")
        append(project)
        with pytest.raises(ProjectBusy):
            alias_updates.replay_if_needed(client, Project(project))
