"""Monitor: does a batch of pictures still look like what the champion was trained on? If not: say so, and train
again where params.yaml wants that."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from prefect import flow, task

from flows.monitoring.drift_check import MonitorResult, Row, check_batch, check_monitor
from flows.notifications import console
from flows.orchestration.flow_options import FLOW_OPTIONS
from flows.orchestration.retries import TASK_RETRY_OPTIONS
from flows.prediction.table_reader import is_prediction_table, read_model_version, read_prediction_rows
from flows.project.exceptions import ProjectBusy
from flows.project.params import load_monitor_params
from flows.project.paths import find_project, read_dataset_name
from flows.promotion import ledger, model_registry
from flows.promotion.model_registry import Version
from imageset.exceptions import UserError

if TYPE_CHECKING:
    from flows.prediction.image_stream import ImageStream


logger = console.get_logger(__name__)


@flow(**FLOW_OPTIONS)
def monitor(
    source: str, pictures: str | None = None, model: str | None = None, everything: bool = False
) -> MonitorResult:
    """Compare a batch with what the model was trained on, note it, and train again if the policy says so.

    Args:
        source: pictures, as `predict` takes them, or a table that `predict` wrote.
        pictures: of such a table: the source it was made from. Without it only the answers are compared.
        model: registered name; None for the one named like the dataset in data/normalized.
        everything: pictures that were judged before, too.

    Raises:
        UserError: no such source, no model that serves, a table of another version, a model without a reference.
    """
    project = find_project()
    check_monitor(source, pictures)
    load_monitor_params(project)
    version = find_champion(model or read_dataset_name(project), project)
    monitored = look(source, pictures, version, project, everything)
    retrain_if_needed(monitored, project)
    return monitored


@task(**TASK_RETRY_OPTIONS)
def find_champion(name: str, project: Path) -> Version:
    """The version that serves."""
    return model_registry.require_champion(model_registry.connect_registry(project), name)


@task
def look(source: str, pictures: str | None, version: Version, project: Path, everything: bool) -> MonitorResult:
    """Compare a source, or a table and its source."""
    from flows.prediction.image_stream import open_images

    model_registry.connect_registry(project)
    bundle = model_registry.load_version_bundle(version)
    if not is_prediction_table(source):
        found = open_images(source)
        return check_batch(source, _iter_pending_rows(found), found, bundle, version, project, everything)
    table = Path(source)
    other = read_model_version(table)
    if other not in (None, (version.name, version.number)):
        raise UserError(
            f"{table}: holds answers of {other[0]} version {other[1]}, but {version} serves; predict again"
        )
    found_of = open_images(pictures) if pictures else None
    return check_batch(source, read_prediction_rows(table), found_of, bundle, version, project, everything)


def _iter_pending_rows(pictures: ImageStream) -> Iterator[Row]:
    """Rows of pictures that no model was asked about."""
    for picture, _ in pictures:
        yield {"uri": picture.uri, "image_id": picture.image_id, "status": "error" if picture.error else None}


def retrain_if_needed(result: MonitorResult, project: Path) -> None:
    """Train again if that was decided: the whole pipeline from the last source; what came of it is in the ledger.
    A failure there is its own run's failure, not this one's."""
    from flows.pipeline import pipeline

    if result.retrain_entry is None or result.batch is None:
        return
    logger.info("monitor: training again: %s", result.batch["why"])
    begun = True
    try:
        outcome = str(pipeline(None))
    except ProjectBusy as error:  # a training that was asked for otherwise; the next drifted batch asks again
        outcome, begun = str(error), False
    except (UserError, ConnectionError) as error:
        outcome = f"failed: {error}"
    if not begun or outcome.startswith("failed: "):
        logger.warning("monitor: the retrain %s", outcome if begun else f"is not begun: {outcome}")
    entry = {
        "event": ledger.RETRAINED, "of": result.retrain_entry, "model": result.batch["model"],
        "version": result.batch["version"], "begun": begun, "reason": outcome,
    }  # fmt: skip
    ledger.append_entry(project, entry)
