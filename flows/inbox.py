"""The inbox: tag what has arrived in a folder since the last time; every hour, as prefect.yaml says."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from prefect import flow

from flows import console
from flows.errors import NoChampion
from flows.predict import Predicted, predict
from flows.project import NORMALIZED, find_project, said_of_dataset
from flows.timeouts import at_most
from flows.watched import WATCHED
from imageset.sources import find_pictures

logger = console.get_logger(__name__)


@flow(**WATCHED)
def inbox(
    source: str = "data/inbox", folder: str = "data/predictions/inbox", timeout_h: float | None = None
) -> Predicted | None:
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
    if not (project / source).is_dir() or not any(find_pictures(project / source)):
        _say_nothing(f"{source} holds no pictures")
        return None
    if said_of_dataset(project, "name") is None:
        _say_nothing(f"{NORMALIZED} holds no dataset, so no model is named like it")
        return None
    out = _free_name(project / folder)
    try:
        with at_most(timeout_h, "the inbox"):
            predicted = predict.fn(str(project / source), str(out), new_only=True)
    except NoChampion as error:
        _say_nothing(str(error))
        return None
    if not predicted.num_rows:
        out.unlink()
        _say_nothing(f"{source} holds nothing new")
        return None
    return predicted


def _say_nothing(why: str) -> None:
    logger.info("inbox: %s; nothing to do", why)


def _free_name(folder: Path) -> Path:
    """A table that is not there yet."""
    folder.mkdir(parents=True, exist_ok=True)
    name = datetime.now(UTC).strftime("%Y-%m-%dT%H%MZ")
    names = [name, *(f"{name}-{number}" for number in range(2, 1000))]
    return next(path for one in names if not (path := folder / f"{one}.parquet").exists())
