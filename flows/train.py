"""Train: `dvc repro`, which knows what must run and what need not."""

from __future__ import annotations

from prefect import flow, task

from flows.notifications import console
from flows.orchestration.flow_options import FLOW_OPTIONS
from flows.project.paths import find_project
from flows.versioning import dvc_repo

logger = console.get_logger(__name__)


@flow(**FLOW_OPTIONS)
def train(force: str | None = None) -> list[str]:
    """Bring the stages of dvc.yaml up to date; returns the names of those that ran.

    Args:
        force: a stage that runs even if nothing changed.

    Raises:
        StageFailed: a stage failed, with the stage's own message.
        Busy: another DVC command is at work.
    """
    return run_stages(force)


# Called, never submitted: a submitted task's time-out fires only after the child process has ended.
@task
def run_stages(force: str | None = None) -> list[str]:
    """Run `dvc repro` as a subprocess; cancelled or interrupted, it takes the stages with it."""
    return dvc_repo.repro(find_project(), force).ran
