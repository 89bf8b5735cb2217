"""`convoy demo`: the pipeline on handwritten digits that need no download, then predictions for unseen digits."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from flows.cli.init import init_project
from flows.notifications import console
from flows.project.paths import INBOX, PREDICTIONS
from flows.project.project import Project
from flows.reports.run_summary import summarize_run
from imageset.exceptions import UserError
from imageset.utils.text import format_count
from lightning_modules.tracking.local_store.location import DATABASE, SQLITE, find_shared_folder

if TYPE_CHECKING:
    from flows.predict import PredictResult
    from flows.promote import PromoteResult

logger = console.get_logger(__name__)

DIGITS_DIR = Path("data/digits")


def run_demo(project: Project) -> str:
    """Write the digits, run the pipeline on them, predict the held-out digits; return the summary to print."""
    from flows.orchestration.prefect_server import use_prefect_server
    from flows.versioning.source_check import check_source_change

    check_source_change(str(DIGITS_DIR), project, replace_source=False)
    out = PREDICTIONS / "inbox.parquet"
    with project.lock():
        write_demo_images(project)
        (project / PREDICTIONS).mkdir(parents=True, exist_ok=True)
        with use_prefect_server(project):
            decision, predicted = run_demo_flows(out)
    champion = None if decision.serves else predicted.version
    extra = {"predictions": format_predictions(predicted), "all runs": format_mlflow_command(project)}
    return summarize_run(project, str(decision), champion, extra)


def run_demo_flows(out: Path) -> tuple[PromoteResult, PredictResult]:
    """Run the pipeline on the digits, and write the predictions of the held-out ones to `out`."""
    from flows.pipeline import pipeline
    from flows.predict import predict

    decision = pipeline(str(DIGITS_DIR))
    return decision, predict(str(INBOX), str(out), decision.version.name)


def init_demo_project(folder: Path) -> str:
    """Make the demo's project in an empty folder; return what was done.

    Raises:
        UserError: the folder holds other files.
    """
    if entries := sorted(entry.name for entry in folder.iterdir() if entry.name not in (".git", ".venv")):
        raise UserError(
            f"{folder} is no project and holds {entries[0]}; run the demo in an empty folder: "
            "mkdir demo && cd demo && convoy demo"
        )
    return "\n".join(init_project(folder, DIGITS_DIR.name).lines)


def write_demo_images(project: Project) -> None:
    """Write scikit-learn's digits as PNG files: one folder a class; every tenth, unlabelled, goes to the inbox."""
    from imageset.sources.benchmark_sets.digits import write_digits

    num_written, num_present = write_digits(project / DIGITS_DIR, project / INBOX)
    if num_written:
        logger.info("demo: %s digits written as PNG files to %s and %s", f"{num_written:,}", DIGITS_DIR, INBOX)
    else:
        logger.info("demo: %s digits are in %s and %s already, skipped", f"{num_present:,}", DIGITS_DIR, INBOX)


def format_predictions(predicted: PredictResult) -> str:
    """Format the table that was written, with its numbers of pictures and errors."""
    num_rows = format_count(predicted.num_rows, "picture")
    return f"{predicted.out}: {num_rows}, {format_count(predicted.num_errors, 'error')}"


def format_mlflow_command(project: Project) -> str:
    """Format the command, typed in the project's folder, that opens MLflow's UI on this project's runs."""
    scripts = Path(sys.executable).parent
    mlflow = scripts / "mlflow"
    command = mlflow.relative_to(project) if mlflow.is_relative_to(project) else mlflow
    return f"{command} ui --backend-store-uri {find_store_uri(project)} --host 127.0.0.1 --port 5000"


def find_store_uri(project: Project) -> str:
    """Return the URI of MLflow's store, relative to the project's folder if it lies there."""
    shared = find_shared_folder(project.folder)
    database = Path(DATABASE) if shared == project.folder.resolve() else shared / DATABASE
    return os.environ.get("MLFLOW_TRACKING_URI") or f"{SQLITE}{database}"
