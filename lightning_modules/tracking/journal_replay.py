"""Apply the entries of an offline journal to an MLflow run. Each one is idempotent."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlflow import MlflowClient

MAX_PARAM_LENGTH = 6000  # mlflow.utils.validation.MAX_PARAM_VAL_LENGTH


def apply_entry(client: "MlflowClient", run_id: str, entry: Mapping[str, Any], folder: Path = Path()) -> Any:
    """Send one thing that a run is told; twice is as good as once.

    Args:
        entry: {"do": "params" | "metrics" | "dataset" | "artifact" | "model" | "status", ...}.
        folder: that a path in `entry["file"]` begins in.
    """
    match entry["do"]:
        case "params":
            _apply_params(client, run_id, entry["params"])
        case "metrics":
            _apply_metrics(client, run_id, entry)
        case "dataset":
            _apply_dataset(client, run_id, entry)
        case "artifact":
            client.log_artifact(run_id, str(folder / entry["file"]), entry["to"])
        case "model":
            from lightning_modules.tracking.model_logging import upload_model

            return upload_model(client, run_id, folder / entry["file"])
        case "status" if entry["status"] == "RUNNING":
            client.update_run(run_id, status="RUNNING")
        case "status":
            client.set_terminated(run_id, status=entry["status"], end_time=entry["at"])
    return None


def _apply_params(client: "MlflowClient", run_id: str, params: Mapping[str, str]) -> None:
    from mlflow.entities import Param

    entries = [Param(key, value[:MAX_PARAM_LENGTH]) for key, value in params.items()]
    for start in range(0, len(entries), 100):  # the most that one batch takes
        client.log_batch(run_id, params=entries[start : start + 100])


def _apply_metrics(client: "MlflowClient", run_id: str, entry: Mapping[str, Any]) -> None:
    from mlflow.entities import Metric, RunTag

    metrics = [Metric(name, value, entry["at"], entry["step"]) for name, value in entry["metrics"].items()]
    client.log_batch(run_id, metrics=metrics, tags=[RunTag(name, text) for name, text in entry["tags"].items()])


def _apply_dataset(client: "MlflowClient", run_id: str, entry: Mapping[str, Any]) -> None:
    from mlflow.data.dataset_source_registry import resolve_dataset_source
    from mlflow.data.meta_dataset import MetaDataset
    from mlflow.entities import DatasetInput, InputTag

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # two of its readers would take a local path; either is right
        source = resolve_dataset_source(entry["path"])
    dataset = MetaDataset(source, name=entry["name"], digest=entry["digest"])  # type: ignore[abstract]
    tags = [InputTag("mlflow.data.context", entry["context"])]
    client.log_inputs(run_id, [DatasetInput(dataset._to_mlflow_entity(), tags)])
