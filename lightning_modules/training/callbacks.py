"""Callbacks of a training: metrics for MLflow and CSV, a check of the loss, plain progress lines."""

import csv
import io
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, EarlyStopping
from pytorch_lightning.callbacks.early_stopping import EarlyStoppingReason
from torch import Tensor

from imageset.exceptions import UserError
from imageset.utils.atomic_write import write_bytes
from imageset.utils.progress import Progress
from imageset.utils.text import format_count

HISTORY_METRICS = (
    "train_loss",
    "train_accuracy",
    "val_loss",
    "val_accuracy",
    "val_error",
    "val_map",
    "learning_rate",
)
# Metrics of a progress line and of the best epoch; val_map only for multi-label datasets.
SUMMARY_METRICS = ("train_loss", "val_loss", "val_accuracy", "val_map")

ENDLESS_PATIENCE = 2**31  # epochs; the patience of an EarlyStopping that stops only at its threshold


class MetricHistory(Callback):
    """The metrics of each epoch, saved in the checkpoint and logged once an epoch.

    Args:
        log_metrics: called with (metrics, epoch), only on rank 0.
        last_logged_epoch: the last epoch that was logged before, in a resumed run; -1 in a new run.
    """

    def __init__(self, log_metrics: Callable[[dict[str, float], int], None], last_logged_epoch: int) -> None:
        self.log_metrics = log_metrics  # not named `log`: Lightning sets that attribute of a callback
        self.last_logged_epoch = last_logged_epoch
        self.rows: list[dict[str, float]] = []

    def state_dict(self) -> dict[str, Any]:
        """Return the state for a checkpoint."""
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state from a checkpoint."""
        self.rows = list(state_dict["rows"])

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Add a row for the epoch, and log it if it was not logged before."""
        known = {name: float(value) for name, value in trainer.callback_metrics.items()}
        known["learning_rate"] = trainer.optimizers[0].param_groups[0]["lr"]
        metrics = {name: known[name] for name in HISTORY_METRICS if name in known}
        epoch = trainer.current_epoch
        self.rows.append({"epoch": epoch, **metrics})
        if trainer.is_global_zero and epoch > self.last_logged_epoch:
            self.log_metrics(metrics, epoch)

    def to_csv(self) -> bytes:
        """Return the history as CSV, with one row an epoch."""
        text = io.StringIO()
        columns = [name for name in HISTORY_METRICS if name != "val_map" or any(name in row for row in self.rows)]
        writer = csv.DictWriter(text, ["epoch", *columns], lineterminator="\n", restval="")
        writer.writeheader()
        writer.writerows(self.rows)
        return text.getvalue().encode()


class FiniteLossCheck(Callback):
    """A check that ends a training whose loss is NaN or infinite, and names the batch.

    The first bad batch is recorded on the device. Reading it there makes a step wait for a GPU or for other ranks,
    so it is read every `CHECK_EVERY_N_BATCHES` batches and at the end of an epoch. On one CPU it is read after
    every batch.
    """

    CHECK_EVERY_N_BATCHES = 50

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Reset the record of the first bad batch."""
        self.first_bad_batch = torch.full((), -1, device=pl_module.device)  # its number in this epoch; -1: none
        self.every_batch = pl_module.device.type == "cpu" and trainer.world_size == 1

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Record the batch if its loss is not finite; raise UserError if it is time to check."""
        loss = outputs["loss"] if isinstance(outputs, dict) else outputs
        if isinstance(loss, Tensor):
            keep = torch.isfinite(loss.detach()) | (self.first_bad_batch >= 0)
            self.first_bad_batch = torch.where(keep, self.first_bad_batch, batch_idx)
        if self.every_batch or batch_idx % self.CHECK_EVERY_N_BATCHES == self.CHECK_EVERY_N_BATCHES - 1:
            self._check(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Raise UserError if a loss of this epoch was not finite."""
        self._check(trainer)

    def _check(self, trainer: pl.Trainer) -> None:
        if trainer.world_size > 1:  # the others would wait for a rank that stopped alone
            torch.distributed.all_reduce(self.first_bad_batch, torch.distributed.ReduceOp.MAX)
        if (batch := int(self.first_bad_batch)) >= 0:
            raise UserError(
                f"the training loss is not finite at epoch {trainer.current_epoch}, batch {batch}; "
                "lower train.model.optimizer.init_args.lr in params.yaml"
            )


class TrainingProgress(Callback):
    """Progress on rank 0: a bar over all batches of a training or a test, and a line after each epoch.

    In a log, lines every `SECONDS_BETWEEN_LINES` take the place of the bar.

    Args:
        name: of the stage.
        step: what runs, if it is not the stage itself; its epochs are not reported.
    """

    SECONDS_BETWEEN_LINES = 10.0

    def __init__(self, name: str, step: str = "") -> None:
        self.name, self.step = name, step
        self.progress = Progress(name, unit="batches", seconds_between_lines=self.SECONDS_BETWEEN_LINES)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin with the batches of all epochs; a resumed training has done some of them."""
        num_epochs, num_batches = trainer.max_epochs or -1, trainer.num_training_batches
        is_known = num_epochs > 0 and math.isfinite(num_batches)
        step = self.step or (format_count(num_epochs, "epoch") if is_known else "")
        self._begin(trainer, int(num_epochs * num_batches) if is_known else None, step, trainer.global_step)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Report a batch."""
        self._advance(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print the metrics of the epoch."""
        known = trainer.callback_metrics  # read on all ranks: Lightning reduces them here
        if not trainer.is_global_zero or self.step:
            return
        values = {
            name: float(known.get(name, math.nan))
            for name in SUMMARY_METRICS
            if name in known or name != "val_map"
        }
        metrics = ", ".join(f"{name} {value:.4f}" for name, value in values.items())
        self.progress.write(f"{self.name}: epoch {trainer.current_epoch + 1}/{trainer.max_epochs}, {metrics}")

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Remove the bar."""
        self.progress.end()

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin with the batches of the test split."""
        self._begin(trainer, int(sum(trainer.num_test_batches)), "test pictures")

    def on_test_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Report a batch."""
        self._advance(trainer)

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Remove the bar."""
        self.progress.end()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Remove the bar."""
        self.progress.end()

    def _begin(self, trainer: pl.Trainer, total: int | None, step: str, done: int = 0) -> None:
        if trainer.is_global_zero:
            self.progress.begin(total, step=step, done=done)

    def _advance(self, trainer: pl.Trainer) -> None:
        if trainer.is_global_zero:
            self.progress.advance()


def write_history(path: Path, history: MetricHistory) -> None:
    """Write the history as CSV, for DVC's plots."""
    write_bytes(path, history.to_csv())


def make_early_stopping(config: Any) -> list[pl.Callback]:
    """Make the callbacks that end the training at `stop_at_error`, or after `patience` epochs without progress."""
    callbacks: list[pl.Callback] = []
    if config["stop_at_error"] is not None:
        callbacks.append(
            EarlyStopping(
                "val_error",
                mode="min",
                patience=ENDLESS_PATIENCE,
                stopping_threshold=config["stop_at_error"] + 1e-12,
            )
        )
    if config["patience"] is not None:
        callbacks.append(EarlyStopping("val_loss", mode="min", patience=config["patience"], check_finite=False))
    return callbacks


def describe_early_end(trainer: pl.Trainer, config: Any) -> str:
    """Return why a training ended before its last epoch, as a line; empty if it did not.

    Args:
        trainer: after its `fit`.
        config: the section `train` of params.yaml.
    """
    num_epochs, max_epochs = trainer.current_epoch, trainer.max_epochs or -1
    if 0 < max_epochs <= num_epochs:
        return ""
    reason = "trainer.max_time or trainer.max_steps is reached"
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if not isinstance(callback, EarlyStopping):
            continue
        if callback.stopping_reason == EarlyStoppingReason.STOPPING_THRESHOLD:
            reason = f"the validation error is at or below stop_at_error, {config['stop_at_error']}"
        elif callback.stopping_reason == EarlyStoppingReason.PATIENCE_EXHAUSTED:
            reason = f"val_loss has not fallen for {format_count(callback.patience, 'epoch')} (patience)"
    return f"training ended after epoch {num_epochs} of {max_epochs}: {reason}"
