"""Prefect's global concurrency limits: one run at a time for a dataset and for a GPU.

They apply to all machines that report to one Prefect server, which a lock file in the project cannot. A temporary
server belongs to one command, so no limits are created there. The slot of a run that is killed is released when
its lease is not renewed, within LEASE_S.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import quote

from flows.notifications import console
from flows.orchestration import prefect_api, prefect_server
from flows.orchestration.prefect_api import call_prefect_api
from flows.project.exceptions import ProjectBusy

logger = console.get_logger(__name__)

LEASE_S = 60.0
LIMIT_PREFIXES = ("dataset-", "gpu-")
WAIT_S = 12 * 3600.0  # for another run to end


def name_dataset_limit(name: str) -> str:
    """Return the name of a dataset's limit, which covers its images, its model and the model's aliases."""
    return _sanitize_name(f"dataset-{name}")


def name_gpu_limits() -> list[str]:
    """Return the names of the limits of this machine's visible GPUs; empty without a GPU."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        numbers = sorted(path.name[6:] for path in Path("/dev").glob("nvidia[0-9]*"))
    else:
        numbers = [name.strip() for name in visible.split(",") if name.strip() not in ("", "-1")]
    return [_sanitize_name(f"gpu-{socket.gethostname()}-{number}") for number in numbers]


@contextmanager
def acquire_limits(*names: str) -> Iterator[None]:
    """Acquire all limits, blocking until they are free. Re-entrant within a process.

    Raises:
        ProjectBusy: another run has held them for WAIT_S.
    """
    names = tuple(name for name in names if name not in _held_names)
    if not names or prefect_server.is_server_temporary():
        yield
        return
    # Private in Prefect 3.8.8, which raises it and exports it nowhere else.
    from prefect.concurrency._asyncio import AcquireConcurrencySlotTimeoutError
    from prefect.concurrency.sync import concurrency
    from prefect.settings import PREFECT_API_URL

    busy = [name for name, num in ensure_limits(str(PREFECT_API_URL.value()), names).items() if num]
    if busy:
        logger.info("waiting for %s: another run holds it", ", ".join(busy))
    slots = concurrency(
        list(names),
        timeout_seconds=WAIT_S,
        lease_duration=LEASE_S,
        strict=True,
        raise_on_lease_renewal_failure=False,
    )
    stack = ExitStack()
    try:
        stack.enter_context(slots)
    except AcquireConcurrencySlotTimeoutError:
        raise ProjectBusy(
            f"another run has held {', '.join(names)} for {WAIT_S / 3600:.0f} h; "
            "see Prefect's page of concurrency limits"
        ) from None
    _held_names.update(names)
    try:
        yield
    finally:
        _held_names.difference_update(names)
        # Without the server, the lease expires.
        with prefect_api.tolerate_lost_server(f"the release of {', '.join(names)}"):
            stack.close()


_held_names: set[str] = set()  # by this process


def ensure_limits(api: str, names: Iterable[str]) -> dict[str, int]:
    """Create missing limits, keep those that a person has changed, and return the used slots of each.

    Raises:
        OSError: Prefect's server does not answer.
    """
    return {name: _ensure_limit(f"{api}/v2/concurrency_limits", name) for name in names}


def _ensure_limit(url: str, name: str) -> int:
    try:
        return int(call_prefect_api(f"{url}/{quote(name, safe='')}")["active_slots"])
    except HTTPError as error:
        if error.code != 404:
            raise
    try:
        call_prefect_api(f"{url}/", {"name": name, "limit": 1})
    except HTTPError as error:
        if error.code != 409:  # another process has created it
            raise
    return 0


def release_limits(api: str) -> None:
    """Release the slots of runs that died with the server, which keeps leases in memory.

    Call it while no run is active.
    """
    for limit in call_prefect_api(f"{api}/v2/concurrency_limits/filter", {"limit": 200}):
        if limit["active_slots"] and limit["name"].startswith(LIMIT_PREFIXES):
            name = quote(limit["name"], safe="")
            call_prefect_api(f"{api}/v2/concurrency_limits/{name}", {"active_slots": 0}, method="PATCH")


def _sanitize_name(name: str) -> str:
    return re.sub(r"[/%&<>\s]", "_", name)
