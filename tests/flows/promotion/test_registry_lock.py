import os
import signal
import socket
import subprocess
import sys
import time
from multiprocessing import get_context
from pathlib import Path

import psutil
import pytest

from flows.project.exceptions import ChampionChanged, ProjectBusy
from flows.project.project import Project
from flows.promotion import alias_updates, ledger, model_registry, registry_lock

SERVED, REFUSED = 0, 3  # exit statuses of a child


@pytest.fixture
def shared(project, monkeypatch):
    """An MLflow that two projects use; versions 2 and 3 of `digits` ask to serve instead of version 1."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{project / 'mlflow.db'}")
    client = model_registry.connect_registry(Project(project))
    client.create_registered_model("digits")
    for run in ("a", "b", "c"):
        client.create_model_version("digits", "/nowhere", run)
    client.set_registered_model_alias("digits", "champion", "1")
    return client


def promote(folder, number: int) -> None:
    """Promote a version that was better than version 1, slowly between reading and moving the alias."""
    folder.mkdir()
    aliases = model_registry.read_aliases

    def slow(*arguments):
        found = aliases(*arguments)
        time.sleep(1)
        return found

    model_registry.read_aliases = slow
    client = model_registry.connect_registry(Project(folder))
    entry = {"event": ledger.DECISION, "model": "digits", "version": number, "reason": "better", "tags": {}}
    try:
        with alias_updates.alias_lock(Project(folder)):
            after = {"champion": number, "previous": 1}
            alias_updates.update_aliases(client, Project(folder), entry, {"champion": 1}, lambda before: after)
    except ChampionChanged:
        os._exit(REFUSED)
    os._exit(SERVED)


def take_and_die(folder) -> None:
    with registry_lock.registry_lock(model_registry.connect_registry(Project(folder)), "digits"):
        os.kill(os.getpid(), signal.SIGKILL)


def run(target, *arguments):
    child = get_context("fork").Process(target=target, args=arguments)
    child.start()
    return child


def test_of_two_projects_on_one_mlflow_that_promote_at_once_one_wins_and_the_other_is_told(shared, tmp_path):
    children = [run(promote, tmp_path / name, number) for name, number in {"one": 2, "two": 3}.items()]
    for child in children:
        child.join(120)
    assert sorted(child.exitcode for child in children) == [SERVED, REFUSED]
    winner = (2, 3)[[child.exitcode for child in children].index(SERVED)]
    assert model_registry.read_aliases(shared, "digits") == {"champion": winner, "previous": 1}
    assert [model.name for model in shared.search_registered_models()] == ["digits"]


def test_the_turn_of_a_process_that_was_killed_is_taken_over_at_once(shared, project):
    child = run(take_and_die, project)
    child.join(120)
    assert child.exitcode == -signal.SIGKILL
    assert shared.get_registered_model("digits.moving").tags
    with registry_lock.registry_lock(shared, "digits"):
        pass
    assert [model.name for model in shared.search_registered_models()] == ["digits"]


def test_the_turn_of_another_machine_is_waited_for_and_taken_over_when_it_never_ends(shared, monkeypatch):
    shared.create_registered_model("digits.moving", {registry_lock.HOLDER_TAG: "elsewhere 1 1.00"})
    monkeypatch.setattr(registry_lock, "TIMEOUT_S", 0.2)
    with (
        pytest.raises(ProjectBusy, match=r"\(elsewhere 1 1\.00\) has held digits\.moving"),
        registry_lock.registry_lock(shared, "digits"),
    ):
        pass
    assert shared.get_registered_model("digits.moving")
    monkeypatch.setattr(registry_lock, "STALE_S", 0.1)
    with registry_lock.registry_lock(shared, "digits"):
        assert shared.get_registered_model("digits.moving").tags[registry_lock.HOLDER_TAG] != "elsewhere 1 1.00"


def test_nothing_is_made_in_the_projects_own_file(shared, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    with registry_lock.registry_lock(shared, "digits"):
        assert [model.name for model in shared.search_registered_models()] == ["digits"]


def test_a_lock_that_is_released_while_mlflow_refuses_it_is_asked_for_again(shared, monkeypatch):
    from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore

    shared.create_registered_model("digits.moving", {registry_lock.HOLDER_TAG: "elsewhere 1 1.00"})
    get_registered_model = SqlAlchemyStore.get_registered_model
    released = []

    def release_first(store, name):
        if not released:
            released.append(name)
            store.delete_registered_model(name)
        return get_registered_model(store, name)

    monkeypatch.setattr(SqlAlchemyStore, "get_registered_model", release_first)
    with registry_lock.registry_lock(shared, "digits"):
        assert released == ["digits.moving"]


ELSEWHERE = "elsewhere 1 1.00"


class Clock:
    """A clock that a wait moves on by 50 s; `events` happen at their second."""

    def __init__(self, **events) -> None:
        self.now, self.events = 0.0, {int(name[1:]): event for name, event in events.items()}

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        assert 0 < seconds < 1
        self.now += 50
        self.events.get(int(self.now), lambda: None)()


def hold(client, holder: str = ELSEWHERE) -> None:
    client.create_registered_model("digits.moving", {registry_lock.HOLDER_TAG: holder})


def test_a_lock_is_stale_after_two_minutes_of_the_same_holder(shared, monkeypatch):
    def pass_on():
        shared.delete_registered_model("digits.moving")
        hold(shared, "elsewhere 2 2.00")

    hold(shared)
    clock = Clock()
    monkeypatch.setattr(registry_lock, "time", clock)
    with registry_lock.registry_lock(shared, "digits"):
        assert clock.now == 150
    hold(shared)
    monkeypatch.setattr(registry_lock, "time", clock := Clock(_100=pass_on))
    with pytest.raises(ProjectBusy, match=r"elsewhere 2 2\.00"), registry_lock.registry_lock(shared, "digits"):
        pass
    assert clock.now == 200


def test_a_lock_that_is_released_is_taken_by_the_one_who_waits(shared, monkeypatch):
    hold(shared)
    clock = Clock(_50=lambda: shared.delete_registered_model("digits.moving"))
    monkeypatch.setattr(registry_lock, "time", clock)
    with registry_lock.registry_lock(shared, "digits"):
        assert clock.now == 50
    assert registry_lock._read_holder(shared, "digits.moving") == ("", None)


def test_a_lock_is_created_once_and_is_ours_after_a_lost_response(shared):
    assert registry_lock._create_lock(shared, "digits.moving", "a 1 1")
    assert registry_lock._create_lock(shared, "digits.moving", "a 1 1")
    assert not registry_lock._create_lock(shared, "digits.moving", "b 1 1")
    registry_lock._release_lock(shared, "digits.moving", "b 1 1")
    assert registry_lock._read_holder(shared, "digits.moving")[0] == "a 1 1"
    registry_lock._release_lock(shared, "digits.moving", "a 1 1")
    registry_lock._delete_lock(shared, "digits.moving")
    assert [model.name for model in shared.search_registered_models()] == ["digits"]


def test_two_locks_of_one_holder_are_told_apart(shared):
    hold(shared)
    first = registry_lock._read_holder(shared, "digits.moving")[1]
    shared.delete_registered_model("digits.moving")
    time.sleep(0.002)  # MLflow's times are in milliseconds
    hold(shared)
    assert registry_lock._read_holder(shared, "digits.moving")[1] != first


@pytest.mark.parametrize(
    "call", [registry_lock._create_lock, registry_lock._read_holder, registry_lock._delete_lock]
)
def test_other_errors_of_mlflow_are_passed_on_but_not_at_a_release(monkeypatch, call):
    from mlflow.exceptions import MlflowException

    class Away:
        def __getattr__(self, name):
            raise MlflowException("away")

    with pytest.raises(MlflowException, match="away"):
        call(Away(), "digits.moving", *(["a 1 1"] if call is registry_lock._create_lock else []))
    registry_lock._release_lock(Away(), "digits.moving", "a 1 1")
    monkeypatch.setattr(Away, "__getattr__", lambda self, name: os.stat("/nonexistent"))
    registry_lock._release_lock(Away(), "digits.moving", "a 1 1")


def test_only_a_process_of_this_machine_that_has_ended_is_gone():
    machine, pid, created = registry_lock._describe_process().split()
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    assert int(pid) == os.getpid() and machine.split("/")[0] == socket.gethostname()
    gone = {
        f"{machine} {pid} {created}": False,
        f"{machine} {pid} 1.00": True,
        f"{machine} {child.pid} 1.00": True,
        f"elsewhere {child.pid} 1.00": False,
        f"{machine} {child.pid}": False,
        f"{machine} x 1.00": False,
        "": False,
    }
    assert {holder: registry_lock._is_holder_gone(holder) for holder in gone} == gone


def test_a_process_that_may_not_be_looked_at_is_not_gone(monkeypatch):
    def refuse(pid):
        raise psutil.AccessDenied(pid)

    holder = registry_lock._describe_process()
    monkeypatch.setattr(registry_lock, "_describe_machine", lambda: holder.split()[0])
    monkeypatch.setattr(psutil, "Process", refuse)
    assert not registry_lock._is_holder_gone(holder)


@pytest.mark.skipif(not Path("/proc/self/ns/pid").exists(), reason="no process-id namespaces")
def test_machines_of_one_name_are_told_apart_by_their_start_and_their_processes():
    name, boot_id, namespace = registry_lock._describe_machine().split("/")
    assert (name, namespace) == (socket.gethostname(), str(Path("/proc/self/ns/pid").stat().st_ino))
    assert boot_id and Path("/proc/sys/kernel/random/boot_id").read_text().startswith(boot_id)
