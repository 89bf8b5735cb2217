"""A single training of a sweep: a process in its own folder that shares the project's data and MLflow."""

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
from flows.project.paths import CACHE, CLASSIFIER, FEATURES, NORMALIZED, PARAMS
from flows.project.project import Project
from imageset.utils.atomic_write import write_text
from lightning_modules.tracking.client import get_tracking_uri
from lightning_modules.tracking.local_store.location import ARTIFACTS, DATABASE
from lightning_modules.tracking.tags import PARENT_RUN_TAG, TRIAL_TAG

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from optuna import Trial


TRAIN_COMMAND = (sys.executable, "-P", "-m", "lightning_modules", "fit")
# What the folder of a training holds itself; everything else is a link into the project.
OWN_FILES = {PARAMS.name, "data", CACHE.name, DATABASE, ARTIFACTS}


@dataclass
class TrialProcess:
    """A training that runs.

    Attributes:
        trial: Optuna's trial, which the results are reported to.
        folder: where the training runs.
        process: the stage `train`.
        slot: the GPU or the place among the processes that the training holds.
        last_reported_epoch: the last epoch that the study knows of; -1 for none.
        pruned_after: the number of epochs after which the training was pruned; None if it was not.
    """

    trial: Trial
    folder: Path
    process: subprocess.Popen[bytes]
    slot: int
    last_reported_epoch: int = -1
    pruned_after: int | None = None
    _run_id: str | None = field(default=None, repr=False)

    @property
    def run_id(self) -> str | None:
        """The id of the training's MLflow run; None until there is one."""
        if self._run_id is None:
            for path in (self.folder / CACHE / "train").glob("*/run_id"):
                self._run_id = path.read_text(encoding="utf-8") or None
        return self._run_id

    def read_new_epochs(self, client: MlflowClient, metric: str) -> list[tuple[int, float]]:
        """Return (epoch, value of the metric) for the epochs that were logged since the last call."""
        if self.run_id is None:
            return []
        history = client.get_metric_history(self.run_id, metric)
        new = sorted((point.step, point.value) for point in history if point.step > self.last_reported_epoch)
        self.last_reported_epoch = max([self.last_reported_epoch, *(step for step, _ in new)])
        return new

    def read_error(self) -> str:
        """Return the last error message, or the last line, that the training printed."""
        lines = self.log_path.read_text(encoding="utf-8", errors="replace").splitlines()
        own = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
        return (own or [line for line in lines if line.strip()] or ["it printed nothing"])[-1][:400]

    @property
    def log_path(self) -> Path:
        """The file with everything that the training prints."""
        return self.folder.with_suffix(".log")


def start_trial(
    trial: Trial, folder: Path, project: Project, params: Mapping[str, Any], parent: str, slot: int,
    variables: Mapping[str, str],
) -> TrialProcess:  # fmt: skip
    """Start a training in `folder`; a training that was interrupted there resumes.

    Args:
        trial: Optuna's trial.
        folder: where to train; created if it is missing.
        project: folder of the project.
        params: the content of the training's params.yaml.
        parent: id of the MLflow run that the training's own run is nested in.
        slot: the GPU or the place among the processes that the training holds.
        variables: environment variables, e.g. the GPUs that the training sees.
    """
    _link_project(folder, project, params)
    tags = {PARENT_RUN_TAG: parent, TRIAL_TAG: str(trial.number)}
    environment = subprocesses.build_environment(
        MLFLOW_TRACKING_URI=get_tracking_uri(project.folder), MLFLOW_RUN_CONTEXT=json.dumps(tags), **variables
    )
    with folder.with_suffix(".log").open("ab") as log:
        process = subprocesses.start_process(TRAIN_COMMAND, log=log, cwd=folder, env=environment)
    return TrialProcess(trial, folder, process, slot)


def _link_project(folder: Path, project: Project, params: Mapping[str, Any]) -> None:
    """Link to everything in the project, except what a training writes; write params.yaml.

    The cache of features is shared: an image's features do not depend on what the trials vary.
    """
    import yaml

    (project / FEATURES).mkdir(parents=True, exist_ok=True)
    for path in (NORMALIZED, FEATURES):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
    shared = [(path, folder / path.name) for path in project.folder.iterdir() if path.name not in OWN_FILES]
    shared += [(project / path, folder / path) for path in (NORMALIZED, FEATURES)]
    for target, link in shared:
        if link.is_symlink() and link.readlink() != target.resolve():  # the project was moved or copied since
            link.unlink()
        if not link.is_symlink():
            link.symlink_to(target.resolve())
    write_text(folder / PARAMS.name, yaml.safe_dump(dict(params), sort_keys=False))


def read_trial_result(folder: Path) -> tuple[str, dict[str, float]]:
    """Return the id of a complete training's MLflow run, and its metrics on the validation split."""
    from lightning_modules.bundle import check_bundle

    run = json.loads((folder / CLASSIFIER / "run.json").read_text(encoding="utf-8"))
    return str(run["run_id"]), dict(check_bundle(folder / CLASSIFIER)[0].metrics)


def remove_trial_folder(folder: Path) -> None:
    """Remove the folder of a training that has ended; MLflow holds its model."""
    shutil.rmtree(folder, ignore_errors=True)


def list_visible_gpus() -> list[str]:
    """Return the names, as in CUDA_VISIBLE_DEVICES, of the GPUs that this process may use."""
    import torch

    if not torch.cuda.is_available():
        return []
    names = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return names or [str(number) for number in range(torch.cuda.device_count())]
