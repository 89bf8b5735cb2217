"""Log results that are measured after a training to the MLflow run of that training."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from imageset.exceptions import UserError
from lightning_modules.tracking import offline_queue, offline_run
from lightning_modules.tracking.client import connect_to_mlflow, describe_deleted_run
from lightning_modules.tracking.run import TrackedRun

MAX_METRICS_PER_BATCH = 1000  # mlflow.utils.validation.MAX_METRICS_PER_BATCH


def open_training_run(project: Path, bundle: Path) -> TrackedRun:
    """Open the run that trained the bundle in the folder `bundle`.

    Where a local store does not have it, as in a clone of the project, the run is restored from the bundle. A run
    that somebody deleted is still there; it is named, since nothing can be logged to it.

    Raises:
        UserError: the bundle is damaged, or the run was deleted.
    """
    from mlflow.exceptions import MlflowException

    from lightning_modules.tracking.restoration.restored_run import restore_run

    note = json.loads((bundle / "run.json").read_text())
    if offline_queue.is_tracking_server(project):
        return offline_run.OfflineRun(project, offline_queue.open_queue(project, note["run_id"]))
    client = connect_to_mlflow(project)
    try:
        run = client.get_run(note["run_id"])
    except MlflowException:
        run = client.get_run(restore_run(client, project, bundle))
    if run.info.lifecycle_stage != "active":
        raise UserError(describe_deleted_run(run.info.run_id, client.tracking_uri))
    return TrackedRun(client, run)


def log_final_metrics(run: TrackedRun, metrics: Mapping[str, float]) -> None:
    """Log metrics that have no curve: at step 0; where another value was logged before, at the next step."""
    entries = list(metrics.items())
    for start in range(0, len(entries), MAX_METRICS_PER_BATCH):
        run.log_metrics(dict(entries[start : start + MAX_METRICS_PER_BATCH]), step=0, final=True)


def log_artifacts(run: TrackedRun, paths: Iterable[Path], folder: str) -> None:
    """Log files as artifacts of the run, in one of its folders."""
    for path in sorted(paths):
        run.log_artifact(path, folder)


def name_metrics(names: Iterable[str]) -> dict[str, str]:
    """Return the metric name of each name: that of `to_metric_name`, unless several have the same.

    Then those of them that hold rejected characters give their codes, so that "C#", "C+" and "C_" become "C_x23",
    "C_x2b" and "C_". The result depends on the set of names only.
    """
    names = sorted(set(names))
    counts = Counter(map(to_metric_name, names))
    kept = {name: to_metric_name(name) for name in names if name == to_metric_name(name)}
    taken = set(kept.values())
    for name in names:
        if name in kept:
            continue
        metric = to_metric_name(name) if counts[to_metric_name(name)] == 1 else _write_codes(name)
        while metric in taken:
            metric += "_"
        taken.add(metric)
        kept[name] = metric
    return kept


def _write_codes(name: str) -> str:
    return "".join(c if to_metric_name(c) == c else f"_x{ord(c):02x}" for c in name)


def to_metric_name(name: str) -> str:
    """Replace the characters that MLflow rejects in metric names; letters, digits and `_-. /` are allowed."""
    return "".join(c if c.isalnum() or c in "_-. " else "_" for c in name)
