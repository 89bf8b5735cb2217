"""The whole road: ingest, train, promote. `convoy run` calls it, and so does the nightly deployment."""

from __future__ import annotations

from prefect import flow

from flows import versioning
from flows.ingest import ingest
from flows.project import find_project
from flows.promote import Decision, promote
from flows.train import train


@flow
def pipeline(source: str | None = None) -> Decision:
    """Pictures to a registered model, doing only what is not done yet.

    Args:
        source: e.g. a folder with one sub-folder a class; None for the source of last time.

    Raises:
        UserError: what any of the three says, or another run is at work in this project.
    """
    with versioning.only_one(find_project()):
        # As plain functions: their tasks, and what the stages print, are then this run's own, in one log.
        ingest.fn(source)
        train.fn()
        return promote.fn()
