"""Whose turn it is to move a model's aliases, among all machines that share an MLflow server.

MLflow has no lock and no "set if it is still what I saw". But of two that make a registered model of one name, one
is refused, on every database: so a model `NAME.moving`, without versions, is the lock. It is there for a fraction
of a second. Who is killed meanwhile leaves it; it is taken over at once by a process of the same machine, which
sees that the holder is gone, and after STALE_S by another one.

A holder that hangs for longer than STALE_S between its look and its move is not kept from moving; no lock that can
be taken over can do that. The project's own MLflow file needs none of this: flows.promotion.alias_updates has a lock in the project.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from flows.notifications import console
from flows.project.exceptions import ProjectBusy
from lightning_modules.tracking.client import is_tracking_shared

if TYPE_CHECKING:
    from mlflow import MlflowClient

logger = console.get_logger(__name__)

LOCK_SUFFIX = ".moving"
HOLDER_TAG = "convoy.holder"  # tag of the lock: machine, process, when that began
STALE_S = 120.0  # longer than any request to MLflow may take, with all its retries
TIMEOUT_S = 180.0


@contextmanager
def registry_lock(client: MlflowClient, model: str) -> Iterator[None]:
    """Hold the right to move this model's aliases.

    Raises:
        Busy: somebody else held it for TIMEOUT_S.
    """
    if not is_tracking_shared():
        yield
        return
    name, me = f"{model}{LOCK_SUFFIX}", _describe_process()
    _wait_for_lock(client, name, me)
    try:
        yield
    finally:
        _release_lock(client, name, me)


def _wait_for_lock(client: MlflowClient, name: str, me: str) -> None:
    begin = time.monotonic()
    seen: tuple[object, float] = (None, begin)  # the lock that is there, and since when we see it
    while not _create_lock(client, name, me):
        now = time.monotonic()
        holder, made = _read_holder(client, name)
        if made != seen[0]:
            seen = made, now
        if made is not None and (_is_holder_gone(holder) or now - seen[1] > STALE_S):
            logger.warning("%s of a process that is gone (%s) is taken over", name, holder)
            _delete_lock(client, name)
        elif now - begin > TIMEOUT_S:
            raise ProjectBusy(
                f"another promotion or rollback ({holder}) has held {name} in MLflow for {TIMEOUT_S:.0f} s; "
                "if there is none, delete that model in MLflow"
            )
        else:
            time.sleep(0.05)


def _create_lock(client: MlflowClient, name: str, me: str) -> bool:
    """False where it is there already. An answer that was lost: the one that is there is ours."""
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name, {HOLDER_TAG: me}, "Somebody is moving the aliases; gone in a moment.")
        return True
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    return _read_holder(client, name)[0] == me


def _read_holder(client: MlflowClient, name: str) -> tuple[str, object]:
    """Who holds it, and when it was made; None where it is not there."""
    from mlflow.exceptions import MlflowException

    try:
        found = client.get_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return "", None
    return found.tags.get(HOLDER_TAG, ""), (found.creation_timestamp, found.tags.get(HOLDER_TAG))


def _delete_lock(client: MlflowClient, name: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.delete_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise


def _release_lock(client: MlflowClient, name: str, me: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        if _read_holder(client, name)[0] == me:
            _delete_lock(client, name)
    except (MlflowException, OSError) as error:  # what was done is done; the next one takes it over
        logger.warning("%s stays in MLflow: %s", name, str(error)[:200])


def _describe_process() -> str:
    return f"{_describe_machine()} {os.getpid()} {psutil.Process().create_time():.2f}"


def _describe_machine() -> str:
    """Where a process id means the same: two containers may have one name."""
    parts = [socket.gethostname()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text()[:8])
        parts.append(str(Path("/proc/self/ns/pid").stat().st_ino))
    return "/".join(parts)


def _is_holder_gone(holder: str) -> bool:
    """Whether it is a process of this machine that has ended."""
    words = holder.split()
    if len(words) != 3 or words[0] != _describe_machine():
        return False
    try:
        return f"{psutil.Process(int(words[1])).create_time():.2f}" != words[2]
    except psutil.NoSuchProcess:
        return True
    except (psutil.Error, ValueError):
        return False
