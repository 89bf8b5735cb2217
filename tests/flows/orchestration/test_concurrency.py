"""One run at a time, on a real Prefect server."""

import threading

import pytest

from flows.orchestration import concurrency, prefect_server
from flows.orchestration.prefect_api import call_prefect_api
from tests.helpers.processes import hold_limits


def test_two_runs_of_one_dataset_wait_for_each_other_and_two_datasets_do_not(prefect_server, caplog):
    cats, dogs, gpu = concurrency.name_dataset_limit("cats"), concurrency.name_dataset_limit("dogs"), "gpu-here-0"
    got = threading.Event()

    def second() -> None:
        with concurrency.acquire_limits(cats, gpu):
            got.set()

    with hold_limits(prefect_server, cats) as first:
        assert concurrency.ensure_limits(prefect_server, [cats, dogs, gpu]) == {cats: 1, dogs: 0, gpu: 0}
        with concurrency.acquire_limits(dogs):
            assert concurrency.ensure_limits(prefect_server, [dogs]) == {dogs: 1}
            with concurrency.acquire_limits(dogs):  # what this process holds, it holds
                pass
            assert concurrency.ensure_limits(prefect_server, [dogs]) == {dogs: 1}
        waiting = threading.Thread(target=second)
        waiting.start()
        assert not got.wait(3)
        assert concurrency.ensure_limits(prefect_server, [cats, gpu]) == {
            cats: 1,
            gpu: 0,
        }  # all of them at once, or none
        first.communicate()
        waiting.join(120)
    assert got.is_set() and f"waiting for {cats}: another run holds it" in caplog.text
    assert concurrency.ensure_limits(prefect_server, [cats, dogs, gpu]) == {cats: 0, dogs: 0, gpu: 0}


def test_what_died_with_the_server_is_freed_and_nobody_elses(prefect_server):
    ours, other = concurrency.name_dataset_limit("birds"), "somebody-elses"
    with hold_limits(prefect_server, ours, other) as killed:
        killed.kill()
        killed.wait()
        assert concurrency.ensure_limits(prefect_server, [ours, other]) == {ours: 1, other: 1}
        concurrency.release_limits(prefect_server)
        assert concurrency.ensure_limits(prefect_server, [ours, other]) == {ours: 0, other: 1}


def test_a_limit_that_a_person_has_changed_stays_and_another_run_of_a_wider_one_need_not_wait(prefect_server):
    name = concurrency.name_dataset_limit("many cats/dogs")
    assert name == "dataset-many_cats_dogs"
    concurrency.ensure_limits(prefect_server, [name])
    call_prefect_api(f"{prefect_server}/v2/concurrency_limits/{name}", {"limit": 2}, method="PATCH")
    with hold_limits(prefect_server, name), concurrency.acquire_limits(name):
        assert concurrency.ensure_limits(prefect_server, [name]) == {name: 2}


@pytest.mark.parametrize(("visible", "numbers"), [("0,2", ["0", "2"]), ("", []), ("-1", [])])
def test_each_gpu_that_we_may_use_has_a_limit_of_its_own(monkeypatch, visible, numbers):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert [name.rpartition("-")[2] for name in concurrency.name_gpu_limits()] == numbers


def test_where_nobody_else_reports_to_nothing_is_waited_for(monkeypatch):
    monkeypatch.setattr(prefect_server, "_temporary_urls", ["http://127.0.0.1:9"])
    with concurrency.acquire_limits(concurrency.name_dataset_limit("cats")):  # no server is asked
        pass
