"""The flow `sweep`: train with other values, several at a time, and write the best values to params.yaml.

Each training is the stage `train` in its own folder. The validation split decides, never the test split, and
trainings that promise little are ended early. In MLflow each training is a run nested in the sweep's run.
"""

from __future__ import annotations

from typing import Any

from prefect import flow, task

from flows.notifications import console
from flows.orchestration.artifacts import publish_markdown
from flows.orchestration.flow_options import FLOW_OPTIONS, conclude_run
from flows.project.project import Project
from flows.sweeps.search import SweepResult, run_sweep

logger = console.get_logger(__name__)


@flow(**FLOW_OPTIONS)
@conclude_run
def sweep(
    trials: int | None = None, timeout_min: float | None = None, processes: int | None = None
) -> SweepResult:
    """Search the space of params.yaml: sweep, and write the best values into params.yaml: train.

    A call after a killed sweep resumes it; a call after a complete one only reports the best values.

    Args:
        trials: number of trainings of the whole sweep; None for the value in params.yaml.
        timeout_min: minutes after which no further training starts; None for the value in params.yaml.
        processes: trainings at the same time; None for the value in params.yaml.

    Raises:
        UserError: a key or a range is wrong, there is no dataset, or no training succeeds.
        ProjectBusy: another run is at work in this project.
    """
    project = Project.find()
    params = project.load_params("sweep")
    given = {"trials": trials, "timeout_min": timeout_min, "processes": processes}
    params |= {name: value for name, value in given.items() if value is not None}
    with project.lock():
        return search(project, params)


@task
def search(project: Project, params: dict[str, Any]) -> SweepResult:
    """Run the sweep and publish its table as an artifact in Prefect."""
    result, table = run_sweep(project, params)
    publish_markdown(table, "sweep", f"best {result.metric} {result.value:.4f}")
    return result
