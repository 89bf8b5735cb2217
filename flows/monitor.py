"""Flow `monitor`: compare a batch of images with the champion's training data, and retrain if the policy asks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from prefect import flow, task

from flows.monitoring.drift_check import MonitorResult, Row, check_batch, check_monitor
from flows.monitoring.retrain_policy import FAILED_PREFIX
from flows.notifications import console
from flows.orchestration.flow_options import FLOW_OPTIONS, cancel_if_busy
from flows.orchestration.retries import TASK_RETRY_OPTIONS
from flows.prediction.table_reader import is_prediction_table, read_model_version, read_prediction_rows
from flows.project.exceptions import ProjectBusy
from flows.project.paths import CLASSIFIER
from flows.project.project import Project
from flows.promotion import ledger, model_registry
from flows.promotion.model_registry import Version
from flows.versioning import restoration
from imageset.exceptions import UserError

if TYPE_CHECKING:
    from flows.prediction.image_stream import ImageStream


logger = console.get_logger(__name__)


@flow(**FLOW_OPTIONS)
@cancel_if_busy
def monitor(
    source: str, pictures: str | None = None, model: str | None = None, everything: bool = False
) -> MonitorResult:
    """Compare a batch with the model's training data, record the result, and retrain if the policy says so.

    Args:
        source: images, as `predict` takes them, or a table that `predict` wrote.
        pictures: the source that such a table was made from. Without it only the predictions are compared.
        model: registered name; None for the model named like the dataset in data/normalized.
        everything: also compare images that were compared before.

    Raises:
        UserError: the source does not exist, no version is champion, the table is from another version, or the
            model has no reference.
    """
    project = Project.find()
    check_monitor(source, pictures)
    project.load_params("monitor")
    version = find_champion(model or project.read_dataset_name(), project)
    result = compare_source(source, pictures, version, project, everything)
    retrain_if_needed(result, project)
    return result


@task(**TASK_RETRY_OPTIONS)
def find_champion(name: str, project: Project) -> Version:
    """Return the champion of the model `name`."""
    return model_registry.require_champion(restoration.open_registry(project), name)


@task(name="look")  # the name in Prefect's history
def compare_source(
    source: str, image_source: str | None, version: Version, project: Project, include_judged: bool
) -> MonitorResult:
    """Compare a source of images, or a table of predictions and its images, with the model's training data."""
    from flows.prediction.image_stream import open_images

    model_registry.connect_registry(project)
    bundle = model_registry.load_version_bundle(version)
    if not is_prediction_table(source):
        images = open_images(source)
        return check_batch(source, _iter_pending_rows(images), images, bundle, version, project, include_judged)
    table = Path(source)
    made_by = read_model_version(table)
    if made_by not in (None, (version.name, version.number)):
        raise UserError(
            f"{table}: holds predictions of {made_by[0]} version {made_by[1]}, but {version} serves; predict again"
        )
    table_images = open_images(image_source) if image_source else None
    rows = read_prediction_rows(table)
    return check_batch(source, rows, table_images, bundle, version, project, include_judged)


def _iter_pending_rows(images: ImageStream) -> Iterator[Row]:
    """Yield a row without a prediction for each image."""
    for image, _ in images:
        yield {"uri": image.uri, "image_id": image.image_id, "status": "error" if image.error else None}


def retrain_if_needed(result: MonitorResult, project: Project) -> None:
    """Run the whole pipeline on the last ingested source if a retrain was decided, and record the outcome.

    The outcome goes into the ledger, with the run it trained: only such a retrain uses up the cooldown and the
    budget. A failure is that of the pipeline's own run, not of this one.
    """
    from flows.pipeline import pipeline

    if result.retrain_entry is None or result.batch is None:
        return
    news = result.batch["news"]
    logger.info("monitor: training again: %s; to train on: %s", result.batch["why"], news)
    begun, run_before = True, _read_trained_run(project)
    try:
        with project.lock():  # before Prefect has a run that would not begin
            outcome = str(pipeline(None))
    except ProjectBusy as error:  # another run trains already; the next drifted batch starts a retrain
        outcome, begun = str(error), False
    except (UserError, ConnectionError) as error:
        outcome = f"{FAILED_PREFIX}{error}"
    trained = begun and _read_trained_run(project) != run_before
    if begun and not outcome.startswith(FAILED_PREFIX):
        outcome = f"retrained on {news}: {outcome}" if trained else f"nothing was trained: {outcome}"
    else:
        logger.warning("monitor: the retrain %s", outcome if begun else f"did not start: {outcome}")
    entry = {
        "event": ledger.RETRAINED, "of": result.retrain_entry, "model": result.batch["model"],
        "version": result.batch["version"], "begun": begun, "trained": trained, "reason": outcome,
    }  # fmt: skip
    ledger.append_entry(project, entry)


def _read_trained_run(project: Project) -> str | None:
    """Return the file about the last training, which names its MLflow run; None if there is none."""
    try:
        return (project / CLASSIFIER / "run.json").read_text(encoding="utf-8")
    except OSError:
        return None
