from collections.abc import Iterator

import pytest

from flows.notifications import webhooks
from flows.orchestration.prefect_server import find_free_port
from flows.project.project import Project
from flows.promotion import alias_updates, ledger, model_registry
from imageset.exceptions import UserError
from tests.helpers.servers import Listener

PARAMS = "hooks:\n  on_failure: {}\n  on_promotion: {}\n"


@pytest.fixture
def listener() -> Iterator[Listener]:
    one = Listener()
    yield one
    one.server.shutdown()
    one.server.server_close()


def write(project, on_failure="null", on_promotion="null") -> None:
    (project / "params.yaml").write_text(PARAMS.format(on_failure, on_promotion))


def test_a_promotion_and_a_rollback_are_told_once_the_aliases_have_moved(project, listener):
    write(project, on_promotion=listener.url)
    client = model_registry.connect_registry(Project(project))
    client.create_registered_model("digits")
    for run in ("a", "b"):
        client.create_model_version("digits", "/nowhere", run)
    entry = {
        "event": ledger.DECISION,
        "model": "digits",
        "version": 2,
        "reason": "better",
        "numbers": {"gain": 0.1},
    }
    with alias_updates.alias_lock(Project(project)):
        alias_updates.update_aliases(client, Project(project), entry, {}, lambda before: {"champion": 2})
        assert listener.heard == []  # nobody waits for a hook with the registry locked
    (heard,) = listener.heard
    assert (heard["event"], heard["model"], heard["version"], heard["instead_of"]) == (
        "promotion",
        "digits",
        2,
        None,
    )
    assert (heard["reason"], heard["numbers"]) == ("better", {"gain": 0.1})
    assert heard["project"] == str(project)
    with alias_updates.alias_lock(Project(project)):
        back = {**entry, "event": ledger.ROLLBACK}
        alias_updates.update_aliases(
            client, Project(project), back, {"champion": 2}, lambda before: {"champion": 1}
        )
    assert [(one["event"], one["version"]) for one in listener.heard] == [("promotion", 2), ("rollback", 1)]


def test_a_challenger_is_no_promotion(project, listener):
    write(project, on_promotion=listener.url)
    alias_updates.notify_promotion(
        Project(project), {"event": "decision", "before": {"champion": 1}, "after": {"champion": 1}}
    )
    assert listener.heard == []


def test_a_hook_that_is_down_is_a_warning_and_no_more(project, caplog):
    write(project, on_failure=f"http://127.0.0.1:{find_free_port()}/secret")
    assert webhooks.post_webhook(Project(project), webhooks.ON_FAILURE, {"event": "failure"}) is False
    assert "on_failure: 127.0.0.1 did not accept the message" in caplog.text and "secret" not in caplog.text


def test_a_hook_that_answers_too_late_is_not_waited_for(project, monkeypatch, caplog):
    import socket

    monkeypatch.setattr(webhooks, "TIMEOUT_S", 0.2)
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        write(project, on_failure=f"http://127.0.0.1:{deaf.getsockname()[1]}/")
        assert webhooks.post_webhook(Project(project), webhooks.ON_FAILURE, {"event": "failure"}) is False
    assert "timed out" in caplog.text


def test_the_environment_names_the_address_before_params_do(project, listener, monkeypatch):
    write(project, on_failure="http://127.0.0.1:1/")
    monkeypatch.setenv("CONVOY_ON_FAILURE", listener.url)
    assert webhooks.post_webhook(Project(project), webhooks.ON_FAILURE, {"event": "failure"}) is True
    assert listener.heard[0]["event"] == "failure"


def test_an_address_that_is_none_is_said_before_the_work(project):
    write(project, on_promotion="mail@example.org")
    with pytest.raises(UserError, match=r"hooks\.on_promotion .* is not an http:// or https:// address"):
        webhooks.check_webhooks(Project(project))


def test_a_flow_that_fails_is_told_with_its_one_line(prefect_server, tmp_path, listener, monkeypatch):
    from flows.train import train

    monkeypatch.chdir(tmp_path)
    write(tmp_path, on_failure=listener.url)
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    with pytest.raises(UserError, match="not inside of a DVC repository"):
        train()
    (heard,) = listener.heard
    assert (heard["event"], heard["flow"], heard["state"]) == ("failure", "train", "Failed")
    assert "not inside of a DVC repository" in heard["message"]
