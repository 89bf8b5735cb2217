"""Several processes that train one network: how they are started and watched, what they agree on, how all end.

They are started by Lightning (`trainer.devices`) or by torchrun. A rank that ends badly ends all of them, with a
message: on its own, a rank would wait for a lost one for half an hour.
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

PARENT_PID_VARIABLE = "CONVOY_STARTED_BY"  # environment: the process that started this rank
GRACE_S = 10.0  # what a rank gets to end by itself once another has ended
PR_SET_PDEATHSIG = 1  # linux/prctl.h
LOST_RANK_MESSAGES = ("connection closed by peer", "connection reset", "broken pipe", "gloo", "nccl", "tcpstore", "store->get",
        "socket")  # as torch.distributed says that another rank is gone  # fmt: skip


def apply_torchrun_env(trainer: Mapping[str, Any]) -> dict[str, Any]:
    """The options of the trainer, with the numbers of processes and machines that torchrun has started.

    Raises:
        UserError: params.yaml says other numbers.
    """
    options = dict(trainer)
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return options
    here, machines = (int(os.environ[name]) for name in ("LOCAL_WORLD_SIZE", "GROUP_WORLD_SIZE"))
    for key, started in (("devices", here), ("num_nodes", machines)):
        said = options.get(key)
        if said not in (None, "auto", started, str(started)) and not (
            isinstance(said, list) and len(said) == here
        ):
            raise UserError(
                f"params.yaml: train: trainer.{key} is {said}, and torchrun started {here} processes on each of "
                f"{machines} machines; let them agree"
            )
        if not isinstance(said, list):
            options[key] = started
    return options


def join_group() -> bool:
    """To be called first: True in a rank that another process started.

    Such a rank is ended by a SIGTERM at once until training begins, even while it waits for the others.
    """
    if os.environ.get(PARENT_PID_VARIABLE) == str(os.getppid()) and sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # ours is the only process that would end us
    return int(os.environ.get("RANK") or os.environ.get("LOCAL_RANK") or 0) > 0


class WatchedLauncher(_SubprocessScriptLauncher):
    """Lightning's way to start the other ranks of this machine, watched by us. Lightning's own watcher looks every
    five seconds and then kills all, this process included, without a word.

    Args:
        lightnings: the launcher that takes the place of.
    """

    def __init__(self, lightnings: _SubprocessScriptLauncher) -> None:
        super().__init__(lightnings.cluster_environment, lightnings.num_processes, lightnings.num_nodes)
        self.finished = threading.Event()  # the ranks have nothing more to say to each other
        self.on_failure: Callable[[], None] = lambda: None  # before this process is ended from outside its loop

    def launch(self, function: Callable, *args: Any, trainer: Any = None, **kwargs: Any) -> Any:
        """Start the others, then call the function."""
        self.cluster_environment.validate_settings(num_devices=self.num_processes, num_nodes=self.num_nodes)
        os.environ[PARENT_PID_VARIABLE] = str(os.getpid())
        self._call_children_scripts()
        threading.Thread(target=self._watch_processes, daemon=True).start()
        return function(*args, **kwargs)

    def find_failed(self) -> tuple[int, int] | None:
        """The first rank that ended badly and its exit status."""
        ended = [(rank, process.poll()) for rank, process in enumerate(self.procs, 1)]
        return next(((rank, status) for rank, status in ended if status), None)

    def stop_all(self) -> None:
        """See that no rank outlives this process."""
        self.finished.set()
        until = time.monotonic() + GRACE_S
        for process in self.procs:
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, until - time.monotonic()))
        for process in self.procs:
            process.kill()
            process.wait()

    def _watch_processes(self) -> None:
        while not self.finished.wait(0.2):
            if lost := self.find_failed():
                if not self.finished.wait(GRACE_S):  # it waits for that rank, and nothing wakes it
                    self._exit_all(*lost)
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
    """What became of a rank, and what to do."""
    how = f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
    return f"rank {rank} {how}, so all have stopped; the same command goes on from the last checkpoint"


def watch_ranks(trainer: pl.Trainer) -> WatchedLauncher | None:
    """Let our launcher start the other ranks of this machine, where Lightning would have."""
    strategy: Any = trainer.strategy
    lightnings = strategy.launcher
    if not isinstance(lightnings, _SubprocessScriptLauncher):
        return None
    if trainer.num_nodes == 1 and sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # nobody outside; and a host's name need not resolve
    if lightnings.cluster_environment.creates_processes_externally or trainer.local_rank:
        return None
    strategy._launcher = WatchedLauncher(lightnings)
    return strategy._launcher


def describe_lost_rank(error: Exception, launcher: WatchedLauncher | None, num_ranks: int) -> UserError | None:
    """The one line for an error that says no more than that another rank is gone; None for any other error."""
    text = str(error).lower()
    if num_ranks == 1 or not any(sign in text for sign in LOST_RANK_MESSAGES):
        return None
    until = time.monotonic() + 1
    while launcher is not None and time.monotonic() < until:
        if lost := launcher.find_failed():
            return UserError(describe_rank_exit(*lost))
        time.sleep(0.05)
    return UserError(
        "another rank has ended (see its message), so this one stops; the same command goes on from the last "
        "checkpoint"
    )


class RankConsistencyCheck(Callback):
    """Stops all ranks before the first step if they would not train the same.

    Args:
        what: of each rank, by name: texts that must be the same on all.
    """

    def __init__(self, what: Mapping[str, str]) -> None:
        self.values = dict(what)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if trainer.world_size == 1:
            return
        said: list[Any] = [None] * trainer.world_size
        torch.distributed.all_gather_object(said, self.values)
        for rank, other in enumerate(said):
            for name, text in other.items():
                if text != said[0][name]:
                    raise UserError(
                        f"rank {rank} has another {name} than rank 0: {text or 'none'}, not "
                        f"{said[0][name] or 'none'}; all need the same code, params.yaml, data/normalized and "
                        ".cache, so share the project's folder"
                    )
