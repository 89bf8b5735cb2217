"""Hooks: one JSON object posted to an address when a run fails, or when another version serves.

The addresses stand in params.yaml (`hooks`) or, since they may hold a secret, in the environment:
CONVOY_ON_FAILURE, CONVOY_ON_PROMOTION. A hook that is down, slow or says no is a warning in the log, and a line of
`convoy status` until one is taken; it never fails a run.
"""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from flows.notifications import console, problems
from flows.project import user
from flows.project.paths import find_project
from imageset.exceptions import UserError
from imageset.utils import timestamps

logger = console.get_logger(__name__)

ON_FAILURE, ON_PROMOTION = "on_failure", "on_promotion"
TIMEOUT_S = 5.0


def find_webhook_url(project: Path, name: str) -> str | None:
    """Where a hook posts to; None: nowhere.

    Raises:
        UserError: params.yaml has no such key, or it is no http or https address.
    """
    from flows.project.params import load_stage_params  # loads pydantic, which `convoy status` does not need

    variable = f"CONVOY_{name.upper()}"
    url = os.environ.get(variable) or load_stage_params(project, "hooks")[name]
    if url is not None and urllib.parse.urlsplit(url).scheme not in ("http", "https"):
        raise UserError(f"params.yaml: hooks.{name} (or {variable}): {url!r} is no http:// or https:// address")
    return url or None


def check_webhooks(project: Path) -> None:
    """Raise UserError where an address is none, before hours of work."""
    for name in (ON_FAILURE, ON_PROMOTION):
        find_webhook_url(project, name)


def notify_failure(flow: Any, flow_run: Any, state: Any) -> None:
    """Prefect's `on_failure` and `on_crashed`: post which run ended how.

    `{"event": "failure", "flow", "run", "run_id", "state", "message", "project", "who", "time"}`
    """
    from prefect.settings import PREFECT_UI_URL

    ui = PREFECT_UI_URL.value()
    post_webhook(find_project(), ON_FAILURE, {
        "event": "failure", "flow": flow.name, "run": flow_run.name, "run_id": str(flow_run.id),
        "state": state.name, "message": " ".join(str(state.message or "").split())[:1000],
        "page": f"{ui}/runs/flow-run/{flow_run.id}" if ui else None,
    })  # fmt: skip


def notify_crash(project: Path, run: str, run_id: str, message: str) -> None:
    """A run was killed and could not say so itself; the same keys as those of a failure."""
    flow, _, name = run.partition(" (")
    post_webhook(project, ON_FAILURE, {"event": "failure", "flow": flow, "run": name.rstrip(")"), "run_id": run_id,
                               "state": "Crashed", "message": message, "page": None})  # fmt: skip


def post_webhook(project: Path, hook: str, body: Mapping[str, Any]) -> bool:
    """Post to a hook, if there is one; True if it took it. Nothing here raises: what it tells of has happened."""
    try:
        url = find_webhook_url(project, hook)
    except UserError as error:
        logger.warning("hook %s: %s", hook, error)
        return False
    if url is None:
        _update_problem(project, hook, None)
        return False
    whole = {
        **body,
        "project": str(project.resolve()),
        "who": user.identify_user(),
        "time": timestamps.format_utc_now(),
    }
    request = urllib.request.Request(
        url, json.dumps(whole, ensure_ascii=False).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S):
            _update_problem(project, hook, None)
            return True
    except (OSError, ValueError) as error:
        place = urllib.parse.urlsplit(url).hostname  # not the whole address, which may hold a secret
        logger.warning("hook %s: %s did not take it (%s); the run goes on", hook, place, error)
        _update_problem(project, hook, f"hook {hook}: {place} did not take what it was told ({body.get('event')}: {error}); "
              f"start it, or give another address in params.yaml: hooks.{hook}")  # fmt: skip
        return False


def _update_problem(project: Path, name: str, trouble: str | None) -> None:
    """Keep what is wrong with a hook for `convoy status`, or that nothing is; a full disk is told elsewhere."""
    with suppress(OSError):
        if trouble is None:
            problems.resolve_problem(project, name)
        else:
            problems.record_problem(project, name, trouble)
