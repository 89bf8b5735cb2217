"""The flow `pipeline`: ingest, train, promote. `convoy run` and the deployment `nightly` run it."""

from __future__ import annotations

from prefect import flow

from flows.ingest import ingest
from flows.notifications import console
from flows.notifications.webhooks import check_webhooks
from flows.orchestration import concurrency
from flows.orchestration.flow_options import FLOW_OPTIONS, conclude_run
from flows.orchestration.timeouts import time_limit
from flows.project.project import Project
from flows.promote import PromoteResult, promote
from flows.reports.hardware import describe_training
from flows.train import train
from flows.versioning.after_run import load_post_steps, run_post_steps

logger = console.get_logger(__name__)


@flow(**FLOW_OPTIONS)
@conclude_run
def pipeline(
    source: str | None = None,
    timeout_h: float | None = None,
    replace_source: bool = False,
    labeled_by: str | None = None,
    resolve: bool = False,
) -> PromoteResult:
    """Ingest, train and promote, skipping every step that is up to date.

    Args:
        source: e.g. a folder with one sub-folder a class, or a label table; None for the last ingested source.
        timeout_h: hours after which the run stops, with all its child processes; the next run resumes there.
        replace_source: whether the source may be another one than the project's.
        labeled_by: the person who labelled the pictures of a label table, where its rows name nobody.
        resolve: whether the labels of a label table set aside what other people said of the same pictures.

    Raises:
        UserError: an error of one of the three flows, or the time limit.
        ProjectBusy: another run is active in this project.
    """
    project = Project.find()
    logger.info("run: %s", describe_training(project))
    check_webhooks(project)
    afterwards = load_post_steps(project)
    with project.lock(), time_limit(timeout_h, "pipeline"):
        # Called as plain functions: their tasks and the output of the stages then belong to this run and its log.
        ingested = ingest.fn(source, replace_source, labeled_by, resolve)
        with concurrency.acquire_limits(
            concurrency.name_dataset_limit(ingested.name), *concurrency.name_gpu_limits()
        ):
            train.fn()
            decision = promote.fn()
        run_post_steps(afterwards, project, f"{ingested.name}: {decision}")
        return decision
