"""Options of every @flow: record the run while it runs, notify on failure."""

from __future__ import annotations

from typing import Any

from flows.notifications.webhooks import notify_failure
from flows.orchestration.crash_recovery import record_flow_run

FLOW_OPTIONS: dict[str, Any] = {
    "on_running": [record_flow_run],
    "on_failure": [notify_failure],
    "on_crashed": [notify_failure],
}
