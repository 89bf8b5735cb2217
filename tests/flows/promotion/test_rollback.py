import os
from multiprocessing import get_context
from pathlib import Path

import pytest

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
