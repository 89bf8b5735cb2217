"""Which failures are worth another try: the world's, never the user's and never our own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from imageset.utils import transient_errors

if TYPE_CHECKING:
    from prefect.client.schemas.objects import State, TaskRun


def is_retryable(error: object) -> bool:
    """True for an error of the network, a file system or a server that may be gone a little later."""
    of_mlflow = getattr(error, "error_code", None) in {"TEMPORARILY_UNAVAILABLE", "INTERNAL_ERROR"}
    return of_mlflow or transient_errors.is_transient(error)


def retry_if_transient(task: Any, run: TaskRun, state: State[Any]) -> bool:
    """Prefect's `retry_condition_fn`."""
    return is_retryable(state.data)


TASK_RETRY_OPTIONS: dict[str, Any] = {
    "retries": 3,
    "retry_delay_seconds": [2, 10, 30],
    "retry_condition_fn": retry_if_transient,
}
