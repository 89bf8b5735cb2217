"""`convoy verify`: train a run again from its commit in a temporary folder, and compare metrics and weights."""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from flows.notifications import console
from flows.project.paths import CACHE, CLASSIFIER
from flows.project.project import Project
from flows.promotion import model_registry
from flows.versioning import dvc_repo, restoration
from imageset.exceptions import UserError
from lightning_modules.tracking.local_store.location import DATABASE, SQLITE
from lightning_modules.tracking.tags import GIT_COMMIT_TAG, PARENT_RUN_TAG, PATCH_ARTIFACT, SWEEP_TAG, TRIAL_TAG

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

logger = console.get_logger(__name__)

SCRATCH_PREFIX = "verify-"
METRIC_PREFIXES = ("test_", "recall_", "best_", "num_test")  # of the metrics that a run ends with


@dataclass(frozen=True)
class VerifyResult:
    """The metrics of a run and of its reproduction.

    Attributes:
        run_id: of the original run.
        commit: that was checked out.
        original: metrics of the run.
        reproduced: the same metrics of the reproduction.
        same_weights: whether the SHA-256 of the weights is the same.
        tolerance: largest accepted difference of a metric.
    """

    run_id: str
    commit: str
    original: dict[str, float]
    reproduced: dict[str, float]
    same_weights: bool
    tolerance: float

    @property
    def agrees(self) -> bool:
        """Whether no metric is missing or differs by more than the tolerance."""
        return self.original.keys() == self.reproduced.keys() and not self.differing_metrics

    @property
    def differing_metrics(self) -> list[str]:
        """Names of the metrics that differ by more than the tolerance."""
        both = sorted(self.original.keys() & self.reproduced.keys())
        return [name for name in both if not abs(self.original[name] - self.reproduced[name]) <= self.tolerance]

    def __str__(self) -> str:
        weights = "the same weights" if self.same_weights else "other weights"
        head = f"run {self.run_id}, commit {self.commit[:12]}"
        if self.agrees:
            precision = "to the last digit" if self.original == self.reproduced else f"within {self.tolerance:g}"
            return f"{head}: reproduced; {len(self.original)} metrics agree {precision}, {weights}"
        missing = sorted(self.original.keys() ^ self.reproduced.keys())
        lines = [f"{head}: NOT reproduced, {weights}"]
        lines += [
            f"  {name:<24}{self.original[name]:.6f} then, {self.reproduced[name]:.6f} now"
            for name in self.differing_metrics
        ]
        return "\n".join([*lines, *(f"  {name}: in one of the two only" for name in missing)])


def verify_run(project: Project, run_id: str, tolerance: float = 0.0) -> VerifyResult:
    """Check out a run's commit and its uncommitted changes, link DVC's cache, run all stages, and compare.

    Raises:
        UserError: no such run, its commit is unknown, or the commit or the data is not available here.
        StageFailed: a stage failed.
    """
    client = restoration.open_registry(project, run_id)
    run = model_registry.require_finished_run(client, run_id)
    check_reproducible(run)
    commit = run.data.tags.get(GIT_COMMIT_TAG)
    if commit is None:
        raise UserError(f"run {run.info.run_id} has no commit (it was trained outside git); it cannot be verified")
    cache = project / CACHE
    cache.mkdir(exist_ok=True)
    for leftover in cache.glob(f"{SCRATCH_PREFIX}*"):  # of a verification that was killed
        shutil.rmtree(leftover, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=SCRATCH_PREFIX, dir=cache) as scratch:
        copy = dvc_repo.clone_at_commit(
            project, commit, _download_patch(client, run, Path(scratch)), Path(scratch) / "copy"
        )
        weights = _read_logged_digest(run)  # fails before hours of training, not after
        logger.info("verify: commit %s is checked out; running all stages", commit[:12])
        dvc_repo.force_repro(copy, {"MLFLOW_TRACKING_URI": f"{SQLITE}{copy / DATABASE}"})
        reproduced = _select_metrics(_open_reproduced_run(copy))
        same_weights = weights == _read_weights_digest(copy / CLASSIFIER)
    return VerifyResult(run.info.run_id, commit, _select_metrics(run), reproduced, same_weights, tolerance)


def check_reproducible(run: Run) -> None:
    """Raise UserError for a sweep or one of its trainings, whose values are in no commit."""
    remedy = "`dvc repro` trains the best values, which are in params.yaml, as a run that `convoy verify` accepts"
    if SWEEP_TAG in run.data.tags:
        raise UserError(f"run {run.info.run_id} is a sweep, which trains many times; {remedy}")
    if TRIAL_TAG in run.data.tags:
        sweep = run.data.tags.get(PARENT_RUN_TAG)
        raise UserError(
            f"run {run.info.run_id} is a training of the sweep {sweep}, and no commit holds its values; {remedy}"
        )


def _download_patch(client: MlflowClient, run: Run, scratch: Path) -> Path | None:
    from mlflow.exceptions import MlflowException

    try:
        return Path(client.download_artifacts(run.info.run_id, PATCH_ARTIFACT, str(scratch)))
    except (MlflowException, OSError):
        return None


def _open_reproduced_run(copy: Path) -> Run:
    from mlflow import MlflowClient

    run_id = json.loads((copy / CLASSIFIER / "run.json").read_text(encoding="utf-8"))["run_id"]
    return MlflowClient(f"{SQLITE}{copy / DATABASE}").get_run(run_id)


def _select_metrics(run: Run) -> dict[str, float]:
    return {name: value for name, value in run.data.metrics.items() if name.startswith(METRIC_PREFIXES)}


def _read_logged_digest(run: Run) -> str:
    from mlflow.artifacts import download_artifacts

    return _read_weights_digest(
        Path(download_artifacts(model_registry.find_model_uri(run))) / "artifacts" / "bundle"
    )


def _read_weights_digest(bundle: Path) -> str:
    return str(json.loads((bundle / "bundle.json").read_text(encoding="utf-8"))["weights_sha256"])
