"""The whole road: ingest, train, promote. `convoy run` calls it, and so does the nightly deployment."""

from __future__ import annotations

from prefect import flow

from flows import limits, versioning
from flows.after_run import after_run, carry_out
from flows.hooks import check_hooks
from flows.ingest import ingest
from flows.project import find_project
from flows.promote import Decision, promote
from flows.timeouts import at_most
from flows.train import train
from flows.watched import WATCHED


@flow(**WATCHED)
def pipeline(source: str | None = None, timeout_h: float | None = None) -> Decision:
    """Pictures to a registered model, doing only what is not done yet.

    Args:
        source: e.g. a folder with one sub-folder a class; None for the source of last time.
        timeout_h: hours after which it stops, with all that it started; the next run goes on from there.

    Raises:
        UserError: what any of the three says, another run is at work in this project, or it took too long.
    """
    project = find_project()
    check_hooks(project)
    afterwards = after_run(project)
    with versioning.only_one(project), at_most(timeout_h, "pipeline"):
        # As plain functions: their tasks, and what the stages print, are then this run's own, in one log.
        ingested = ingest.fn(source)
        with limits.hold(limits.of_dataset(ingested.name), *limits.of_gpus()):
            train.fn()
            decision = promote.fn()
        carry_out(afterwards, project, f"{ingested.name}: {decision}")
        return decision
