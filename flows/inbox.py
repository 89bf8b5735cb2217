"""Flow `inbox`: tag the images that arrived in a folder since the last run; every hour, as in prefect.yaml."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from prefect import flow

from flows.notifications import console
from flows.orchestration.flow_options import FLOW_OPTIONS, conclude_run
from flows.orchestration.timeouts import time_limit
from flows.predict import PredictResult, predict
from flows.prediction.image_stream import holds_images
from flows.project.exceptions import NoChampion
from flows.project.paths import NORMALIZED
from flows.project.project import Project

logger = console.get_logger(__name__)


@flow(**FLOW_OPTIONS)
@conclude_run
def inbox(
    source: str = "data/inbox", folder: str = "data/predictions/inbox", timeout_h: float | None = None
) -> PredictResult | None:
    """Write the images that are in no earlier table into one more table, named by the time.

    The run succeeds if there is nothing to do: no folder, no images in it, no new images, or no champion.

    Args:
        source: the folder that images arrive in; it is only read.
        folder: folder of the tables, e.g. 2026-03-01T0800Z.parquet; created if it is missing.
        timeout_h: hours after which the run stops; the next one resumes there. None for no limit.

    Returns:
        The table that was written; None if there was nothing to do.

    Raises:
        UserError: as in `predict`, or the run took longer than `timeout_h`.
    """
    project = Project.find()
    if not holds_images(project / source):
        _log_nothing_to_do(f"{source} holds no pictures")
        return None
    if project.read_dataset_field("name") is None:
        _log_nothing_to_do(f"{NORMALIZED} holds no dataset, so there is no model to use")
        return None
    out = _choose_table_path(project / folder)
    try:
        with time_limit(timeout_h, "the inbox"):
            result = predict.fn(str(project / source), str(out), new_only=True)
    except NoChampion as error:
        _log_nothing_to_do(str(error))
        return None
    if not result.num_rows:
        out.unlink()
        _log_nothing_to_do(f"{source} holds nothing new")
        return None
    return result


def _log_nothing_to_do(reason: str) -> None:
    logger.info("inbox: %s; nothing to do", reason)


def _choose_table_path(folder: Path) -> Path:
    """Return the path of a table that does not exist yet."""
    folder.mkdir(parents=True, exist_ok=True)
    minute = datetime.now(UTC).strftime("%Y-%m-%dT%H%MZ")
    names = [minute, *(f"{minute}-{number}" for number in range(2, 1000))]
    return next(path for name in names if not (path := folder / f"{name}.parquet").exists())
