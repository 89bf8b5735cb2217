"""Which failures are worth another try: the world's, never the user's and never our own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from imageset import remote

if TYPE_CHECKING:
    from prefect.client.schemas.objects import State, TaskRun


def may_pass(error: object) -> bool:
    """True for an error of the network, a file system or a server that may be gone a little later."""
    of_mlflow = getattr(error, "error_code", None) in {"TEMPORARILY_UNAVAILABLE", "INTERNAL_ERROR"}
    return of_mlflow or remote.may_pass(error)


def if_it_may_pass(task: Any, run: TaskRun, state: State[Any]) -> bool:
    """Prefect's `retry_condition_fn`."""
    return may_pass(state.data)


RETRIED: dict[str, Any] = {
    "retries": 3,
    "retry_delay_seconds": [2, 10, 30],
    "retry_condition_fn": if_it_may_pass,
}
