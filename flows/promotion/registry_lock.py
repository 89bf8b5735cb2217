"""A lock on a shared MLflow server, so that one machine at a time moves the aliases of a model.

MLflow has neither locks nor conditional updates. But if two processes create a registered model of one name,
MLflow refuses one of them, on every database: a model `NAME.moving`, without versions, is the lock. It exists for
a fraction of a second. If its holder is killed, a process of the same machine takes the lock over at once, because
it sees that the holder is gone, and another machine takes it over after STALE_S.

A holder that hangs for longer than STALE_S between reading and moving aliases is not prevented from moving them;
no lock that can be taken over prevents that. The project's own MLflow file does not need this lock, since
flows.promotion.alias_updates locks a file in the project. See docs/decisions/0014.
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
HOLDER_TAG = "convoy.holder"  # tag of the lock: machine, process id, start time of the process
STALE_S = 120.0  # longer than a request to MLflow can take, with all its retries
TIMEOUT_S = 180.0


@contextmanager
def registry_lock(client: MlflowClient, model: str) -> Iterator[None]:
    """Hold the lock on a model's aliases, if the MLflow server is shared.

    Raises:
        ProjectBusy: another process has held the lock for TIMEOUT_S.
    """
    if not is_tracking_shared():
        yield
        return
    name, holder = f"{model}{LOCK_SUFFIX}", _describe_process()
    _wait_for_lock(client, name, holder)
    try:
        yield
    finally:
        _release_lock(client, name, holder)


def _wait_for_lock(client: MlflowClient, name: str, holder: str) -> None:
    begin = time.monotonic()
    seen: tuple[object, float] = (None, begin)  # the current lock, and when it was first seen
    while not _create_lock(client, name, holder):
        now = time.monotonic()
        other, created = _read_holder(client, name)
        if created != seen[0]:
            seen = created, now
        if created is not None and (_is_holder_gone(other) or now - seen[1] > STALE_S):
            logger.warning("%s of a process that is gone (%s) is taken over", name, other)
            _delete_lock(client, name)
        elif now - begin > TIMEOUT_S:
            raise ProjectBusy(
                f"another promotion or rollback ({other}) has held {name} in MLflow for {TIMEOUT_S:.0f} s; "
                "if there is none, delete that model in MLflow"
            )
        else:
            time.sleep(0.05)


def _create_lock(client: MlflowClient, name: str, holder: str) -> bool:
    """Create the lock; return False if another process has it. After a lost response, the lock is ours.

    To refuse it, MLflow reads the one that is there; if that is released meanwhile, MLflow finds none.
    """
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name, {HOLDER_TAG: holder}, "A lock, held while aliases are moved.")
        return True
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_ALREADY_EXISTS", "RESOURCE_DOES_NOT_EXIST"):
            raise
    return _read_holder(client, name)[0] == holder


def _read_holder(client: MlflowClient, name: str) -> tuple[str, object]:
    """Return the holder of the lock, and a value that identifies this lock; None if there is no lock."""
    from mlflow.exceptions import MlflowException

    try:
        model = client.get_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return "", None
    return model.tags.get(HOLDER_TAG, ""), (model.creation_timestamp, model.tags.get(HOLDER_TAG))


def _delete_lock(client: MlflowClient, name: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.delete_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise


def _release_lock(client: MlflowClient, name: str, holder: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        if _read_holder(client, name)[0] == holder:
            _delete_lock(client, name)
    except (MlflowException, OSError) as error:  # the aliases have moved; the next process takes the lock over
        logger.warning("%s stays in MLflow: %s", name, str(error)[:200])


def _describe_process() -> str:
    return f"{_describe_machine()} {os.getpid()} {psutil.Process().create_time():.2f}"


def _describe_machine() -> str:
    """Identify the machine and its process-id namespace: two containers may have the same host name."""
    parts = [socket.gethostname()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text()[:8])
        parts.append(str(Path("/proc/self/ns/pid").stat().st_ino))
    return "/".join(parts)


def _is_holder_gone(holder: str) -> bool:
    """Return whether the holder is a process of this machine that has ended."""
    words = holder.split()
    if len(words) != 3 or words[0] != _describe_machine():
        return False
    try:
        return f"{psutil.Process(int(words[1])).create_time():.2f}" != words[2]
    except psutil.NoSuchProcess:
        return True
    except (psutil.Error, ValueError):
        return False
