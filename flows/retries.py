"""Which failures are worth another try: the world's, never the user's and never our own."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prefect.client.schemas.objects import State, TaskRun

# A disk or a network share that stumbles; a missing file or a full disk is not mended by waiting.
PASSING = {
    errno.EAGAIN, errno.EBUSY, errno.ECONNRESET, errno.EHOSTUNREACH, errno.EINTR, errno.EIO, errno.ENETDOWN,
    errno.ENETRESET, errno.ENETUNREACH, errno.EREMOTEIO, errno.ESTALE, errno.ETIMEDOUT,
}  # fmt: skip


def may_pass(error: object) -> bool:
    """True for an error of the network, a file system or a server that may be gone a little later."""
    if isinstance(error, ConnectionError | TimeoutError):
        return True
    if isinstance(error, OSError):
        return error.errno in PASSING
    return getattr(error, "error_code", None) in {"TEMPORARILY_UNAVAILABLE", "INTERNAL_ERROR"}  # MLflow's


def if_it_may_pass(task: Any, run: TaskRun, state: State[Any]) -> bool:
    """Prefect's `retry_condition_fn`."""
    return may_pass(state.data)


RETRIED: dict[str, Any] = {
    "retries": 3,
    "retry_delay_seconds": [2, 10, 30],
    "retry_condition_fn": if_it_may_pass,
}
