"""The folder of an unfinished training: its lock, its key, and the checkpoint to resume from."""

import fcntl
import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imageset.exceptions import UserError
from imageset.stage_code import digest_stage_code
from imageset.store.reader import ImageStore
from imageset.utils.atomic_write import write_bytes
from lightning_modules.tracking.run import flatten_params
from lightning_modules.training.checkpointing import (
    find_newest_intact,
)

# on the result: an unfinished training goes on; the number of ranks counts, not who started them
KEYS_WITHOUT_EFFECT = {
    "checkpoint_every_min",
    "data.cache",
    "reference_pictures",
    "trainer.devices",
    "trainer.num_nodes",
}


@dataclass(frozen=True)
class RunState:
    """Where an unfinished training keeps its state; a finished one leaves nothing here."""

    folder: Path

    @contextmanager
    def run_lock(self) -> Iterator[None]:
        """Keep others out of the folder while this training runs.

        Raises:
            UserError: the same training runs already.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(f"{self.folder}: this training runs already; wait until it ends") from None
            yield

    def is_locked(self) -> bool:
        """True while a training of this folder runs."""
        try:
            with self.run_lock():
                return False
        except UserError:
            return True

    def resume(self, tidy: bool) -> Path | None:
        """The checkpoint to go on from, if there is one.

        Args:
            tidy: name damaged ones and remove them; for the rank that holds the folder.
        """
        path, damaged = find_newest_intact(self.folder, "last")
        if not tidy:
            return path
        for leftover in self.folder.glob(".*.partial"):
            leftover.unlink(missing_ok=True)
        for one in damaged:
            one.unlink(missing_ok=True)
            instead = "the one before it is used" if path else "none is left, so training begins anew"
            print(f"train: {one}: damaged and removed; {instead}", flush=True)
        return path

    @property
    def run_id(self) -> str | None:
        path = self.folder / "run_id"
        return path.read_text() if path.exists() else None

    def save_run_id(self, run_id: str) -> None:
        write_bytes(self.folder / "run_id", run_id.encode())


def compute_training_key(store: ImageStore, config: Mapping[str, Any], num_ranks: int) -> str:
    """SHA-256 of what a training is made of: the data, the parameters, the code and the number of processes."""
    digest = hashlib.sha256(store.fingerprint.encode())
    parameters = {key: value for key, value in flatten_params(config) if key not in KEYS_WITHOUT_EFFECT}
    digest.update(json.dumps([parameters, num_ranks], sort_keys=True).encode())
    digest.update(digest_stage_code("train").encode())
    return digest.hexdigest()[:32]
