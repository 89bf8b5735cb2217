"""A time limit for what a flow does, processes included."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from imageset.exceptions import UserError


class _TimeLimitExceeded(TimeoutError):
    """Only `time_limit` sees it."""


@contextmanager
def time_limit(hours: float | None, what: str) -> Iterator[None]:
    """Stop what runs in this block after so many hours; None: never.

    In the main thread, where flows run, it interrupts the wait for a child process as well, and whoever waits for
    one ends it with its whole group (flows.orchestration.subprocesses.stream_output).

    Raises:
        UserError: it took too long, or the limit is no positive number.
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
        raise UserError(f"{what} took longer than {hours:g} h (timeout_h) and was stopped with all that it had "
                        "started; call it again to go on where it stopped") from None  # fmt: skip
