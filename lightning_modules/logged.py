"""What is measured after a training goes into the MLflow run of that training."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from imageset.errors import UserError
from lightning_modules import outbox
from lightning_modules.tracking import TrackedRun, connect

MOST_AT_ONCE = 1000  # metrics; mlflow.utils.validation.MAX_METRICS_PER_BATCH


def training_run(project: Path, bundle: Path) -> TrackedRun:
    """The run that trained the bundle in this folder.

    Raises:
        UserError: MLflow does not have that run (any more).
    """
    from mlflow.exceptions import MlflowException

    note = json.loads((bundle / "run.json").read_text())
    if outbox.is_server(project):
        return outbox.PatientRun(project, outbox.outbox_of(project, note["run_id"]))
    client = connect(project)
    try:
        return TrackedRun(client, client.get_run(note["run_id"]))
    except MlflowException as error:
        raise UserError(
            f"MLflow has no run {note['run_id']}, which trained {bundle}; train again with `dvc repro -f train`"
        ) from error


def log_numbers(run: TrackedRun, numbers: Mapping[str, float]) -> None:
    """Numbers that have no step."""
    entries = list(numbers.items())
    for start in range(0, len(entries), MOST_AT_ONCE):
        run.log_metrics(dict(entries[start : start + MOST_AT_ONCE]), step=0)


def log_files(run: TrackedRun, paths: Iterable[Path], folder: str) -> None:
    """Files as artifacts of the run, in one of its folders."""
    for path in sorted(paths):
        run.log_artifact(path, folder)


def key(name: str) -> str:
    """A class name as part of a metric's name: MLflow takes letters, digits and `_-. /` only."""
    return "".join(c if c.isalnum() or c in "_-. " else "_" for c in name)
