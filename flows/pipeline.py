"""The whole road: ingest, train, promote. `convoy run` calls it, and so does the nightly deployment."""

from __future__ import annotations

from prefect import flow

from flows.ingest import ingest
from flows.notifications.webhooks import check_webhooks
from flows.orchestration import concurrency
from flows.orchestration.flow_options import FLOW_OPTIONS
from flows.orchestration.timeouts import time_limit
from flows.project import lock
from flows.project.paths import find_project
from flows.promote import PromoteResult, promote
from flows.train import train
from flows.versioning.after_run import load_post_steps, run_post_steps


@flow(**FLOW_OPTIONS)
def pipeline(source: str | None = None, timeout_h: float | None = None) -> PromoteResult:
    """Pictures to a registered model, doing only what is not done yet.

    Args:
        source: e.g. a folder with one sub-folder a class; None for the source of last time.
        timeout_h: hours after which it stops, with all that it started; the next run goes on from there.

    Raises:
        UserError: what any of the three says, another run is at work in this project, or it took too long.
    """
    project = find_project()
    check_webhooks(project)
    afterwards = load_post_steps(project)
    with lock.project_lock(project), time_limit(timeout_h, "pipeline"):
        # As plain functions: their tasks, and what the stages print, are then this run's own, in one log.
        ingested = ingest.fn(source)
        with concurrency.acquire_limits(
            concurrency.name_dataset_limit(ingested.name), *concurrency.name_gpu_limits()
        ):
            train.fn()
            decision = promote.fn()
        run_post_steps(afterwards, project, f"{ingested.name}: {decision}")
        return decision
