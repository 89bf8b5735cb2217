"""Open or resume the training's MLflow run."""

import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from imageset.store.reader import ImageStore
from imageset.utils.atomic_write import write_bytes
from lightning_modules.tracking.client import connect_to_mlflow, ensure_experiment
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
from lightning_modules.tracking.tags import GIT_COMMIT_TAG
from lightning_modules.training.unfinished_training import RunState

if TYPE_CHECKING:
    from mlflow import MlflowClient


def read_dataset_digest(project: Path, store: ImageStore) -> str:
    """DVC's hash of the normalized dataset; inside a running stage `dvc.lock` holds the current one."""
    try:
        lock = yaml.safe_load((project / "dvc.lock").read_text())
        return str(lock["stages"]["normalize"]["outs"][0]["md5"])
    except (OSError, KeyError, TypeError, IndexError, yaml.YAMLError):
        return store.fingerprint[:32]  # trained without DVC: our own, cut to the length MLflow takes


def open_run(project: Path, work: RunState, dataset: Mapping[str, str], config: Mapping[str, Any]) -> TrackedRun:
    """The MLflow run of this training, with its parameters and its dataset."""
    commit = read_git_commit(project)
    tags = {"convoy.dataset": dataset["name"], "convoy.fingerprint": dataset["fingerprint"]}
    tags |= {GIT_COMMIT_TAG: commit} if commit else {}
    earlier = work.run_id
    network = config["model"]["network"]["class_path"].rpartition(".")[-1]
    name = f"{network} {time.strftime('%Y-%m-%d %H:%M:%S', time.gmtime())}"
    if is_tracking_server(project):
        run: TrackedRun = open_server_run(project, work, dataset["name"], earlier, name, tags)
    else:
        client = connect_to_mlflow(project)
        close_killed_runs(client, work)
        run = TrackedRun.open(client, ensure_experiment(client, dataset["name"], project), earlier, name, tags)
    work.save_run_id(run.run_id)
    described = work.folder / "described"
    if not run.has_id(earlier) or not described.exists():
        run.log_params(config)
        run.log_dataset(dataset["name"], dataset["digest"], project / config["data"]["store"], context="training")
        page = project / config["data"]["store"] / "dataset.html"
        if page.exists():
            run.log_artifact(page, "dataset")
        write_bytes(work.folder / "changes.patch", make_patch(project))
        run.log_artifact(work.folder / "changes.patch", "source")
        write_bytes(described, b"")
    if isinstance(run, OfflineRun):
        run.raise_on_rejection = False
    return run


def open_server_run(
    project: Path, work: RunState, experiment: str, run_id: str | None, name: str, tags: Mapping[str, str]
) -> OfflineRun:
    """The same on a server, which may be away; one that is there is first sent what has waited for it."""
    with suppress(TrackingServerUnavailable):  # said when the first entry cannot be sent
        client = connect_to_server(project)
        sync_queues(project)
        close_killed_runs(client, work)
    return OfflineRun.open(project, experiment, run_id, name, tags)


def close_killed_runs(client: "MlflowClient", work: RunState) -> None:
    """Say KILLED of the trainings beside this one that MLflow takes for running and that no process runs."""
    from mlflow.exceptions import MlflowException

    for note in sorted(work.folder.parent.glob("*/run_id")):
        other = RunState(note.parent)
        if other.folder == work.folder or other.is_locked() or other.run_id is None:
            continue
        outbox = find_queue(work.folder.parent.parent.parent, other.run_id)
        run_id = outbox.run_id if outbox is not None else other.run_id
        try:
            if client.get_run(run_id).info.status == "RUNNING":
                client.set_terminated(run_id, "KILLED")
        except MlflowException:  # that run was deleted
            continue
