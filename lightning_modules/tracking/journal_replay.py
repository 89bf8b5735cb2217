"""Apply the entries of a journal to an MLflow run. Applying an entry twice has the effect of applying it once.

A curve has one point at each step: a training that resumes before a step that is logged does not log it again.
"""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlflow import MlflowClient

MAX_PARAM_LENGTH = 6000  # mlflow.utils.validation.MAX_PARAM_VAL_LENGTH
MAX_PARAMS_PER_BATCH = 100  # mlflow.utils.validation.MAX_PARAMS_TAGS_PER_BATCH


def apply_entry(client: "MlflowClient", run_id: str, entry: Mapping[str, Any], folder: Path = Path()) -> Any:
    """Apply one journal entry to an MLflow run. Idempotent.

    Args:
        client: from `connect_to_mlflow`.
        run_id: MLflow's id of the run.
        entry: {"do": "params" | "metrics" | "dataset" | "artifact" | "model" | "status", ...}.
        folder: the folder to which the path in `entry["file"]` is relative.

    Returns:
        The URI of the model for an entry "model", else None.
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
    for start in range(0, len(entries), MAX_PARAMS_PER_BATCH):
        client.log_batch(run_id, params=entries[start : start + MAX_PARAMS_PER_BATCH])


def _apply_metrics(client: "MlflowClient", run_id: str, entry: Mapping[str, Any]) -> None:
    from mlflow.entities import Metric, RunTag

    metrics = []
    # Only the message of MLflow's API holds the step of each metric's latest point; read in mlflow 3.17.2.
    latest = {point.key: point for point in client.get_run(run_id).data.to_proto().metrics}
    for name, value in entry["metrics"].items():
        step, known = entry["step"], latest.get(name)
        if entry.get("final") and known is not None:
            if known.value == value:
                continue
            step = known.step + 1  # measured again, with another result
        elif known is not None and _has_point(client, run_id, name, step, known.step):
            continue
        metrics.append(Metric(name, value, entry["at"], step))
    client.log_batch(run_id, metrics=metrics, tags=[RunTag(name, text) for name, text in entry["tags"].items()])


def _has_point(client: "MlflowClient", run_id: str, metric: str, step: int, last_step: int) -> bool:
    if step >= last_step:
        return step == last_step
    return any(point.step == step for point in client.get_metric_history(run_id, metric))


def _apply_dataset(client: "MlflowClient", run_id: str, entry: Mapping[str, Any]) -> None:
    from mlflow.data.dataset_source_registry import resolve_dataset_source
    from mlflow.data.meta_dataset import MetaDataset
    from mlflow.entities import DatasetInput, InputTag

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # two of MLflow's readers accept a local path; both give the same source
        source = resolve_dataset_source(entry["path"])
    dataset = MetaDataset(source, name=entry["name"], digest=entry["digest"])  # type: ignore[abstract]
    tags = [InputTag("mlflow.data.context", entry["context"])]
    # Dataset._to_mlflow_entity is private API, read in mlflow 3.17.2: log_inputs takes only such entities.
    client.log_inputs(run_id, [DatasetInput(dataset._to_mlflow_entity(), tags)])
