"""One training as one MLflow run: open it, log to it, close it."""

import math
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imageset.exceptions import UserError
from lightning_modules.tracking.client import DELETED_RUN, describe_deleted_run
from lightning_modules.tracking.journal_replay import apply_entry
from lightning_modules.tracking.tags import NOT_FINITE_PREFIX

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run


class TrackedRun:
    """One training as one MLflow run; metrics are written an epoch at a time.

    Args:
        client: from `connect_to_mlflow`.
        run: the MLflow run to write to.
    """

    def __init__(self, client: "MlflowClient", run: "Run") -> None:
        self.client = client
        self.run_id: str = run.info.run_id
        self.experiment_id: str = run.info.experiment_id

    @classmethod
    def open(
        cls, client: "MlflowClient", experiment: str, run_id: str | None, name: str, tags: Mapping[str, str]
    ) -> "TrackedRun":
        """Resume the run `run_id` if MLflow still has it, else create a run called `name`."""
        from mlflow.exceptions import MlflowException
        from mlflow.tracking.context.registry import resolve_tags

        if run_id is not None:
            try:
                run = client.get_run(run_id)
                if run.info.lifecycle_stage == "active":
                    client.update_run(run_id, status="RUNNING")
                    return cls(client, run)
            except MlflowException:
                pass  # the store was replaced or emptied since; create a run
        # Without a name MLflow draws one at random, and after seed_everything always the same.
        return cls(client, client.create_run(experiment, tags=resolve_tags(dict(tags)), run_name=name))

    def log_entry(self, entry: dict[str, Any], *paths: Path) -> Any:
        """Apply one journal entry to the run; see `apply_entry`.

        Args:
            entry: the entry, without "file".
            paths: the files or folders that belong to the entry; the first becomes its "file".

        Returns:
            The URI of the model for an entry "model", else None.

        Raises:
            UserError: somebody deleted the run.
        """
        from mlflow.exceptions import MlflowException

        try:
            return apply_entry(self.client, self.run_id, {**entry, "file": str(paths[0])} if paths else entry)
        except MlflowException as error:
            if DELETED_RUN.search(str(error)):
                raise UserError(describe_deleted_run(self.run_id, self.client.tracking_uri)) from None
            raise

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Log every leaf of a nested mapping as `outer.inner`, in one write."""
        self.log_entry({"do": "params", "params": format_params(params)})

    def log_metrics(self, metrics: Mapping[str, float], step: int, *, final: bool = False) -> None:
        """Log all metrics of one step in one write; a step that a metric has already is left as it is.

        A value that is not finite becomes the tag `not_finite.NAME`: MLflow would store infinity as a number and
        sort it first.

        Args:
            metrics: values by name.
            step: the epoch, or 0.
            final: whether the metrics have no curve, as those of a test; another value than the last one, as of a
                test with other parameters, is then logged at the next step.
        """
        finite = {k: float(v) for k, v in metrics.items() if math.isfinite(v)}
        tags = {
            f"{NOT_FINITE_PREFIX}{k}": f"{v} at step {step}" for k, v in metrics.items() if not math.isfinite(v)
        }
        now = time.time_ns() // 1_000_000
        entry = {"do": "metrics", "metrics": finite, "tags": tags, "step": step, "at": now}
        self.log_entry({**entry, "final": True} if final else entry)

    def log_artifact(self, path: Path, folder: str) -> None:
        """Log a file as an artifact, in one of the run's folders."""
        self.log_entry({"do": "artifact", "to": folder}, path)

    def has_id(self, run_id: str | None) -> bool:
        """Return whether `run_id` is an id of this run."""
        return run_id == self.run_id

    def last_step(self, metric: str) -> int:
        """Return the last step at which `metric` was logged, -1 if never."""
        history = self.client.get_metric_history(self.run_id, metric)
        return max((entry.step for entry in history), default=-1)

    def log_dataset(self, name: str, digest: str, path: Path, context: str) -> None:
        """Log the dataset as an MLflow dataset input; runs can be searched by `dataset.digest`."""
        self.log_entry({"do": "dataset", "name": name, "digest": digest, "path": str(path), "context": context})

    def close(self, status: str) -> None:
        """End the run as FINISHED, FAILED or KILLED."""
        self.log_entry({"do": "status", "status": status, "at": time.time_ns() // 1_000_000})

    def detach(self) -> None:
        """Stop logging from this process without ending the run."""


def format_params(params: Mapping[str, Any]) -> dict[str, str]:
    """Return every leaf of a nested mapping as text, by `outer.inner`, as MLflow keeps parameters."""
    return {key: str(value) for key, value in flatten_params(params)}


def flatten_params(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the leaves of nested mappings, with dotted names."""
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from flatten_params(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
