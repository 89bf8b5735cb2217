"""Options of every @flow: record the run while it runs, notify on failure; a refused run has not failed."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from flows.notifications.webhooks import notify_failure
from flows.orchestration.crash_recovery import record_flow_run
from flows.project.exceptions import ProjectBusy

P = ParamSpec("P")
R = TypeVar("R")

FLOW_OPTIONS: dict[str, Any] = {
    "on_running": [record_flow_run],
    "on_failure": [notify_failure],
    "on_crashed": [notify_failure],
}


def cancel_if_busy(function: Callable[P, R]) -> Callable[P, R]:
    """Let a flow's run end as Cancelled, not as Failed, where another run is at work; its caller gets ProjectBusy.

    Args:
        function: the function of a flow, below `@flow`. Where another flow calls it as a plain function, the error
            is left to that flow.
    """

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        from prefect.context import FlowRunContext
        from prefect.states import Cancelled

        try:
            return function(*args, **kwargs)
        except ProjectBusy as error:
            context = FlowRunContext.get()
            if context is None or context.flow is None or context.flow.fn is not run:
                raise
            return Cancelled(message=str(error), data=error)  # type: ignore[return-value]  # Prefect raises its data

    return run
