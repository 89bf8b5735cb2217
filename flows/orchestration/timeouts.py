"""A time limit for a flow and its child processes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from imageset.exceptions import UserError


class _TimeLimitExceeded(TimeoutError):
    """Raised inside the block of `time_limit`, which replaces it."""


@contextmanager
def time_limit(hours: float | None, name: str) -> Iterator[None]:
    """Interrupt the block after so many hours; None sets no limit.

    In the main thread, where flows run, this also interrupts the wait for a child process, which is then stopped
    with its whole process group (flows.orchestration.subprocesses.stream_output).

    Args:
        hours: the limit.
        name: of the work, as the message calls it.

    Raises:
        UserError: the limit was exceeded, or is not positive.
    """
    if hours is None:
        yield
        return
    if hours <= 0:
        raise UserError(f"timeout_h is {hours:g}; give a number of hours above 0")
    from prefect.utilities.timeout import timeout

    try:
        with timeout(hours * 3600, timeout_exc_type=_TimeLimitExceeded):
            yield
    except _TimeLimitExceeded:
        raise UserError(f"{name} took longer than {hours:g} h (timeout_h) and was stopped with all its processes; "
                        "run it again to resume") from None  # fmt: skip
