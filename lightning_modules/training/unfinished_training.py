"""The folder of an unfinished training: its lock, its key, and the checkpoint to resume from.

.cache/train/KEY/            of an unfinished training
.cache/train/finished.json   of the last finished one: its key, its MLflow run, and the stage `train` of dvc.lock

A training that is killed between its end and the moment when DVC writes dvc.lock runs again. Its checkpoints are
gone by then, but its result is the same to the last bit: it is logged to the same MLflow run.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import yaml

from imageset.exceptions import UserError
from imageset.stage_code import digest_stage_code
from imageset.store.reader import ImageStore
from imageset.utils.atomic_write import write_bytes, write_text
from imageset.utils.file_lock import file_lock, is_locked, name_holder, read_holder
from lightning_modules.tracking.run import flatten_params
from lightning_modules.training.checkpointing import find_newest_intact

# Keys that do not change the result, so an unfinished training resumes although they changed. The number of ranks
# is a part of the training key of its own, however the ranks were started.
KEYS_WITHOUT_EFFECT = {
    "checkpoint_every_min",
    "data.cache",
    "reference_pictures",
    "trainer.devices",
    "trainer.num_nodes",
}
FINISHED_FILE = "finished.json"


@dataclass(frozen=True)
class RunState:
    """The state of an unfinished training in its folder. A finished training leaves nothing here."""

    folder: Path

    @contextmanager
    def run_lock(self) -> Iterator[None]:
        """Hold an exclusive lock on the folder while this training runs.

        Raises:
            UserError: the same training is already running.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with file_lock(self.folder / "lock", self._raise_is_running) as file:
            name_holder(file)
            yield

    def _raise_is_running(self) -> NoReturn:
        holder = read_holder(self.folder / "lock")
        raise UserError(f"{self.folder}: {holder} runs this training already; wait until it ends") from None

    def is_locked(self) -> bool:
        """Return whether a process runs the training of this folder."""
        return is_locked(self.folder / "lock")

    def find_checkpoint(self, remove_damaged: bool) -> Path | None:
        """Return the checkpoint to resume from, if there is one.

        Args:
            remove_damaged: report and remove damaged checkpoints, and remove partial files; for the rank that
                holds the lock.
        """
        path, damaged = find_newest_intact(self.folder, "last")
        if not remove_damaged:
            return path
        for leftover in self.folder.glob(".*.partial"):
            leftover.unlink(missing_ok=True)
        for checkpoint in damaged:
            checkpoint.unlink(missing_ok=True)
            consequence = "the one before it is used" if path else "no other is left, so the training starts again"
            print(f"train: {checkpoint}: damaged and removed; {consequence}", flush=True)
        return path

    @property
    def run_id(self) -> str | None:
        """The id of the training's MLflow run, if one was saved."""
        path = self.folder / "run_id"
        return path.read_text() if path.exists() else None

    def save_run_id(self, run_id: str) -> None:
        """Save the id of the training's MLflow run."""
        write_bytes(self.folder / "run_id", run_id.encode())

    def save_finished(self, project: Path, run_id: str) -> None:
        """Record that the training has ended, before DVC records it."""
        record = {"key": self.folder.name, "run_id": run_id, "stage": read_locked_stage(project)}
        write_text(self.folder.parent / FINISHED_FILE, json.dumps(record) + "\n")

    def find_finished_run_id(self, project: Path) -> str | None:
        """Return the MLflow run of this training if it has ended, and DVC has not recorded that; else None."""
        try:
            record = json.loads((self.folder.parent / FINISHED_FILE).read_text(encoding="utf-8"))
            is_unrecorded = record["key"] == self.folder.name and record["stage"] == read_locked_stage(project)
            return str(record["run_id"]) if is_unrecorded else None
        except (OSError, ValueError, KeyError, TypeError):  # there is none, or it is damaged
            return None


def read_locked_stage(project: Path) -> Any:
    """Return the last run of the stage `train` as dvc.lock records it; None if it records none."""
    try:
        return yaml.safe_load((project / "dvc.lock").read_text(encoding="utf-8"))["stages"]["train"]
    except (OSError, KeyError, TypeError, yaml.YAMLError):
        return None


def compute_training_key(
    store: ImageStore, config: Mapping[str, Any], num_ranks: int, project_code: str = ""
) -> str:
    """Compute the key of a training: SHA-256 of the data, the parameters, the code and the number of processes.

    Args:
        store: the normalized dataset.
        config: the section `train` of params.yaml.
        num_ranks: number of processes that train.
        project_code: digest of the project's own modules.
    """
    digest = hashlib.sha256(store.fingerprint.encode())
    parameters = {key: value for key, value in flatten_params(config) if key not in KEYS_WITHOUT_EFFECT}
    digest.update(json.dumps([parameters, num_ranks], sort_keys=True).encode())
    digest.update(f"{digest_stage_code('train')}{project_code}".encode())
    return digest.hexdigest()[:32]
