"""Open or resume the training's MLflow run."""

import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from imageset.store.reader import ImageStore
from imageset.utils.atomic_write import write_bytes
from lightning_modules.networks.registry import get_display_name
from lightning_modules.tracking.client import connect_to_mlflow, ensure_experiment
from lightning_modules.tracking.local_store.location import find_original_project
from lightning_modules.tracking.offline_queue import (
    TrackingServerUnavailable,
    connect_to_server,
    find_queue,
    is_tracking_server,
    sync_queues,
)
from lightning_modules.tracking.offline_run import OfflineRun
from lightning_modules.tracking.provenance import make_patch, read_git_commit
from lightning_modules.tracking.run import TrackedRun
from lightning_modules.tracking.tags import (
    DATASET_FOLDER,
    DATASET_TAG,
    FINGERPRINT_TAG,
    GIT_COMMIT_TAG,
    SOURCE_FOLDER,
)
from lightning_modules.training.unfinished_training import RunState

if TYPE_CHECKING:
    from mlflow import MlflowClient


def read_dataset_digest(project: Path, store: ImageStore) -> str:
    """Return DVC's hash of the normalized dataset, or a part of its fingerprint without DVC.

    While a stage runs, `dvc.lock` holds the current hash.
    """
    try:
        lock = yaml.safe_load((project / "dvc.lock").read_text())
        return str(lock["stages"]["normalize"]["outs"][0]["md5"])
    except (OSError, KeyError, TypeError, IndexError, yaml.YAMLError):
        return store.fingerprint[:32]  # without DVC; cut to the length that MLflow accepts


def open_run(
    project: Path, run_state: RunState, dataset: Mapping[str, str], config: Mapping[str, Any]
) -> TrackedRun:
    """Open the MLflow run of this training, or resume it, and log its parameters and its dataset.

    Args:
        project: folder of the project.
        run_state: state of the unfinished training; it keeps the id of the run.
        dataset: `name`, `fingerprint` and `digest` of the normalized dataset.
        config: the section `train` of params.yaml.
    """
    commit = read_git_commit(project)
    tags = {DATASET_TAG: dataset["name"], FINGERPRINT_TAG: dataset["fingerprint"]}
    tags |= {GIT_COMMIT_TAG: commit} if commit else {}
    finished_run_id = run_state.find_finished_run_id(project)
    previous_run_id = run_state.run_id or finished_run_id
    network = get_display_name(config["model"]["network"])
    name = f"{network} {time.strftime('%Y-%m-%d %H:%M:%S', time.gmtime())}"
    if is_tracking_server(project):
        run: TrackedRun = open_server_run(project, run_state, dataset["name"], previous_run_id, name, tags)
    else:
        client = connect_to_mlflow(project)
        close_killed_runs(client, run_state)
        run = TrackedRun.open(
            client, ensure_experiment(client, dataset["name"], project), previous_run_id, name, tags
        )
    run_state.save_run_id(run.run_id)
    described_path = run_state.folder / "described"
    is_described = described_path.exists() or finished_run_id is not None
    if not run.has_id(previous_run_id) or not is_described:
        run.log_params(config)
        path = find_original_project(project) / config["data"]["store"]
        run.log_dataset(dataset["name"], dataset["digest"], path, context="training")
        page = project / config["data"]["store"] / "dataset.html"
        if page.exists():
            run.log_artifact(page, DATASET_FOLDER)
        write_bytes(run_state.folder / "changes.patch", make_patch(project))
        run.log_artifact(run_state.folder / "changes.patch", SOURCE_FOLDER)
        write_bytes(described_path, b"")
    if isinstance(run, OfflineRun):
        run.raise_on_rejection = False
    return run


def open_server_run(
    project: Path, run_state: RunState, experiment: str, run_id: str | None, name: str, tags: Mapping[str, str]
) -> OfflineRun:
    """Open the MLflow run on a tracking server, which may be unavailable.

    If the server is available, the queued entries are sent first.

    Args:
        project: folder of the project.
        run_state: state of the unfinished training.
        experiment: name of the experiment.
        run_id: id of the run to resume, if there is one.
        name: name of a new run.
        tags: tags of the run.
    """
    with suppress(TrackingServerUnavailable):  # reported when the first entry cannot be sent
        client = connect_to_server(project)
        sync_queues(project)
        close_killed_runs(client, run_state)
    return OfflineRun.open(project, experiment, run_id, name, tags)


def close_killed_runs(client: "MlflowClient", run_state: RunState) -> None:
    """Mark other trainings KILLED that MLflow shows as running although their process died."""
    from mlflow.exceptions import MlflowException

    for path in sorted(run_state.folder.parent.glob("*/run_id")):
        killed = RunState(path.parent)
        if killed.folder == run_state.folder or killed.is_locked() or killed.run_id is None:
            continue
        queue = find_queue(run_state.folder.parent.parent.parent, killed.run_id)
        run_id = queue.run_id if queue is not None else killed.run_id
        try:
            if client.get_run(run_id).info.status == "RUNNING":
                client.set_terminated(run_id, "KILLED")
        except MlflowException:  # the run was deleted
            continue
