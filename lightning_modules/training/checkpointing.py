"""Checkpoints of an unfinished training: written atomically, named by their SHA-256, two of each kind.

last-00000123-<sha256>.ckpt   the complete state after 123 steps
best-00000003-<sha256>.ckpt   the complete state after epoch 3, which has the lowest validation loss
"""

import math
import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.plugins.io import TorchCheckpointIO
from pytorch_lightning.utilities.exceptions import SIGTERMException
from torch import Tensor

from imageset import termination
from imageset.exceptions import UserError
from imageset.utils.atomic_write import hash_file, sync_file

CHECKPOINT_SUFFIX = ".ckpt"
SIGTERM_EXIT_STATUS = 128 + signal.SIGTERM
SYNC_EVERY_N_BATCHES = 10  # batches between two exchanges among several ranks whether to save or to stop


class DigestCheckpointIO(TorchCheckpointIO):
    """Atomic reading and writing of checkpoints whose names hold their SHA-256.

    A checkpoint is written to a partial file and renamed, so a killed process leaves a complete checkpoint or
    none. The name ends in the SHA-256 of the bytes: one rename publishes both, and damage on the disk is detected
    before anything is read. The digest is no signature: whoever can write the file can name it. Therefore only
    tensors and plain values are read, and only such checkpoints are written.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Save the path `folder/stem` as `folder/stem-<sha256>.ckpt`; it replaces an earlier file of that stem.

        Raises:
            UserError: the checkpoint holds objects that `load_checkpoint` would not read.
        """
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        try:
            with partial.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            _check_plain(partial)
            final = path.with_name(f"{path.name}-{hash_file(partial)}{CHECKPOINT_SUFFIX}")
            os.replace(partial, final)
            sync_file(path.parent)
        finally:
            partial.unlink(missing_ok=True)
        for earlier in list_checkpoints(path.parent, path.name):
            if earlier != final:
                earlier.unlink()

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> Any:
        """Read a checkpoint of `save_checkpoint` onto the CPU; nothing that it names is imported or called.

        Raises:
            UserError: the file does not match the SHA-256 in its name, or holds more than tensors and plain
                values.
        """
        path = Path(path)
        if not is_intact(path):
            raise UserError(f"{path}: damaged; remove it to resume from the checkpoint before it")
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except (OSError, MemoryError):
            raise
        except Exception as error:  # torch.load raises many kinds of errors for a file that is no checkpoint
            raise UserError(
                f"{path}: holds more than tensors and plain values, and no object is read from a file "
                f"({_find_cause(error)}); remove it to resume from the checkpoint before it"
            ) from None


def _check_plain(path: Path) -> None:
    """Raise UserError if a checkpoint that was just written holds objects that would not be read."""
    # Only the names in the file are looked at; reading it again would take as long as writing it.
    if names := torch.serialization.get_unsafe_globals_in_checkpoint(path):
        raise UserError(
            f"the checkpoint would hold objects of {', '.join(sorted(names))}, which cannot be read again; let "
            "the callback or the network save tensors, numbers, text, lists and dictionaries only"
        )


def _find_cause(error: Exception) -> str:
    """Return what the file names that is not allowed, or the kind of the error."""
    match = re.search(r"(?:GLOBAL|function|class) `?([\w.]+\.\w+)", str(error))
    return match[1] if match else type(error).__name__


def is_intact(path: Path) -> bool:
    """Return whether the file matches the SHA-256 in its name."""
    return path.stem.rpartition("-")[2] == hash_file(path)


def list_checkpoints(folder: Path, prefix: str) -> list[Path]:
    """List the checkpoints whose names begin with `prefix`, the newest first."""
    return sorted(folder.glob(f"{prefix}-*{CHECKPOINT_SUFFIX}"), reverse=True)


def find_newest_intact(folder: Path, prefix: str) -> tuple[Path | None, list[Path]]:
    """Return the newest intact checkpoint, and the damaged ones that are newer."""
    damaged: list[Path] = []
    for path in list_checkpoints(folder, prefix):
        if is_intact(path):
            return path, damaged
        damaged.append(path)
    return None, damaged


class StopRequest:
    """A handler of signals that exits, e.g. with status 143, or records the request for a loop that checks it.

    Args:
        on_request: called with the number of each signal that is received.

    Attributes:
        is_requested: whether a signal was received.
        immediate: whether it ends the process at once; otherwise it is only recorded.
    """

    def __init__(self, on_request: Callable[[int], None] = lambda number: None) -> None:
        self.on_request = on_request
        self.is_requested = False
        self.immediate = True

    def listen(self) -> None:
        """Install this object as the handler of SIGTERM, SIGINT and SIGHUP, in place of the present ones."""
        for number in termination.SIGNALS:
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, self)

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Record the request, and exit if it is to be served at once."""
        self.is_requested = True
        self.on_request(number)
        if self.immediate:
            raise SystemExit(128 + number)


class ResumableCheckpoint(Checkpoint):
    """Checkpoints every few minutes, after each epoch, and before the training stops for SIGTERM.

    A resumed training continues with the next batch: the checkpoint holds the loader's position, the sums behind
    the metrics of an unfinished epoch, and whether the training was about to stop. It holds no state of random
    generators, since random draws depend on the position alone (docs/decisions/0003).

    Args:
        folder: folder of the checkpoints.
        every_min: minutes between two checkpoints within an epoch; 0 saves one after every batch.
        stop: the handler of SIGTERM.
    """

    def __init__(self, folder: Path, every_min: float, stop: StopRequest) -> None:
        self.folder, self.every_min, self.stop = folder, every_min, stop
        self.best_loss = math.inf
        self.best_epoch = -1
        self.num_validated = 0  # epochs that ended in this process with a validation loss
        self.is_within_epoch = False
        # metric -> [sum, weight] of an epoch that an earlier process began
        self.restored_sums: dict[str, list[Tensor]] = {}

    def find_best_checkpoint(self) -> Path:
        """Return the checkpoint of the lowest validation loss.

        Raises:
            UserError: no epoch ended, the validation loss was never finite, or the file is missing or damaged.
        """
        if self.best_epoch < 0 and not self.num_validated:
            raise UserError("the training ended before an epoch did; raise train.trainer.max_time in params.yaml")
        if self.best_epoch < 0:
            raise UserError(
                "the validation loss was never finite; lower train.model.optimizer.init_args.lr in params.yaml"
            )
        path, _ = find_newest_intact(self.folder, _format_best_stem(self.best_epoch))
        if path is None:
            raise UserError(
                f"{self.folder}: the checkpoint of the best epoch, {self.best_epoch + 1}, is missing or damaged; "
                "remove the folder and train again"
            )
        return path

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Let SIGTERM wait for the next batch, and restore the position of the loader."""
        self.stop.immediate = False
        self.stop.listen()  # Lightning's handler, installed just before, ends within an epoch without saving
        # Lightning skips this if the loader was created before the checkpoint was read, to count the steps.
        # private API of pytorch_lightning, read in 2.6.6
        trainer.fit_loop._load_combined_loader_states()
        self.saved_at = time.monotonic()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save a checkpoint if one is due or SIGTERM was received; then stop for SIGTERM."""
        if self.restored_sums:
            self._restore_sums(trainer)
        if not _is_resumable_point(trainer, batch_idx + 1):
            return
        is_due = time.monotonic() - self.saved_at >= self.every_min * 60
        stop, is_due = _reduce_over_ranks(trainer, self.stop.is_requested, is_due)
        if stop or is_due:
            self.is_within_epoch = True
            self._save(trainer, pl_module, f"last-{trainer.global_step:08d}")
            self.is_within_epoch = False
        if stop:
            raise SIGTERMException

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save the checkpoint of the epoch, and again as the best one if its loss is the lowest."""
        loss = float(trainer.callback_metrics.get("val_loss", math.nan))
        self.num_validated += "val_loss" in trainer.callback_metrics
        if loss < self.best_loss:  # False for NaN
            self.best_loss, self.best_epoch = loss, trainer.current_epoch
            self._save(trainer, pl_module, _format_best_stem(self.best_epoch))
        self._save(trainer, pl_module, f"last-{trainer.global_step:08d}")
        stop, _ = _reduce_over_ranks(trainer, self.stop.is_requested, False)
        if stop:
            raise SIGTERMException

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add the state of this callback to the checkpoint."""
        checkpoint["convoy"] = {
            "best_loss": self.best_loss,
            "best_epoch": self.best_epoch,
            "should_stop": trainer.should_stop,
            "sums": _collect_metric_sums(trainer) if self.is_within_epoch else {},
        }

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Restore the state of this callback from the checkpoint."""
        state = checkpoint["convoy"]
        self.best_loss, self.best_epoch = state["best_loss"], state["best_epoch"]
        trainer.should_stop = state["should_stop"]
        self.restored_sums = state["sums"] if trainer.is_global_zero else {}

    def _save(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stem: str) -> None:
        _check_finite_weights(trainer, pl_module)
        trainer.save_checkpoint(self.folder / stem)
        self.saved_at = time.monotonic()
        if trainer.is_global_zero:
            for kind in ("last", "best"):  # the checkpoint before the last one may refer to the best one before
                for path in list_checkpoints(self.folder, kind)[2:]:
                    path.unlink()

    def _restore_sums(self, trainer: pl.Trainer) -> None:
        """Add the restored sums to Lightning's, which are empty until the first batch of a process."""
        # private API: pytorch_lightning (_results) and torchmetrics (_computed), read in 2.6.6 and 1.9.0
        for name, metric in trainer.fit_loop.epoch_loop._results.items():
            if name in self.restored_sums:
                value, weight = self.restored_sums.pop(name)
                metric.value = value.to(metric.value) + metric.value
                metric.cumulated_batch_size = weight.to(metric.cumulated_batch_size) + metric.cumulated_batch_size
                metric._computed = None


def _format_best_stem(epoch: int) -> str:
    return f"best-{epoch:08d}"


def _is_resumable_point(trainer: pl.Trainer, num_done: int) -> bool:
    """Return whether a training can resume from here, `num_done` batches into an epoch.

    It can if no accumulated gradients wait for a step and no validation is due: Lightning would skip both.
    """
    # private API of pytorch_lightning, read in 2.6.6
    ends_early = trainer.should_stop and trainer.fit_loop._can_stop_early  # e.g. max_time is over
    if trainer.fit_loop.epoch_loop.batch_progress.is_last_batch or ends_early:
        return False  # validation and the end of the epoch follow, where a checkpoint is saved
    every = trainer.val_check_batch
    validates = isinstance(every, int) and num_done % every == 0
    return num_done % trainer.accumulate_grad_batches == 0 and not validates


def _reduce_over_ranks(trainer: pl.Trainer, stop: bool, is_due: bool) -> tuple[bool, bool]:
    """Return (stop, is_due), each True if it is True on any rank.

    To keep the exchange cheap, several ranks exchange only every SYNC_EVERY_N_BATCHES batches; in between, both
    are False.
    """
    if trainer.world_size == 1:
        return stop, is_due
    if (
        trainer.fit_loop.batch_idx % SYNC_EVERY_N_BATCHES
        and not trainer.fit_loop.epoch_loop.batch_progress.is_last_batch
    ):
        return False, False
    flags = torch.tensor([stop, is_due], dtype=torch.int32, device=trainer.strategy.root_device)
    torch.distributed.all_reduce(flags, torch.distributed.ReduceOp.MAX)
    return bool(flags[0]), bool(flags[1])


def _collect_metric_sums(trainer: pl.Trainer) -> dict[str, list[Tensor]]:
    """Collect the sums and weights behind Lightning's means of this epoch, over all ranks."""
    sums = {}
    # private API of pytorch_lightning, read in 2.6.6
    for name, metric in trainer.fit_loop.epoch_loop._results.items():
        if metric.is_tensor and metric.meta.is_mean_reduction and not metric.has_reset:
            pair = [metric.value.clone(), metric.cumulated_batch_size.clone()]
            if trainer.world_size > 1:
                for tensor in pair:
                    tensor.data = tensor.to(trainer.strategy.root_device)
                    torch.distributed.all_reduce(tensor)
            sums[name] = [tensor.cpu() for tensor in pair]
    return sums


def _check_finite_weights(trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
    """Raise UserError if a weight is not finite, so that no checkpoint holds it.

    The step after a finite loss may still overflow.
    """
    finite = torch.stack([torch.isfinite(weights).all() for weights in pl_module.parameters()]).all()
    if not finite:
        raise UserError(
            f"the weights are not finite after epoch {trainer.current_epoch}, batch {trainer.fit_loop.batch_idx}; "
            "lower train.model.optimizer.init_args.lr in params.yaml"
        )
