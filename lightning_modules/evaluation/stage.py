"""The stage `evaluate`: test the trained bundle, write metrics and report, and log both to MLflow."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from imageset.exceptions import UserError
from imageset.store.reader import ImageStore, StoreSplit
from imageset.utils.atomic_write import write_bytes
from imageset.utils.file_lock import output_lock
from lightning_modules.bundle import Bundle
from lightning_modules.classifier import Classifier
from lightning_modules.datamodule import ImageDataModule
from lightning_modules.evaluation.params import KNOWN_PARAMS, EvaluationParams
from lightning_modules.evaluation.report import EvaluationReport, ScoredSplit, evaluate_split
from lightning_modules.evaluation.slices import check_slice_columns
from lightning_modules.features.out_of_fold import OutOfFoldPredictions
from lightning_modules.networks.preprocessing import Normalize
from lightning_modules.tracking.metric_logging import (
    log_artifacts,
    log_final_metrics,
    name_metrics,
    open_training_run,
)
from lightning_modules.tracking.tags import REPORT_FOLDER
from lightning_modules.training.cli import build_stage


class BundleClassifier(Classifier):
    """A trained bundle as a LightningModule that can only be tested, and that keeps the logits.

    Args:
        bundle: the folder of the bundle.
    """

    def __init__(self, bundle: str) -> None:
        super(Classifier, self).__init__()  # skips Classifier.__init__, which would build a network to train
        self.bundle = Bundle.load(bundle)
        self.folder = Path(bundle)
        self.normalize = Normalize(self.bundle.info.mean, self.bundle.info.std)
        self.network = self.bundle.network
        self.multi_label = self.bundle.info.multi_label
        self.logits: dict[str, list[Tensor]] = {"test": [], "val": []}

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Log the metrics of a test batch, and keep its logits."""
        images, labels = batch
        logits = self(images)
        self._log_metrics("test", logits, labels)
        self.logits["test"].append(logits.float().cpu())

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Keep the logits of a validation batch."""
        self.logits["val"].append(self(batch[0]).float().cpu())

    def to_scored_split(self, name: str, split: StoreSplit) -> ScoredSplit:
        """Return a split with the logits that were kept for it, in the split's order."""
        rows = self.logits[name] or [torch.empty(0, len(self.bundle.info.classes))]
        info = self.bundle.info
        return ScoredSplit(split, torch.cat(rows).numpy(), info.temperature, info.thresholds, info.abstain_below)


def evaluate(project: Path) -> None:
    """Test the bundle, and write metrics.json and `data/models/report/`.

    Raises:
        UserError: a parameter is invalid, or there is no bundle with the classes of the dataset.
    """
    path = project / "params.yaml"
    params = EvaluationParams.from_params_file(path)
    cli = build_stage("evaluate", BundleClassifier, ImageDataModule, path, stage_keys=KNOWN_PARAMS)
    model, store = cli.model, cli.datamodule.store
    check_slice_columns(params.slices, store.index)
    check_bundle_fits(model, store)
    cli.trainer.test(model, cli.datamodule, verbose=False)
    values = {name: float(value) for name, value in cli.trainer.callback_metrics.items()}
    audited = select_out_of_fold_splits(model.folder, store)
    if audited is None:
        cli.trainer.validate(model, cli.datamodule, verbose=False)
        audited = [model.to_scored_split("val", store.split("val"))]

    test = model.to_scored_split("test", store.split("test"))
    report = evaluate_split(test, [test, *audited], params)
    lightning_metrics = {name: values[f"test_{name}"] for name in ("accuracy", "loss")}
    report.metrics["test"] = lightning_metrics | report.metrics["test"]
    folder = project / "data" / "models" / "report"
    metrics = (json.dumps(report.metrics, indent=2, allow_nan=False) + "\n").encode()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with output_lock(folder, lambda line: print(f"evaluate: {line}", flush=True)):
        for name, content in report.files.items():
            write_bytes(folder / name, content)
        write_bytes(project / "metrics.json", metrics)
    log_report(project, model.folder, report, folder)
    for warning in report.warnings:
        print(f"evaluate: warning: {warning}", flush=True)
    print(f"evaluate: {report.summarize()}; metrics.json and {folder.relative_to(project)} written", flush=True)


def select_out_of_fold_splits(bundle: Path, store: ImageStore) -> list[ScoredSplit] | None:
    """Return the training and the validation split with predictions that do not know their labels.

    Args:
        bundle: the folder of the bundle.
        store: the dataset; a split is left out if the training has not predicted all of its images.

    Returns:
        None if the training kept no out-of-fold predictions.
    """
    predictions = OutOfFoldPredictions.load(bundle)
    if predictions is None:
        return None
    splits = [store.split("train"), store.split("val")]
    logits = [predictions.select(split.image_ids) for split in splits]
    return [
        ScoredSplit(split, rows, predictions.temperature, predictions.thresholds)
        for split, rows in zip(splits, logits, strict=True)
        if rows is not None
    ]


def check_bundle_fits(model: BundleClassifier, store: ImageStore) -> None:
    """Raise UserError if the dataset has other classes than the bundle, or no test images."""
    if model.multi_label != store.multi_label:
        kinds = ("one label a picture", "several labels a picture")
        raise UserError(
            f"{model.folder}: trained for {kinds[model.multi_label]}, the dataset has {kinds[store.multi_label]}; "
            "train again with `dvc repro -f train`"
        )
    if tuple(model.bundle.info.classes) != tuple(store.classes):
        raise UserError(
            f"{model.folder}: trained for the classes {list(model.bundle.info.classes)}, the dataset has "
            f"{list(store.classes)}; train again with `dvc repro -f train`"
        )
    if not store.counts["test"]:
        raise UserError(f"{store.path}: no test pictures; raise normalize.split.test in params.yaml")


def log_report(project: Path, bundle: Path, report: EvaluationReport, folder: Path) -> None:
    """Log the test metrics and the files of the report to the MLflow run of the training.

    Args:
        project: the project's folder.
        bundle: the folder of the bundle.
        report: the metrics, and the names of the files.
        folder: holds the files.

    Raises:
        UserError: MLflow lacks that run, and the bundle that it would be restored from is damaged.
    """
    run = open_training_run(project, bundle)
    log_final_metrics(run, flatten_metrics(report.metrics))
    log_artifacts(run, [folder / name for name in report.files], REPORT_FOLDER)
    run.detach()


def flatten_metrics(metrics: dict[str, Any]) -> dict[str, float]:
    """Return the content of metrics.json by MLflow's flat names: `test_accuracy_low`, `recall_CLASS`, ..."""
    numbers: dict[str, float] = {f"test_{name}": value for name, value in metrics["test"].items()}
    for name, interval in metrics["interval"].items():
        numbers |= {f"test_{name}_{end}": value for end, value in interval.items()}
    for name in ("recall", "precision", "f1", "auroc", "average_precision"):
        values = metrics.get(name, {})
        metric_names = name_metrics(values)
        numbers |= {f"{name}_{metric_names[label]}": value for label, value in values.items()}
    columns = name_metrics(metrics["slices"])
    for column, entries in metrics["slices"].items():
        metric_names = name_metrics(entries)
        numbers |= {
            f"slice_{columns[column]}_{metric_names[value]}": entry["accuracy"] for value, entry in entries.items()
        }
    abstention = {f"abstention_{name}": value for name, value in metrics.get("abstention", {}).items()}
    return numbers | abstention | {"num_test": metrics["num_test"], "label_issues": metrics["label_issues"]}
