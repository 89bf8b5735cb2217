import os
import re
from multiprocessing import get_context
from pathlib import Path

import pytest

from flows.project.exceptions import NoChampion
from flows.project.project import Project
from flows.promotion import ledger, model_registry
from flows.promotion import rollback as module
from flows.promotion.rollback import rollback
from imageset.exceptions import UserError
from imageset.utils import timestamps

NUM_VERSIONS = 5


@pytest.fixture
def registry(project, monkeypatch):
    """Versions 1 to 5 of `digits`, each the champion after the one before; their files are not looked at."""
    monkeypatch.setattr(module, "_check_version_files", lambda client, version: None)
    client = model_registry.connect_registry(Project(project))
    client.create_registered_model("digits")
    for number in range(1, NUM_VERSIONS + 1):
        client.create_model_version("digits", "/nowhere", f"run{number}")
        before = {"champion": number - 1, "previous": number - 2} if number > 2 else {}
        entry = {"event": ledger.DECISION, "model": "digits", "version": number, "before": before,
                 "after": {"champion": number, "previous": number - 1}}  # fmt: skip
        line = ledger.append_entry(Project(project), entry)
        ledger.append_entry(Project(project), {"event": ledger.DONE, "of": line["number"]})
    client.set_registered_model_alias("digits", "champion", str(NUM_VERSIONS))
    client.set_registered_model_alias("digits", "previous", str(NUM_VERSIONS - 1))
    return client


def press(folder: Path, asked_at: str, answers: int) -> None:
    """Roll back in a process of its own, and write one line about the outcome."""
    try:
        answer = str(rollback(Project(folder), "digits", "at once", asked_at))
    except UserError as error:
        answer = f"error: {error}"
    os.write(answers, f"{answer}\n".encode())


def test_of_eight_rollbacks_pressed_at_once_one_goes_through_and_the_others_say_so(registry, project):
    reader, writer = os.pipe()
    asked_at = timestamps.format_utc_now()
    context = get_context("fork")
    pressed = [context.Process(target=press, args=(project, asked_at, writer)) for _ in range(8)]
    for process in pressed:
        process.start()
    for process in pressed:
        process.join(120)
    os.close(writer)
    answers = os.fdopen(reader).read().splitlines()
    assert len(answers) == 8
    refused = [answer for answer in answers if answer.startswith("error: ")]
    assert len(refused) == 7
    assert all("digits: version 5 has just been rolled back to version 4 (" in answer for answer in refused)
    assert model_registry.read_aliases(registry, "digits") == {"champion": 4, "previous": 3}


def test_a_rollback_that_is_asked_for_after_another_one_goes_back_one_more_version(registry, project):
    assert rollback(Project(project), "digits").serves.number == 4
    assert rollback(Project(project), "digits").serves.number == 3


def test_a_rollback_that_was_asked_for_before_a_promotion_does_not_undo_it(registry, project):
    asked_at = timestamps.format_utc_now()
    move = {"event": ledger.DECISION, "model": "digits", "version": 5}
    line = ledger.append_entry(Project(project), {**move, "before": {"champion": 4}, "after": {"champion": 5}})
    ledger.append_entry(Project(project), {"event": ledger.DONE, "of": line["number"]})
    with pytest.raises(UserError, match="version 5 has just become champion"):
        rollback(Project(project), "digits", asked_at=asked_at)
    assert model_registry.read_aliases(registry, "digits") == {"champion": 5, "previous": 4}


def test_with_nothing_to_go_back_to_nothing_changes_and_the_reason_is_named(registry, project):
    def refuse(match, error=UserError):
        before = (project / ledger.LEDGER).read_bytes()
        with pytest.raises(error, match=match):
            rollback(Project(project), "digits")
        assert (project / ledger.LEDGER).read_bytes() == before

    registry.delete_registered_model_alias("digits", "previous")
    refuse("nothing served before digits version 5")
    registry.delete_registered_model_alias("digits", "champion")
    refuse("no model 'digits' serves", NoChampion)


def test_a_rollback_says_who_serves_and_writes_why_into_the_ledger_and_the_version(registry, project):
    registry.set_registered_model_alias("digits", "challenger", "1")
    result = rollback(Project(project), "digits", "too slow")
    assert (result.serves.number, result.instead_of) == (4, 5) and 0 <= result.duration_s < 600
    assert str(result).startswith("digits version 4 serves again, instead of version 5 (")
    line, done = ledger.read_ledger(Project(project))[-2:]
    expected = {"event": "rollback", "model": "digits", "version": 5, "serves": False, "run": "run4",
                "champion": 5, "reason": "too slow", "before": {"champion": 5, "previous": 4, "challenger": 1},
                "after": {"champion": 4, "previous": 3, "challenger": 1}}  # fmt: skip
    assert {name: line[name] for name in expected} == expected
    assert (done["event"], done["of"]) == ("done", line["number"])
    tag = registry.get_model_version("digits", "5").tags["convoy.rolled_back"]
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ by \S+@.+: too slow", tag)


def test_a_rollback_without_a_reason_says_so(registry, project):
    rollback(Project(project), "digits")
    assert ledger.read_ledger(Project(project))[-2]["reason"] == "rolled back by hand"
    assert registry.get_model_version("digits", "5").tags["convoy.rolled_back"].endswith(": no reason given")


def test_a_rollback_to_the_first_version_leaves_no_previous_one(registry, project):
    for number in (4, 3, 2):  # the ledger says that version 2 replaced none
        assert rollback(Project(project), "digits").serves.number == number
    assert model_registry.read_aliases(registry, "digits") == {"champion": 2}


def test_files_that_cannot_be_loaded_stop_a_rollback(project):
    client = model_registry.connect_registry(Project(project))
    client.create_registered_model("digits")
    for number in ("1", "2"):
        client.create_model_version("digits", f"{project}/nowhere", f"run{number}")
    for alias, number in {"champion": "2", "previous": "1"}.items():
        client.set_registered_model_alias("digits", alias, number)
    with pytest.raises(UserError, match=r"MLflow cannot load digits version 1 \(.+\); nothing was changed"):
        rollback(Project(project), "digits")
    assert model_registry.read_aliases(client, "digits") == {"champion": 2, "previous": 1}


def test_the_files_that_are_checked_are_those_of_the_version(project, monkeypatch):
    (project / "model/artifacts/bundle").mkdir(parents=True)
    (project / "model/artifacts/bundle/weights").touch()
    client = model_registry.connect_registry(Project(project))
    client.create_registered_model("digits")
    client.create_model_version("digits", str(project / "model"), "run1")
    checked: list[list[str]] = []
    monkeypatch.setattr("lightning_modules.bundle.check_bundle", lambda folder: checked.append(os.listdir(folder)))
    version = model_registry.find_version(client, "digits", 1)
    module._check_version_files(client, version)
    assert checked == [["weights"]]

    def fail(**_):
        raise OSError("the disk fails\nat line 2")

    monkeypatch.setattr("mlflow.artifacts.download_artifacts", fail)
    with pytest.raises(
        UserError, match=r"MLflow cannot load digits version 1 \(the disk fails\); nothing was changed"
    ):
        module._check_version_files(client, version)


def test_a_rollback_says_in_one_line_what_serves_and_how_long_it_took():
    result = module.RollbackResult(model_registry.Version("digits", 4, "run"), 5, 1.23)
    assert str(result) == "digits version 4 serves again, instead of version 5 (1.2 s)"


def make_move(event, before, after):
    return {"event": event, "model": "digits", "version": after, "before": {"champion": before} if before else {},
            "after": {"champion": after}}  # fmt: skip


def test_the_version_before_one_is_that_which_it_replaced_when_it_first_served():
    done = [make_move("rollback", 7, 2), make_move("decision", 1, 2), make_move("decision", 3, 2)]
    assert module._find_previous(done, 2, 5) == 1
    assert module._find_previous(done, 2, 1) is None  # it is the one that is rolled back now
    assert module._find_previous([make_move("decision", 2, 2)], 2, 5) is None
    assert module._find_previous(done, 9, 5) is None


def test_a_version_that_its_tag_names_is_usable_unless_it_was_rolled_back_or_deleted(registry):
    def find(number, text, done=(), replaced=5):
        tags = {model_registry.COMPARED_VERSION_TAG: text} if text else {}
        version = model_registry.Version("digits", number, "run", tags=tags)
        return module._find_compared(registry, version, list(done), replaced)

    assert find(4, "2") == 2
    assert find(4, "2", [make_move("decision", 3, 4)]) is None
    assert find(4, "2", [make_move("rollback", 3, 4), make_move("decision", 3, 1)]) == 2
    assert [find(4, text) for text in ("", "x", "99", "4", "5")] == [None] * 5
    registry.set_model_version_tag("digits", "2", model_registry.ROLLED_BACK_TAG, "x")
    assert find(4, "2") is None


def write_move(folder, before, after, event=ledger.DECISION):
    line = ledger.append_entry(Project(folder), make_move(event, before, after))
    ledger.append_entry(Project(folder), {"event": ledger.DONE, "of": line["number"]})
    return ledger.read_ledger(Project(folder))[-1]["time"]


def test_only_a_change_of_the_champion_after_it_was_asked_for_stops_a_rollback(tmp_path):
    first = write_move(tmp_path, 1, 2)
    write_move(tmp_path, 2, 2)
    module._check_unchanged_since(Project(tmp_path), "digits", first)
    module._check_unchanged_since(Project(tmp_path), "other", "2026-01-01")
    write_move(tmp_path, 2, 1, ledger.ROLLBACK)
    with pytest.raises(UserError, match="version 2 has just been rolled back to version 1"):
        module._check_unchanged_since(Project(tmp_path), "digits", first)
    with pytest.raises(UserError, match="version 2 has just become champion"):
        module._check_unchanged_since(Project(tmp_path), "digits", "2026-01-01")
