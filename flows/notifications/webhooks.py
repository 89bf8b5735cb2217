"""Webhooks: post one JSON object to an address when a run fails, or when another version becomes the champion.

The addresses are in params.yaml (`hooks`) or, since they may contain a secret, in the environment:
CONVOY_ON_FAILURE, CONVOY_ON_PROMOTION. A receiver that is down, slow, or answers with an error is a warning in the
log and a problem in `convoy status` until a message is accepted. It never fails a run.
"""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from flows.notifications import console, problems
from flows.project import user
from flows.project.project import Project
from imageset.exceptions import UserError
from imageset.utils import timestamps

logger = console.get_logger(__name__)

ON_FAILURE, ON_PROMOTION = "on_failure", "on_promotion"
TIMEOUT_S = 5.0


def find_webhook_url(project: Project, name: str) -> str | None:
    """Return the address of a webhook, or None if it has none.

    Raises:
        UserError: params.yaml lacks the key, or the address is not http or https.
    """
    variable = f"CONVOY_{name.upper()}"
    url = os.environ.get(variable) or project.load_params("hooks")[name]
    if url is not None and urllib.parse.urlsplit(url).scheme not in ("http", "https"):
        raise UserError(
            f"params.yaml: hooks.{name} (or {variable}): {url!r} is not an http:// or https:// address"
        )
    return url or None


def check_webhooks(project: Project) -> None:
    """Raise UserError if an address is invalid, before hours of work."""
    for name in (ON_FAILURE, ON_PROMOTION):
        find_webhook_url(project, name)


def notify_failure(flow: Any, flow_run: Any, state: Any) -> None:
    """Post that a flow run failed; Prefect's hooks `on_failure` and `on_crashed`.

    The body is `{"event": "failure", "flow", "run", "run_id", "state", "message", "project", "who", "time"}`
    """
    from prefect.settings import PREFECT_UI_URL

    ui = PREFECT_UI_URL.value()
    post_webhook(Project.find(), ON_FAILURE, {
        "event": "failure", "flow": flow.name, "run": flow_run.name, "run_id": str(flow_run.id),
        "state": state.name, "message": " ".join(str(state.message or "").split())[:1000],
        "page": f"{ui}/runs/flow-run/{flow_run.id}" if ui else None,
    })  # fmt: skip


def notify_crash(project: Project, run: str, run_id: str, message: str) -> None:
    """Post that a run was killed, with the same keys as for a failure."""
    flow, _, name = run.partition(" (")
    post_webhook(project, ON_FAILURE, {"event": "failure", "flow": flow, "run": name.rstrip(")"), "run_id": run_id,
                               "state": "Crashed", "message": message, "page": None})  # fmt: skip


def post_webhook(project: Project, hook: str, body: Mapping[str, Any]) -> bool:
    """Post to a webhook, if it has an address; return whether the receiver accepted it. Never raises."""
    try:
        url = find_webhook_url(project, hook)
    except UserError as error:
        logger.warning("hook %s: %s", hook, error)
        return False
    if url is None:
        _update_problem(project, hook, None)
        return False
    message = {
        **body,
        "project": str(project.folder.resolve()),
        "who": user.identify_user(),
        "time": timestamps.format_utc_now(),
    }
    request = urllib.request.Request(
        url, json.dumps(message, ensure_ascii=False).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S):
            _update_problem(project, hook, None)
            return True
    except (OSError, ValueError) as error:
        host = urllib.parse.urlsplit(url).hostname  # not the whole address, which may contain a secret
        logger.warning("hook %s: %s did not accept the message (%s); the run continues", hook, host, error)
        problem = (
            f"hook {hook}: {host} did not accept the message ({body.get('event')}: {error}); "
            f"start it, or give another address in params.yaml: hooks.{hook}"
        )
        _update_problem(project, hook, problem)
        return False


def _update_problem(project: Project, name: str, problem: str | None) -> None:
    """Record a problem of a webhook for `convoy status`, or (None) resolve it."""
    with suppress(OSError):  # a full disk is reported elsewhere
        if problem is None:
            problems.resolve_problem(project, name)
        else:
            problems.record_problem(project, name, problem)
