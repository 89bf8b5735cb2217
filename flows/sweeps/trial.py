"""One training of a sweep: a process in a folder of its own, which shares the project's data and its MLflow."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.orchestration import subprocesses
from flows.project.paths import CACHE, CLASSIFIER, NORMALIZED, PARAMS
from imageset.utils.atomic_write import write_text
from lightning_modules.tracking.client import get_tracking_uri
from lightning_modules.tracking.tags import PARENT_RUN_TAG, TRIAL_TAG

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from optuna import Trial


TRAIN_COMMAND = (sys.executable, "-m", "lightning_modules", "fit")
OWN_FILES = {
    PARAMS.name,
    "data",
    CACHE.name,
    "mlflow.db",
    "mlartifacts",
}  # of the folder; all else is the project's


@dataclass
class TrialProcess:
    """A training that runs.

    Attributes:
        slot: the GPU or the place among the processes that it holds.
    """

    trial: Trial
    folder: Path
    process: subprocess.Popen[bytes]
    slot: int
    last_reported_epoch: int = -1  # the last epoch that the study knows of
    pruned_after: int | None = None
    _run_id: str | None = field(default=None, repr=False)

    @property
    def run_id(self) -> str | None:
        """Its MLflow run, once there is one."""
        if self._run_id is None:
            for note in (self.folder / CACHE / "train").glob("*/run_id"):
                self._run_id = note.read_text(encoding="utf-8") or None
        return self._run_id

    def read_new_epochs(self, client: MlflowClient, metric: str) -> list[tuple[int, float]]:
        """(epoch, value) of those that were logged since the last call."""
        if self.run_id is None:
            return []
        history = client.get_metric_history(self.run_id, metric)
        new = sorted((one.step, one.value) for one in history if one.step > self.last_reported_epoch)
        self.last_reported_epoch = max([self.last_reported_epoch, *(step for step, _ in new)])
        return new

    def read_error(self) -> str:
        """What it said last, for a training that failed."""
        lines = self.log_path.read_text(encoding="utf-8", errors="replace").splitlines()
        own = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
        return (own or [line for line in lines if line.strip()] or ["it said nothing"])[-1][:400]

    @property
    def log_path(self) -> Path:
        """What it prints."""
        return self.folder.with_suffix(".log")


def start_trial(
    trial: Trial, folder: Path, project: Path, params: Mapping[str, Any], parent: str, slot: int,
    variables: Mapping[str, str],
) -> TrialProcess:  # fmt: skip
    """Train with these parameters in `folder`; what was begun there goes on.

    Args:
        params: what its params.yaml is to hold.
        parent: the MLflow run that the training's own run is nested in.
        variables: of its environment, e.g. which GPU it sees.
    """
    _link_project(folder, project, params)
    tags = {PARENT_RUN_TAG: parent, TRIAL_TAG: str(trial.number)}
    environment = subprocesses.build_environment(
        MLFLOW_TRACKING_URI=get_tracking_uri(project), MLFLOW_RUN_CONTEXT=json.dumps(tags), **variables
    )
    with folder.with_suffix(".log").open("ab") as log:
        process = subprocesses.start_process(TRAIN_COMMAND, log=log, cwd=folder, env=environment)
    return TrialProcess(trial, folder, process, slot)


def _link_project(folder: Path, project: Path, params: Mapping[str, Any]) -> None:
    """Links to all that the project holds, but for what a training writes and for params.yaml."""
    import yaml

    data = folder / NORMALIZED.parent
    data.mkdir(parents=True, exist_ok=True)
    shared = [(one, folder / one.name) for one in project.iterdir() if one.name not in OWN_FILES]
    for target, link in [*shared, (project / NORMALIZED, folder / NORMALIZED)]:
        if not link.is_symlink():
            link.symlink_to(target.resolve())
    write_text(folder / PARAMS.name, yaml.safe_dump(dict(params), sort_keys=False))


def read_trial_result(folder: Path) -> tuple[str, dict[str, float]]:
    """The MLflow run of a training that ended well, and what it reached on the validation split."""
    from lightning_modules.bundle import check_bundle

    note = json.loads((folder / CLASSIFIER / "run.json").read_text(encoding="utf-8"))
    return str(note["run_id"]), dict(check_bundle(folder / CLASSIFIER)[0].metrics)


def remove_trial_folder(folder: Path) -> None:
    """Remove what a training that needs nothing of it any more left: its model is MLflow's."""
    shutil.rmtree(folder, ignore_errors=True)


def list_visible_gpus() -> list[str]:
    """How CUDA_VISIBLE_DEVICES names the GPUs that this process may use."""
    import torch

    if not torch.cuda.is_available():
        return []
    named = [one for one in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if one.strip()]
    return named or [str(number) for number in range(torch.cuda.device_count())]
