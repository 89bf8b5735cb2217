"""Sweep: trainings with other numbers, beside each other, and the best numbers into params.yaml.

Every training is the stage `train` in a folder of its own; what it reaches on the validation split decides, never
the test split. One that promises little is ended early. In MLflow each is a run nested in the sweep's.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import flow, task

from flows.notifications import console
from flows.orchestration.artifacts import publish_markdown
from flows.orchestration.flow_options import FLOW_OPTIONS
from flows.project import lock
from flows.project.params import load_stage_params
from flows.project.paths import find_project
from flows.sweeps.search import SweepResult, run_sweep

logger = console.get_logger(__name__)


@flow(**FLOW_OPTIONS)
def sweep(
    trials: int | None = None, timeout_min: float | None = None, processes: int | None = None
) -> SweepResult:
    """Try what params.yaml: sweep says, and write the best into params.yaml: train.

    Killed and called again, it goes on; called again when all is done, it says what was best.

    Args:
        trials: how many trainings the sweep has in the end; None for params.yaml's.
        timeout_min: begin no further training after so long; None for params.yaml's.
        processes: trainings at once; None for params.yaml's.

    Raises:
        UserError: a wrong key or range, no dataset, or no training that ends well.
        Busy: another run is at work in this project.
    """
    project = find_project()
    params = load_stage_params(project, "sweep")
    given = {"trials": trials, "timeout_min": timeout_min, "processes": processes}
    params |= {name: value for name, value in given.items() if value is not None}
    with lock.project_lock(project):
        return search(project, params)


@task
def search(project: Path, params: dict[str, Any]) -> SweepResult:
    """The sweep itself, and its page in Prefect."""
    swept, page = run_sweep(project, params)
    publish_markdown(page, "sweep", f"best {swept.metric} {swept.value:.4f}")
    return swept
