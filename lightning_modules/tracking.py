"""MLflow runs of trainings: where they are kept, how one is opened, fed and closed."""

import math
import os
import re
import socket
import time
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from imageset.credentials import mask, scrubbed
from imageset.errors import UserError

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # by default a server that is away blocks for minutes
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "GIT_PYTHON_REFRESH": "quiet",
}
PORTS = {"http": 80, "https": 443, "postgresql": 5432, "mysql": 3306, "mssql": 1433}
PROBE_S = 2.0  # what a server gets to accept a connection
CAUSE = re.compile(r"\[Errno -?\d+\] ([\w ]+)|(timed out|Connection refused)")  # at the end of a long story
MODEL_TAG = "convoy.model"  # of a run: the id of its model, once that is whole
MAX_PARAM_LENGTH = 6000  # mlflow.utils.validation.MAX_PARAM_VAL_LENGTH


def tracking_uri(project: Path) -> str:
    """`MLFLOW_TRACKING_URI`, else the SQLite file `mlflow.db` of the project as an absolute URI."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{project.resolve() / 'mlflow.db'}"


def connect(project: Path) -> "MlflowClient":
    """A client for the project's MLflow store; the whole process then uses that store.

    Raises:
        UserError: the store cannot be opened or the server does not answer.
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    import logging

    import mlflow

    for noisy in ("alembic", "mlflow.store.db.utils", "mlflow.pyfunc", "mlflow.store.model_registry"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    uri, registry = tracking_uri(project), os.environ.get("MLFLOW_REGISTRY_URI")
    named = {name: os.environ.get(name) for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI")}
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(registry or uri)
    for variable, before in named.items():
        if before is None:  # MLflow has just set it; the next project in this process has a store of its own
            os.environ.pop(variable, None)
    begin = time.monotonic()
    try:
        reach(uri)  # MLflow itself would try a database for minutes
        client = mlflow.MlflowClient()
        client.search_experiments(max_results=1)
    except Exception as error:
        raise UserError(
            f"MLflow at {mask(uri)} {why_not(error)} (tried for {time.monotonic() - begin:.0f} s); "
            "start it, or set MLFLOW_TRACKING_URI to another"
        ) from error
    return client


def why_not(error: Exception) -> str:
    """That MLflow's server does not answer or refuses, in words, without a password."""
    said = scrubbed(" ".join(str(error).split()))
    if re.search(r"\b401\b|Unauthenticated|not authenticated", said):
        return "wants a login: set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
    if re.search(r"error code 403|Permission denied$", said):
        return f"refuses this login ({said[:200]})"
    cause = CAUSE.search(said)
    return f"does not answer: {(cause[1] or cause[2]).strip() if cause else said[:200]}"


def reach(uri: str) -> None:
    """See that somebody accepts connections at the host of a URI. Of a file, a scheme that is not known, and
    behind a proxy, that cannot be said.

    Raises:
        OSError: nobody does.
    """
    parts = urlsplit(uri)
    scheme = parts.scheme.partition("+")[0]
    proxies = ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy")
    if scheme in PORTS and not (scheme.startswith("http") and any(os.environ.get(name) for name in proxies)):
        place = parts.hostname or "", parts.port or PORTS[scheme]
        socket.create_connection(place, timeout=PROBE_S).close()


def accepts(uri: str) -> bool:
    """False if nobody accepts connections there, see `reach`."""
    try:
        reach(uri)
    except (OSError, ValueError):
        return False
    return True


def is_shared() -> bool:
    """Whether other projects and machines may use the same MLflow: its address is set."""
    return any(os.environ.get(name) for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"))


def experiment_id(client: "MlflowClient", name: str, project: Path) -> str:
    """The experiment of that name; a new one in a local store keeps its artifacts in `mlartifacts/`.

    Raises:
        UserError: an experiment of that name was deleted.
    """
    found = client.get_experiment_by_name(name)
    if found is not None:
        if found.lifecycle_stage != "active":
            raise UserError(
                f"MLflow's experiment {name!r} is deleted; "
                f"restore it with `mlflow experiments restore -x {found.experiment_id}`"
            )
        return str(found.experiment_id)
    local = tracking_uri(project).startswith("sqlite:")
    location = (project.resolve() / "mlartifacts" / name).as_uri() if local else None
    kind = {"mlflow.experimentKind": "custom_model_development"}  # the UI then opens on runs, not on traces
    return str(client.create_experiment(name, artifact_location=location, tags=kind))


class TrackedRun:
    """One training as one MLflow run; metrics are written an epoch at a time.

    Args:
        client: from `connect`.
        run: the MLflow run that is written to.
    """

    def __init__(self, client: "MlflowClient", run: "Run") -> None:
        self.client = client
        self.run_id: str = run.info.run_id
        self.experiment_id: str = run.info.experiment_id

    @classmethod
    def open(
        cls, client: "MlflowClient", experiment: str, run_id: str | None, name: str, tags: Mapping[str, str]
    ) -> "TrackedRun":
        """Go on with the run `run_id` if MLflow still has it, else start a new one called `name`."""
        from mlflow.exceptions import MlflowException
        from mlflow.tracking.context.registry import resolve_tags

        if run_id is not None:
            try:
                run = client.get_run(run_id)
                if run.info.lifecycle_stage == "active":
                    client.update_run(run_id, status="RUNNING")
                    return cls(client, run)
            except MlflowException:
                pass  # the store was changed or emptied since: a new run
        # a name of our own: MLflow draws one at random, and after seed_everything always the same
        return cls(client, client.create_run(experiment, tags=resolve_tags(dict(tags)), run_name=name))

    def do(self, entry: dict[str, Any], *paths: Path) -> Any:
        """Send one thing to MLflow, see `send`; `paths` are the files it is about."""
        return send(self.client, self.run_id, {**entry, "file": str(paths[0])} if paths else entry)

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Every leaf of a nested mapping as `outer.inner`, in one write."""
        self.do({"do": "params", "params": {key: str(value) for key, value in flatten(params)}})

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """All metrics of one step in one write. What is not finite becomes the tag `not_finite.NAME`:
        MLflow would store infinity as a number and sort it first."""
        finite = {k: float(v) for k, v in metrics.items() if math.isfinite(v)}
        tags = {f"not_finite.{k}": f"{v} at step {step}" for k, v in metrics.items() if not math.isfinite(v)}
        now = time.time_ns() // 1_000_000
        self.do({"do": "metrics", "metrics": finite, "tags": tags, "step": step, "at": now})

    def log_artifact(self, path: Path, folder: str) -> None:
        """A file, in one of the run's folders."""
        self.do({"do": "artifact", "to": folder}, path)

    def is_of(self, run_id: str | None) -> bool:
        """True if this is the run that is called so."""
        return run_id == self.run_id

    def last_step(self, metric: str) -> int:
        """The last step that `metric` was logged at, -1 if never."""
        history = self.client.get_metric_history(self.run_id, metric)
        return max((entry.step for entry in history), default=-1)

    def log_dataset(self, name: str, digest: str, path: Path, context: str) -> None:
        """The dataset as an MLflow dataset input; runs can be searched by `dataset.digest`."""
        self.do({"do": "dataset", "name": name, "digest": digest, "path": str(path), "context": context})

    def close(self, status: str) -> None:
        """End the run as FINISHED, FAILED or KILLED."""
        self.do({"do": "status", "status": status, "at": time.time_ns() // 1_000_000})

    def leave(self) -> None:
        """Said when this process logs no more to a run that it does not end."""


def send(client: "MlflowClient", run_id: str, entry: Mapping[str, Any], folder: Path = Path()) -> Any:
    """Send one thing that a run is told; twice is as good as once.

    Args:
        entry: {"do": "params" | "metrics" | "dataset" | "artifact" | "model" | "status", ...}.
        folder: that a path in `entry["file"]` begins in.
    """
    match entry["do"]:
        case "params":
            _send_params(client, run_id, entry["params"])
        case "metrics":
            _send_metrics(client, run_id, entry)
        case "dataset":
            _send_dataset(client, run_id, entry)
        case "artifact":
            client.log_artifact(run_id, str(folder / entry["file"]), entry["to"])
        case "model":
            from lightning_modules.registered import send_model

            return send_model(client, run_id, folder / entry["file"])
        case "status" if entry["status"] == "RUNNING":
            client.update_run(run_id, status="RUNNING")
        case "status":
            client.set_terminated(run_id, status=entry["status"], end_time=entry["at"])
    return None


def _send_params(client: "MlflowClient", run_id: str, params: Mapping[str, str]) -> None:
    from mlflow.entities import Param

    entries = [Param(key, value[:MAX_PARAM_LENGTH]) for key, value in params.items()]
    for start in range(0, len(entries), 100):  # the most that one batch takes
        client.log_batch(run_id, params=entries[start : start + 100])


def _send_metrics(client: "MlflowClient", run_id: str, entry: Mapping[str, Any]) -> None:
    from mlflow.entities import Metric, RunTag

    metrics = [Metric(name, value, entry["at"], entry["step"]) for name, value in entry["metrics"].items()]
    client.log_batch(run_id, metrics=metrics, tags=[RunTag(name, text) for name, text in entry["tags"].items()])


def _send_dataset(client: "MlflowClient", run_id: str, entry: Mapping[str, Any]) -> None:
    from mlflow.data.dataset_source_registry import resolve_dataset_source
    from mlflow.data.meta_dataset import MetaDataset
    from mlflow.entities import DatasetInput, InputTag

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # two of its readers would take a local path; either is right
        source = resolve_dataset_source(entry["path"])
    dataset = MetaDataset(source, name=entry["name"], digest=entry["digest"])  # type: ignore[abstract]
    tags = [InputTag("mlflow.data.context", entry["context"])]
    client.log_inputs(run_id, [DatasetInput(dataset._to_mlflow_entity(), tags)])


def flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of nested mappings, with dotted names."""
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
