import errno

import pytest

from flows.orchestration.retries import TASK_RETRY_OPTIONS, is_retryable
from flows.project.exceptions import ProjectBusy, ServerUnavailable
from imageset.exceptions import UserError


@pytest.mark.parametrize(
    ("error", "passes"),
    [
        (ServerUnavailable("no answer"), True),
        (ConnectionResetError(), True),
        (TimeoutError(), True),
        (OSError(errno.EIO, "input/output error"), True),
        (OSError(errno.ESTALE, "stale file handle"), True),
        (OSError(errno.ENOSPC, "no space left"), False),
        (FileNotFoundError(), False),
        (PermissionError(), False),
        (UserError("wrong"), False),
        (ProjectBusy("busy"), False),
        (KeyError("a bug"), False),
    ],
)
def test_only_what_may_pass_by_itself_is_worth_another_try(error, passes):
    assert is_retryable(error) is passes


@pytest.mark.parametrize(("error", "calls"), [(ConnectionError("away"), 4), (UserError("wrong"), 1)])
def test_a_task_is_retried_for_the_world_and_never_for_the_user(prefect_server, error, calls):
    from prefect import task

    called = []

    @task(**{**TASK_RETRY_OPTIONS, "retry_delay_seconds": 0})
    def stumble() -> None:
        called.append(1)
        raise error

    with pytest.raises(type(error)):
        stumble()
    assert len(called) == calls
