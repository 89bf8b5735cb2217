"""The inbox: tag what has arrived in a folder since the last time; every hour, as prefect.yaml says."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from prefect import flow

from flows.notifications import console
from flows.orchestration.flow_options import FLOW_OPTIONS
from flows.orchestration.timeouts import time_limit
from flows.predict import PredictResult, predict
from flows.project.exceptions import NoChampion
from flows.project.paths import NORMALIZED, find_project, read_dataset_field
from imageset.sources.files import find_images

logger = console.get_logger(__name__)


@flow(**FLOW_OPTIONS)
def inbox(
    source: str = "data/inbox", folder: str = "data/predictions/inbox", timeout_h: float | None = None
) -> PredictResult | None:
    """Write the pictures that stand in no earlier table into one more table, named by the time.

    Nothing to do is no failure: no folder, no picture in it, none that is new, no model that serves.

    Args:
        source: the folder that pictures arrive in; it is only read.
        folder: where the tables go, e.g. 2026-03-01T0800Z.parquet; made if it is not there.
        timeout_h: hours after which it stops; the next call goes on from there.

    Returns:
        What was written; None where nothing was to be done.

    Raises:
        UserError: as `predict`, or it took too long.
    """
    project = find_project()
    if not (project / source).is_dir() or not any(find_images(project / source)):
        _log_nothing_to_do(f"{source} holds no pictures")
        return None
    if read_dataset_field(project, "name") is None:
        _log_nothing_to_do(f"{NORMALIZED} holds no dataset, so no model is named like it")
        return None
    out = _choose_table_path(project / folder)
    try:
        with time_limit(timeout_h, "the inbox"):
            predicted = predict.fn(str(project / source), str(out), new_only=True)
    except NoChampion as error:
        _log_nothing_to_do(str(error))
        return None
    if not predicted.num_rows:
        out.unlink()
        _log_nothing_to_do(f"{source} holds nothing new")
        return None
    return predicted


def _log_nothing_to_do(why: str) -> None:
    logger.info("inbox: %s; nothing to do", why)


def _choose_table_path(folder: Path) -> Path:
    """A table that is not there yet."""
    folder.mkdir(parents=True, exist_ok=True)
    name = datetime.now(UTC).strftime("%Y-%m-%dT%H%MZ")
    names = [name, *(f"{name}-{number}" for number in range(2, 1000))]
    return next(path for one in names if not (path := folder / f"{one}.parquet").exists())
