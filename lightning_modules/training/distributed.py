"""Distributed training: start and watch the ranks, check that they train the same, and stop them together.

Lightning (`trainer.devices`) or torchrun starts the ranks. A rank that fails stops all others, with a message:
without that, a rank would wait half an hour for a lost one.
"""

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.strategies.launchers import _SubprocessScriptLauncher

from imageset.exceptions import UserError

PARENT_PID_VARIABLE = "CONVOY_STARTED_BY"  # environment variable: id of the process that started this rank
GRACE_S = 10.0  # time for a rank to end by itself after another has ended
PR_SET_PDEATHSIG = 1  # linux/prctl.h
LOST_RANK_MESSAGES = (  # parts of the messages of torch.distributed when another rank is gone
    "connection closed by peer", "connection reset", "broken pipe", "gloo", "nccl", "tcpstore", "store->get",
    "socket",
)  # fmt: skip


def apply_torchrun_env(trainer: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of the trainer with the numbers of processes and machines that torchrun has started.

    Raises:
        UserError: params.yaml has different numbers.
    """
    options = dict(trainer)
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return options
    num_local, num_nodes = (int(os.environ[name]) for name in ("LOCAL_WORLD_SIZE", "GROUP_WORLD_SIZE"))
    for key, started in (("devices", num_local), ("num_nodes", num_nodes)):
        value = options.get(key)
        if value not in (None, "auto", started, str(started)) and not (
            isinstance(value, list) and len(value) == num_local
        ):
            raise UserError(
                f"params.yaml: train: trainer.{key} is {value}, but torchrun started {num_local} processes on "
                f"each of {num_nodes} machines; make the numbers agree"
            )
        if not isinstance(value, list):
            options[key] = started
    return options


def join_group() -> bool:
    """Prepare this process as a rank, and return whether another process started it.

    It must be called first. SIGTERM ends such a rank at once until the training begins, even while it waits for
    the others. On Linux the rank also ends when the process that started it ends.
    """
    if os.environ.get(PARENT_PID_VARIABLE) == str(os.getppid()) and sys.platform == "linux":
        # nothing else ends this rank if that process is killed
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    return int(os.environ.get("RANK") or os.environ.get("LOCAL_RANK") or 0) > 0


class WatchedLauncher(_SubprocessScriptLauncher):  # private API of pytorch_lightning, read in 2.6.6
    """A launcher of the other ranks of this machine that reports the rank that failed.

    Lightning's own launcher checks every five seconds and then kills all ranks, this process included, without a
    message.

    Args:
        launcher: Lightning's launcher, which this one replaces.

    Attributes:
        finished: set when the ranks need no further communication.
        on_failure: called before this process is ended from outside its loop.
    """

    def __init__(self, launcher: _SubprocessScriptLauncher) -> None:
        super().__init__(launcher.cluster_environment, launcher.num_processes, launcher.num_nodes)
        self.finished = threading.Event()
        self.on_failure: Callable[[], None] = lambda: None

    def launch(self, function: Callable, *args: Any, trainer: Any = None, **kwargs: Any) -> Any:
        """Start the other ranks, then call the function."""
        self.cluster_environment.validate_settings(num_devices=self.num_processes, num_nodes=self.num_nodes)
        os.environ[PARENT_PID_VARIABLE] = str(os.getpid())
        self._call_children_scripts()  # private API of pytorch_lightning, read in 2.6.6
        threading.Thread(target=self._watch_processes, daemon=True).start()
        return function(*args, **kwargs)

    def find_failed(self) -> tuple[int, int] | None:
        """Return the first rank that failed and its exit status; None if no rank failed."""
        ended = [(rank, process.poll()) for rank, process in enumerate(self.procs, 1)]
        return next(((rank, status) for rank, status in ended if status), None)

    def stop_all(self) -> None:
        """Wait GRACE_S for the ranks to end, then kill the others, so that no rank outlives this process."""
        self.finished.set()
        deadline = time.monotonic() + GRACE_S
        for process in self.procs:
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, deadline - time.monotonic()))
        for process in self.procs:
            process.kill()
            process.wait()

    def _watch_processes(self) -> None:
        while not self.finished.wait(0.2):
            if failed := self.find_failed():
                if not self.finished.wait(GRACE_S):  # this process waits for that rank, and nothing wakes it
                    self._exit_all(*failed)
                return

    def _exit_all(self, rank: int, status: int) -> None:
        for process in self.procs:
            process.kill()
        with suppress(Exception):
            self.on_failure()
        print(f"error: {describe_rank_exit(rank, status)}", file=sys.stderr, flush=True)
        stopped = status in (-signal.SIGTERM, 128 + signal.SIGTERM)
        os._exit(128 + signal.SIGTERM if stopped else max(status, 1))


def describe_rank_exit(rank: int, status: int) -> str:
    """Describe how a rank ended, and what to do."""
    end = f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
    return (
        f"rank {rank} {end}, so all ranks stopped; run the same command again to resume from the last checkpoint"
    )


def watch_ranks(trainer: pl.Trainer) -> WatchedLauncher | None:
    """Replace Lightning's launcher of the other ranks of this machine by a WatchedLauncher.

    Returns:
        The new launcher; None if this process starts no ranks.
    """
    strategy: Any = trainer.strategy
    launcher = strategy.launcher
    if not isinstance(launcher, _SubprocessScriptLauncher):
        return None
    if trainer.num_nodes == 1 and sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # local only; the host's name need not resolve
    if launcher.cluster_environment.creates_processes_externally or trainer.local_rank:
        return None
    # private API of pytorch_lightning, read in 2.6.6
    strategy._launcher = WatchedLauncher(launcher)
    return strategy._launcher


def describe_lost_rank(error: Exception, launcher: WatchedLauncher | None, num_ranks: int) -> UserError | None:
    """Return a one-line error if `error` only means that another rank is gone; None for any other error."""
    text = str(error).lower()
    if num_ranks == 1 or not any(message in text for message in LOST_RANK_MESSAGES):
        return None
    deadline = time.monotonic() + 1
    while launcher is not None and time.monotonic() < deadline:
        if failed := launcher.find_failed():
            return UserError(describe_rank_exit(*failed))
        time.sleep(0.05)
    return UserError(
        "another rank has ended (see its message), so this rank stops; run the same command again to resume from "
        "the last checkpoint"
    )


class RankConsistencyCheck(Callback):
    """A check that stops all ranks before the first step if they would not train the same.

    Args:
        values: name -> text of this rank; each text must be the same on all ranks.
    """

    def __init__(self, values: Mapping[str, str]) -> None:
        self.values = dict(values)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Raise UserError if a rank has a value that differs from rank 0's."""
        if trainer.world_size == 1:
            return
        gathered: list[Any] = [None] * trainer.world_size
        torch.distributed.all_gather_object(gathered, self.values)
        for rank, values in enumerate(gathered):
            for name, text in values.items():
                if text != gathered[0][name]:
                    raise UserError(
                        f"rank {rank} has a different {name} than rank 0: {text or 'none'}, not "
                        f"{gathered[0][name] or 'none'}; all ranks need the same code, params.yaml, "
                        "data/normalized and .cache, so share the project's folder"
                    )
