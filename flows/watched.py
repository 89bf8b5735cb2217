"""What every flow of ours does beside its work: it is noted while it runs, and says so where it fails."""

from __future__ import annotations

from typing import Any

from flows.hooks import tell_failure
from flows.recovery import note_flow_run

WATCHED: dict[str, Any] = {
    "on_running": [note_flow_run],
    "on_failure": [tell_failure],
    "on_crashed": [tell_failure],
}
