"""The flow `train`: run `dvc repro`, which runs the stages that are out of date."""

from __future__ import annotations

from prefect import flow, task

from flows.notifications import console
from flows.orchestration.flow_options import FLOW_OPTIONS, conclude_run
from flows.project.project import Project
from flows.versioning import dvc_repo
from flows.versioning.raw_restoration import require_whole_raw

logger = console.get_logger(__name__)


@flow(**FLOW_OPTIONS)
@conclude_run
def train(force: str | None = None) -> list[str]:
    """Bring the stages of dvc.yaml up to date; return the names of the stages that ran.

    Args:
        force: a stage to run even if nothing changed.

    Raises:
        StageFailed: a stage failed; with the stage's own message.
        ProjectBusy: another DVC command is running.
    """
    return run_stages(force)


# Called, never submitted: the timeout of a submitted task fires only after the child process has ended.
@task
def run_stages(force: str | None = None) -> list[str]:
    """Run `dvc repro` in a child process; cancelling or interrupting the task also stops the stages."""
    project = Project.find()
    require_whole_raw(project)  # `dvc repro` would take damaged bytes for a new version
    return dvc_repo.repro(project, force).ran
