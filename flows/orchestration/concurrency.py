"""One run at a time for a dataset and for a GPU: Prefect's global concurrency limits.

They hold between all machines that report to one Prefect server, which a lock in the project's folder cannot.
Where a command has a temporary server to itself there is nobody to wait for, and none are made. A run that is
killed gives its slot back when its lease is not renewed, within LEASE_S.
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
    """The limit of a dataset: its pictures, its model and the model's aliases."""
    return _sanitize_name(f"dataset-{name}")


def name_gpu_limits() -> list[str]:
    """The limits of this machine's GPUs that we may use; none on a machine without."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        numbers = sorted(path.name[6:] for path in Path("/dev").glob("nvidia[0-9]*"))
    else:
        numbers = [one.strip() for one in visible.split(",") if one.strip() not in ("", "-1")]
    return [_sanitize_name(f"gpu-{socket.gethostname()}-{number}") for number in numbers]


@contextmanager
def acquire_limits(*names: str) -> Iterator[None]:
    """Hold all these limits at once; wait until nobody else does. What this process holds already, it holds.

    Raises:
        Busy: somebody did for WAIT_S.
    """
    names = tuple(name for name in names if name not in _held_names)
    if not names or prefect_server.is_server_temporary():
        yield
        return
    from prefect.concurrency._asyncio import AcquireConcurrencySlotTimeoutError
    from prefect.concurrency.sync import concurrency
    from prefect.settings import PREFECT_API_URL

    taken = [name for name, num in ensure_limits(str(PREFECT_API_URL.value()), names).items() if num]
    if taken:
        logger.info("waiting for %s: another run holds it", ", ".join(taken))
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
        raise ProjectBusy(f"another run has held {', '.join(names)} for {WAIT_S / 3600:.0f} h; see Prefect's page of "
                   "concurrency limits") from None  # fmt: skip
    _held_names.update(names)
    try:
        yield
    finally:
        _held_names.difference_update(names)
        with prefect_api.tolerate_lost_server(
            f"that {', '.join(names)} is free again"
        ):  # its lease ends by itself
            stack.close()


_held_names: set[str] = set()  # by this process


def ensure_limits(api: str, names: Iterable[str]) -> dict[str, int]:
    """Make the limits that are not there yet; one that a person has changed stays. Returns how many slots of each
    are taken.

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
        if error.code != 409:  # another one was faster
            raise
    return 0


def release_limits(api: str) -> None:
    """Take back the slots of runs that died with the server: leases are kept in its memory. To be called where no
    run is at work."""
    for limit in call_prefect_api(f"{api}/v2/concurrency_limits/filter", {"limit": 200}):
        if limit["active_slots"] and limit["name"].startswith(LIMIT_PREFIXES):
            name = quote(limit["name"], safe="")
            call_prefect_api(f"{api}/v2/concurrency_limits/{name}", {"active_slots": 0}, method="PATCH")


def _sanitize_name(name: str) -> str:
    return re.sub(r"[/%&<>\s]", "_", name)
