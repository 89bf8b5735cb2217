"""Options of every @flow: record the run while it runs, notify on failure, end with a reason in one line."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from flows.notifications.webhooks import notify_failure
from flows.orchestration.crash_recovery import record_flow_run
from flows.project.exceptions import ProjectBusy
from imageset import termination
from imageset.exceptions import UserError
from imageset.system_errors import describe_system_error

P = ParamSpec("P")
R = TypeVar("R")

FLOW_OPTIONS: dict[str, Any] = {
    "on_running": [record_flow_run],
    "on_failure": [notify_failure],
    "on_crashed": [notify_failure],
}


def conclude_run(function: Callable[P, R]) -> Callable[P, R]:
    """Let a flow's run end as Cancelled where another run is at work, and name an error of the system in one line.

    The caller gets ProjectBusy or UserError; the run's page in Prefect and the webhook get the same line.

    Args:
        function: the function of a flow, below `@flow`. Where another flow calls it as a plain function,
            ProjectBusy is left to that flow.
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
        except UserError:
            raise
        except Exception as error:
            line = describe_system_error(error)
            if line is None or termination.is_requested():
                raise
            raise UserError(line) from error

    return run
