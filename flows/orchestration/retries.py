"""Retry a task after transient errors of networks, file systems and servers, and after no other error."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from imageset.utils import transient_errors

if TYPE_CHECKING:
    from prefect.client.schemas.objects import State, TaskRun


def is_retryable(error: object) -> bool:
    """Return whether an error of a network, a file system or a server may go away by itself."""
    of_mlflow = getattr(error, "error_code", None) in {"TEMPORARILY_UNAVAILABLE", "INTERNAL_ERROR"}
    return of_mlflow or transient_errors.is_transient(error)


def retry_if_transient(task: Any, run: TaskRun, state: State[Any]) -> bool:
    """Return whether to retry a failed task; Prefect's `retry_condition_fn`."""
    return is_retryable(state.data)


TASK_RETRY_OPTIONS: dict[str, Any] = {
    "retries": 3,
    "retry_delay_seconds": [2, 10, 30],
    "retry_condition_fn": retry_if_transient,
}
