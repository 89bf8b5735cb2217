"""Verify: train a run once more, from its commit, in a scratch folder, and see whether the same comes of it."""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from flows import console, registry, versioning
from flows.project import CACHE, CLASSIFIER
from flows.trials import PARENT_RUN, SWEEP, TRIAL
from imageset.errors import UserError
from lightning_modules.provenance import COMMIT, PATCH

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

logger = console.get_logger(__name__)

SCRATCH = "verify-"
MEASURED = ("test_", "recall_", "best_", "num_test")  # of the metrics of a run: what comes out at its end


@dataclass(frozen=True)
class Verified:
    """The metrics of a run and of its reproduction."""

    run_id: str
    commit: str
    first: dict[str, float]
    again: dict[str, float]
    same_weights: bool
    tolerance: float

    @property
    def agrees(self) -> bool:
        """No metric is missing or further off than the tolerance."""
        return self.first.keys() == self.again.keys() and not self.different

    @property
    def different(self) -> list[str]:
        """Metrics that are further off than the tolerance."""
        both = sorted(self.first.keys() & self.again.keys())
        return [name for name in both if not abs(self.first[name] - self.again[name]) <= self.tolerance]

    def __str__(self) -> str:
        weights = "the same weights" if self.same_weights else "other weights"
        head = f"run {self.run_id}, commit {self.commit[:12]}"
        if self.agrees:
            exactly = "to the last digit" if self.first == self.again else f"within {self.tolerance:g}"
            return f"{head}: reproduced; {len(self.first)} metrics agree {exactly}, {weights}"
        missing = sorted(self.first.keys() ^ self.again.keys())
        lines = [f"{head}: NOT reproduced, {weights}"]
        lines += [
            f"  {name:<24}{self.first[name]:.6f} then, {self.again[name]:.6f} now" for name in self.different
        ]
        return "\n".join([*lines, *(f"  {name}: in one of the two only" for name in missing)])


def verify(project: Path, run_id: str, tolerance: float = 0.0) -> Verified:
    """Check out the commit of a run and what differed from it, link DVC's cache, run all stages, compare.

    Raises:
        UserError: no such run, nothing is known of its commit, the commit or the data is not here.
        StageFailed: a stage failed.
    """
    client = registry.connect(project)
    run = registry.finished_run(client, run_id)
    check_that_a_commit_makes_it(run)
    commit = run.data.tags.get(COMMIT)
    if commit is None:
        raise UserError(
            f"run {run.info.run_id} says no commit (it was trained outside git); it cannot be verified"
        )
    cache = project / CACHE
    cache.mkdir(exist_ok=True)
    for left in cache.glob(f"{SCRATCH}*"):  # of a verification that was killed
        shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=SCRATCH, dir=cache) as scratch:
        copy = versioning.check_out(project, commit, _patch(client, run, Path(scratch)), Path(scratch) / "copy")
        weights = _weights(run)  # what cannot be compared is said before hours of training
        logger.info("verify: commit %s is checked out; running all stages", commit[:12])
        versioning.reproduce(copy, {"MLFLOW_TRACKING_URI": f"sqlite:///{copy / 'mlflow.db'}"})
        again = _measured(_run_of(copy))
        same = weights == _weights_in(copy / CLASSIFIER)
    return Verified(run.info.run_id, commit, _measured(run), again, same, tolerance)


def check_that_a_commit_makes_it(run: Run) -> None:
    """Raise UserError for a sweep, and for a training of one: it ran in a folder that git ignores, with numbers
    that no commit holds."""
    best = "`dvc repro` trains the best numbers, which are in params.yaml, as a run that `convoy verify` takes"
    if SWEEP in run.data.tags:
        raise UserError(f"run {run.info.run_id} is a sweep, which trains many times; {best}")
    if TRIAL in run.data.tags:
        of = f"a training of the sweep {run.data.tags.get(PARENT_RUN)}"
        raise UserError(f"run {run.info.run_id} is {of}, and no commit holds its numbers; {best}")


def _patch(client: MlflowClient, run: Run, scratch: Path) -> Path | None:
    from mlflow.exceptions import MlflowException

    try:
        return Path(client.download_artifacts(run.info.run_id, PATCH, str(scratch)))
    except (MlflowException, OSError):
        return None


def _run_of(copy: Path) -> Run:
    from mlflow import MlflowClient

    run_id = json.loads((copy / CLASSIFIER / "run.json").read_text(encoding="utf-8"))["run_id"]
    return MlflowClient(f"sqlite:///{copy / 'mlflow.db'}").get_run(run_id)


def _measured(run: Run) -> dict[str, float]:
    return {name: value for name, value in run.data.metrics.items() if name.startswith(MEASURED)}


def _weights(run: Run) -> str:
    from mlflow.artifacts import download_artifacts

    return _weights_in(Path(download_artifacts(registry.model_of_run(run))) / "artifacts" / "bundle")


def _weights_in(bundle: Path) -> str:
    return str(json.loads((bundle / "bundle.json").read_text(encoding="utf-8"))["weights_sha256"])
