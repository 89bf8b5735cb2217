"""Checkpoints of an unfinished training: written by rename, named by their SHA-256, two of a kind kept.

last-00000123-<sha256>.ckpt   the whole state after 123 steps
best-00000003-<sha256>.ckpt   the whole state after epoch 3, which has the lowest validation loss
"""

import math
import os
import pickle
import signal
import time
from pathlib import Path
from types import FrameType
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.plugins.io import TorchCheckpointIO
from pytorch_lightning.utilities.exceptions import SIGTERMException
from torch import Tensor

from imageset.exceptions import UserError
from imageset.utils.atomic_write import hash_file, sync_file

CHECKPOINT_SUFFIX = ".ckpt"
SIGTERM_EXIT_STATUS = 128 + signal.SIGTERM
SYNC_EVERY_N_BATCHES = 10  # batches after which several ranks ask each other whether to write or to stop


class DigestCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its place, then renames: a kill leaves all of it or none.

    The name ends in the SHA-256 of the bytes, so that one rename brings both, and what the disk has lost since is
    seen before anything is unpickled.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Save `folder/stem` as `folder/stem-<sha256>.ckpt`, in place of an earlier file of that stem."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f".{path.name}.{os.getpid()}.partial")
        try:
            with beside.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            final = path.with_name(f"{path.name}-{hash_file(beside)}{CHECKPOINT_SUFFIX}")
            os.replace(beside, final)
            sync_file(path.parent)
        finally:
            beside.unlink(missing_ok=True)
        for earlier in list_checkpoints(path.parent, path.name):
            if earlier != final:
                earlier.unlink()

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> Any:
        """Read a checkpoint of ours onto the CPU. Without unpickling wherever its contents allow that: a callback
        of the user's may keep any object in it.

        Raises:
            UserError: the file is not the one that was written.
        """
        path = Path(path)
        if not is_intact(path):
            raise UserError(f"{path}: damaged; remove it, and the checkpoint before it is used")
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError:
            return torch.load(path, map_location="cpu", weights_only=False)


def is_intact(path: Path) -> bool:
    """True if the file holds the bytes that its name tells of."""
    return path.stem.rpartition("-")[2] == hash_file(path)


def list_checkpoints(folder: Path, begin: str) -> list[Path]:
    """The checkpoints whose names begin so, the newest first."""
    return sorted(folder.glob(f"{begin}-*{CHECKPOINT_SUFFIX}"), reverse=True)


def find_newest_intact(folder: Path, begin: str) -> tuple[Path | None, list[Path]]:
    """The newest checkpoint that can be used, and the newer ones that cannot."""
    damaged: list[Path] = []
    for path in list_checkpoints(folder, begin):
        if is_intact(path):
            return path, damaged
        damaged.append(path)
    return None, damaged


class StopRequest:
    """SIGTERM, obeyed at once by the exit status 143, or noted while a loop runs that will look for it."""

    def __init__(self) -> None:
        self.is_requested = False
        self.immediate = True

    def listen(self) -> None:
        """Take SIGTERM from whoever has it now."""
        signal.signal(signal.SIGTERM, self)

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self.is_requested = True
        if self.immediate:
            raise SystemExit(SIGTERM_EXIT_STATUS)


class ResumableCheckpoint(Checkpoint):
    """Writes checkpoints every few minutes, after each epoch, and before a SIGTERM is obeyed.

    After it, a training goes on with the next batch: the loader's place, the sums behind the metrics of an
    unfinished epoch and whether the end was decided are in the checkpoint. Random draws are not, since they depend
    on the place alone (docs/decisions/0003).

    Args:
        folder: where the checkpoints are kept.
        every_min: minutes between two checkpoints within an epoch; 0 for one after every batch.
        stop: what SIGTERM asked for.
    """

    def __init__(self, folder: Path, every_min: float, stop: StopRequest) -> None:
        self.folder, self.every_min, self.stop = folder, every_min, stop
        self.best_loss = math.inf
        self.best_epoch = -1
        self.num_validated = 0  # epochs that ended here with a validation loss
        self.is_within_epoch = False
        self.restored_sums: dict[str, list[Tensor]] = {}  # of the metrics of an epoch that was begun by an earlier process

    def best_path(self) -> Path:
        """The checkpoint of the lowest validation loss.

        Raises:
            UserError: the validation loss was never finite, or the file is damaged.
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
        self.stop.immediate = False
        self.stop.listen()  # Lightning's own handler, set just before, would end within an epoch without saving
        # left undone by Lightning where the loader was made before the checkpoint was read, to count the steps
        trainer.fit_loop._load_combined_loader_states()
        self.saved_at = time.monotonic()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self.restored_sums:
            self._restore_sums(trainer)
        if not _is_resumable_point(trainer, batch_idx + 1):
            return
        late = time.monotonic() - self.saved_at >= self.every_min * 60
        stop, late = _reduce_over_ranks(trainer, self.stop.is_requested, late)
        if stop or late:
            self.is_within_epoch = True
            self._save(trainer, pl_module, f"last-{trainer.global_step:08d}")
            self.is_within_epoch = False
        if stop:
            raise SIGTERMException

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        loss = float(trainer.callback_metrics.get("val_loss", math.nan))
        self.num_validated += "val_loss" in trainer.callback_metrics
        if loss < self.best_loss:  # never true of NaN
            self.best_loss, self.best_epoch = loss, trainer.current_epoch
            self._save(trainer, pl_module, _format_best_stem(self.best_epoch))
        self._save(trainer, pl_module, f"last-{trainer.global_step:08d}")
        stop, _ = _reduce_over_ranks(trainer, self.stop.is_requested, False)
        if stop:
            raise SIGTERMException

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint["convoy"] = {
            "best_loss": self.best_loss,
            "best_epoch": self.best_epoch,
            "should_stop": trainer.should_stop,
            "sums": _collect_metric_sums(trainer) if self.is_within_epoch else {},
        }

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        kept = checkpoint["convoy"]
        self.best_loss, self.best_epoch = kept["best_loss"], kept["best_epoch"]
        trainer.should_stop = kept["should_stop"]
        self.restored_sums = kept["sums"] if trainer.is_global_zero else {}

    def _save(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stem: str) -> None:
        _check_finite_weights(trainer, pl_module)
        trainer.save_checkpoint(self.folder / stem)
        self.saved_at = time.monotonic()
        if trainer.is_global_zero:
            for kind in ("last", "best"):  # the last but one may name the best but one
                for path in list_checkpoints(self.folder, kind)[2:]:
                    path.unlink()

    def _restore_sums(self, trainer: pl.Trainer) -> None:
        """Lightning begins each process with empty sums; what came before is added when the first batch is in."""
        for name, metric in trainer.fit_loop.epoch_loop._results.items():
            if name in self.restored_sums:
                value, weight = self.restored_sums.pop(name)
                metric.value = value.to(metric.value) + metric.value
                metric.cumulated_batch_size = weight.to(metric.cumulated_batch_size) + metric.cumulated_batch_size
                metric._computed = None


def _format_best_stem(epoch: int) -> str:
    return f"best-{epoch:08d}"


def _is_resumable_point(trainer: pl.Trainer, num_done: int) -> bool:
    """Whether a training can go on from here, `num_done` batches into an epoch: no gradients wait to be applied,
    and no validation is due, which Lightning would not catch up on."""
    ends_early = trainer.should_stop and trainer.fit_loop._can_stop_early  # e.g. the time is over
    if trainer.fit_loop.epoch_loop.batch_progress.is_last_batch or ends_early:
        return False  # validation and the end of the epoch follow, and there a checkpoint is written
    every = trainer.val_check_batch
    validates = isinstance(every, int) and num_done % every == 0
    return num_done % trainer.accumulate_grad_batches == 0 and not validates


def _reduce_over_ranks(trainer: pl.Trainer, stop: bool, late: bool) -> tuple[bool, bool]:
    """What any of the ranks wants, all do; so that asking costs little they ask after every few batches only."""
    if trainer.world_size == 1:
        return stop, late
    if (
        trainer.fit_loop.batch_idx % SYNC_EVERY_N_BATCHES
        and not trainer.fit_loop.epoch_loop.batch_progress.is_last_batch
    ):
        return False, False
    wishes = torch.tensor([stop, late], dtype=torch.int32, device=trainer.strategy.root_device)
    torch.distributed.all_reduce(wishes, torch.distributed.ReduceOp.MAX)
    return bool(wishes[0]), bool(wishes[1])


def _collect_metric_sums(trainer: pl.Trainer) -> dict[str, list[Tensor]]:
    """What Lightning has added up for the means of this epoch, of all ranks together."""
    found = {}
    for name, metric in trainer.fit_loop.epoch_loop._results.items():
        if metric.is_tensor and metric.meta.is_mean_reduction and not metric.has_reset:
            pair = [metric.value.clone(), metric.cumulated_batch_size.clone()]
            if trainer.world_size > 1:
                for one in pair:
                    one.data = one.to(trainer.strategy.root_device)
                    torch.distributed.all_reduce(one)
            found[name] = [one.cpu() for one in pair]
    return found


def _check_finite_weights(trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
    """A loss may be finite and the step that follows from it not: such weights are kept by no checkpoint."""
    finite = torch.stack([torch.isfinite(weights).all() for weights in pl_module.parameters()]).all()
    if not finite:
        raise UserError(
            f"the weights are not finite after epoch {trainer.current_epoch}, batch {trainer.fit_loop.batch_idx}; "
            "lower train.model.optimizer.init_args.lr in params.yaml"
        )
