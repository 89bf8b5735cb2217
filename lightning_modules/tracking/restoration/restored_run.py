"""Restore the MLflow run of a training from the files that git and DVC keep of it.

A clone of a project has a bundle in `data/models/classifier`, and an MLflow that has never heard of the training.
The restored run has an id of its own, and the tag `convoy.restored_run` with the id of the original.
"""

from __future__ import annotations

import csv
import json
import socket
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from imageset.exceptions import UserError
from imageset.store.reader import ImageStore
from imageset.utils.file_lock import file_lock
from lightning_modules.bundle import BundleInfo, check_bundle
from lightning_modules.tracking.client import ensure_experiment
from lightning_modules.tracking.local_store.location import find_cache
from lightning_modules.tracking.model_logging import (
    list_training_images,
    log_bundle,
    log_training_images,
    prepare_model,
    read_example_images,
    save_model,
)
from lightning_modules.tracking.run import TrackedRun
from lightning_modules.tracking.tags import (
    DATASET_TAG,
    FINGERPRINT_TAG,
    GIT_COMMIT_TAG,
    REPORT_FOLDER,
    RESTORED_IN_TAG,
    RESTORED_RUN_TAG,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run


@dataclass(frozen=True)
class KeptFiles:
    """The records of a training that are left beside its bundle.

    Attributes:
        params: the section `train` of params.yaml; {} if it is not known.
        training_images: the rows of the training split in index.parquet; None: those of data/normalized, if it
            holds the dataset of the training.
        metrics: of its evaluation, by MLflow's names.
        report: files of its evaluation.
    """

    params: Mapping[str, Any] = field(default_factory=dict)
    training_images: pa.Table | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    report: Sequence[Path] = ()


def find_restored_runs(client: MlflowClient, run_id: str, status: str = "FINISHED") -> list[Run]:
    """Return the runs that were restored for an original whose id begins with `run_id`, the newest first."""
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    query = f"tags.`{RESTORED_RUN_TAG}` LIKE '{run_id}%' AND attributes.status = '{status}'"
    return list(client.search_runs(experiments, query, max_results=6))


def restore_run(client: MlflowClient, project: Path, bundle: Path, kept: KeptFiles | None = None) -> str:
    """Return the run that was restored for a bundle, and restore it first if there is none.

    A restoration that was killed left a run that is not FINISHED; it is deleted, and begun again. On a shared
    server, such a run may be that of another clone, which is writing it: only that of this project is deleted.

    Args:
        client: from `connect_to_mlflow`.
        project: the project's folder.
        bundle: the folder of the bundle, with run.json and history.csv.
        kept: what else is known of the training.

    Raises:
        UserError: the bundle is damaged.
    """
    info, _ = check_bundle(bundle)
    note = json.loads((bundle / "run.json").read_text(encoding="utf-8"))
    original = str(note["run_id"])
    cache = find_cache(project)
    cache.mkdir(exist_ok=True)
    with file_lock(cache / "run_restoration.lock"):
        if runs := find_restored_runs(client, original):
            return str(runs[0].info.run_id)
        for status in ("RUNNING", "FAILED"):
            for half in find_restored_runs(client, original, status):
                if half.data.tags.get(RESTORED_IN_TAG) == _describe_place(project):  # others may be at it now
                    client.delete_run(half.info.run_id)
        return _write_run(client, project, bundle, info, note, kept or KeptFiles())


def restore_model_files(
    client: MlflowClient, project: Path, bundle: Path, run_id: str, target: Path, kept: KeptFiles
) -> None:
    """Write the files of a model whose run MLflow has, and the list of its training images, where they were.

    Args:
        client: from `connect_to_mlflow`.
        project: the project's folder.
        bundle: the folder of the bundle.
        run_id: of the run that logged the model.
        target: the folder of the model, `.../models/MODEL_ID/artifacts`.
        kept: what else is known of the training.

    Raises:
        UserError: the bundle is damaged.
    """
    info, _ = check_bundle(bundle)
    store = _open_dataset(project, info)
    examples = _make_example(info) if store is None else read_example_images(store)
    with tempfile.TemporaryDirectory() as scratch:
        prepare_model(Path(scratch) / "model", bundle, info, examples)
        save_model(Path(scratch) / "model", target, run_id, target.parent.name)
    rows = kept.training_images if store is None else store.split("train").rows
    if rows is not None:
        log_training_images(TrackedRun(client, client.get_run(run_id)), list_training_images(rows))


def _write_run(
    client: MlflowClient, project: Path, bundle: Path, info: BundleInfo, note: Mapping[str, Any], kept: KeptFiles
) -> str:
    """Write the run of a bundle; `note` is the content of its run.json."""
    name, original = str(info.dataset["name"]), str(note["run_id"])
    tags = {DATASET_TAG: name, FINGERPRINT_TAG: info.dataset["fingerprint"], RESTORED_RUN_TAG: original}
    tags[RESTORED_IN_TAG] = _describe_place(project)
    tags |= {GIT_COMMIT_TAG: info.git_commit} if info.git_commit else {}
    run = TrackedRun.open(
        client, ensure_experiment(client, name, project), None, f"restored {original[:12]}", tags
    )
    try:
        model = {**kept.params.get("model", {}), "network": info.network}
        run.log_params(note.get("params") or {**kept.params, "model": model})  # older bundles do not hold them
        if digest := info.dataset.get("digest"):
            run.log_dataset(name, digest, project / "data" / "normalized", context="training")
        last_step = _log_history(run, bundle / "history.csv")
        run.log_metrics({f"best_{key}": value for key, value in info.metrics.items()}, last_step)
        if kept.metrics:
            run.log_metrics(kept.metrics, 0)
        for path in kept.report:
            run.log_artifact(path, REPORT_FOLDER)
        store = _open_dataset(project, info)
        rows = kept.training_images if store is None else store.split("train").rows
        if rows is not None:
            log_training_images(run, list_training_images(rows))
        log_bundle(run, bundle, info, _make_example(info) if store is None else read_example_images(store))
    except BaseException:
        with suppress(Exception):
            run.close("FAILED")
        raise
    run.close("FINISHED")
    line = f"mlflow: run {original[:12]} of {bundle} is not here; restored as {run.run_id[:12]}"
    print(line, file=sys.stderr, flush=True)
    return run.run_id


def _describe_place(project: Path) -> str:
    return f"{socket.gethostname()}:{project.resolve()}"


def _open_dataset(project: Path, info: BundleInfo) -> ImageStore | None:
    """Return data/normalized if it is the dataset that a bundle was trained on."""
    try:
        store = ImageStore.open(project / "data" / "normalized")
    except UserError:  # it is not here, or damaged
        return None
    return store if store.fingerprint == info.dataset["fingerprint"] else None


def _log_history(run: TrackedRun, path: Path) -> int:
    """Log the metrics of each epoch, and return the last epoch."""
    rows = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines())) if path.exists() else []
    for row in rows:
        run.log_metrics(
            {key: float(text) for key, text in row.items() if key != "epoch" and text}, int(row["epoch"])
        )
    return int(rows[-1]["epoch"]) if rows else 0


def _make_example(info: BundleInfo) -> np.ndarray:
    """Return one grey image, uint8 (1, H, W, C)."""
    side = int(info.decode["size"]) if isinstance(info.decode.get("size"), int) else 64
    return np.full((1, side, side, len(info.mean)), 128, np.uint8)
