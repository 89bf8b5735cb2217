"""Predict: the champion tags the pictures of a source, one row a picture, whatever becomes of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from prefect import flow, task

from flows import console, moves, registry
from flows.answers import Answers
from flows.checks import check_prediction
from flows.project import CACHE, dataset_name, find_project, stage_params
from flows.registry import Version
from flows.retries import RETRIED
from flows.tables import predict_table

logger = console.get_logger(__name__)

PARTS = CACHE / "predictions"


@dataclass(frozen=True)
class Predicted:
    """What was written where, by which model."""

    out: Path
    version: Version
    num_rows: int
    num_errors: int
    num_abstained: int = 0

    def __str__(self) -> str:
        return f"{self.out}: {self.num_rows:,} rows by {self.version}, {self.num_errors:,} of them errors"


@flow
def predict(source: str, out: str, model: str | None = None, new_only: bool = False) -> Predicted:
    """Write one row for each picture of `source` into the table `out`.

    What this version of the model was asked before is not computed again, and a run that was killed goes on where
    it stopped; the table is the same, byte for byte, as if neither had happened.

    Args:
        source: what ingest takes: a folder, an archive, a table ...; it is only read.
        out: Parquet, CSV or JSON lines by its ending; written whole or not at all; its folder must exist.
        model: registered name; None for the one named like the dataset in data/normalized.
        new_only: only pictures that stand in no table which this version wrote before.

    Raises:
        UserError: no such source, no picture in it, nowhere to write, or no model that serves.
    """
    project = find_project()
    check_prediction(source, out)
    version = find_model(model or dataset_name(project), project)
    return tag(source, out, version, project, new_only)


@task(**RETRIED)
def find_model(name: str, project: Path) -> Version:
    """The version of `name` that serves now; its number is pinned for the whole batch."""
    client = registry.connect(project)
    moves.settle_if_needed(client, project)
    return registry.require_champion(client, name)


@task
def tag(source: str, out: str, version: Version, project: Path, new_only: bool) -> Predicted:
    """Answer the source part by part, then put the parts together."""
    from flows.pictures import open_pictures
    from lightning_modules.bundle import load_bundle
    from lightning_modules.engines import PyTorchEngine

    registry.connect(project)
    bundle = load_bundle(version.uri)
    answers = Answers(bundle, PyTorchEngine(bundle), version, stage_params(project, "predict"))
    pictures, parts = open_pictures(source), answers.parts(project / PARTS)
    again = ", again: the file is replaced" if Path(out).exists() else ""
    logger.info("predict: %s tags %s pictures%s", version, f"{len(pictures):,}", again)
    with parts.alone(wait=_say_who_is_at_it), console.progress("predict", logger) as progress:
        progress.begin(len(pictures))
        counts = predict_table(pictures, answers, parts, Path(out), progress, new_only=new_only)
    if answers.num_taken_over:
        logger.info("predict: %s of them were answered before, taken over", f"{answers.num_taken_over:,}")
    logger.info("predict: %s rows in %s, %s of them errors", f"{counts.num_rows:,}", out, f"{counts.num_errors:,}")
    return Predicted(Path(out), version, counts.num_rows, counts.num_errors, counts.num_abstained)


def _say_who_is_at_it() -> None:
    logger.info("predict: another prediction by this model is under way; waiting for it")
