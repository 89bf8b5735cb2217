"""The stage `evaluate`: the trained bundle on the test split; numbers, pictures, and both into MLflow."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from imageset.atomic import write_bytes
from imageset.errors import UserError
from lightning_modules.bundle import Bundle
from lightning_modules.classifier import Classifier, Normalize
from lightning_modules.cli import build_stage
from lightning_modules.datamodule import ImageDataModule
from lightning_modules.tracking import TrackedRun, connect


class BundleClassifier(Classifier):
    """A trained bundle as a LightningModule that only tests, and keeps what it predicted.

    Args:
        bundle: folder of the bundle.
    """

    def __init__(self, bundle: str) -> None:
        super(Classifier, self).__init__()
        self.bundle = Bundle.load(bundle)
        self.folder = Path(bundle)
        self.normalize = Normalize(self.bundle.info.mean, self.bundle.info.std)
        self.network = self.bundle.network
        self.seen: list[tuple[Tensor, Tensor]] = []

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        images, labels = batch
        logits = self(images)
        self._log("test", logits, labels)
        self.seen.append((logits.float().softmax(1).cpu(), labels.cpu()))


def test(project: Path) -> None:
    """Test the bundle and write metrics.json and `data/models/report/`.

    Raises:
        UserError: a wrong setting, no bundle, or one whose classes are not those of the dataset.
    """
    cli = build_stage("evaluate", BundleClassifier, ImageDataModule, project / "params.yaml")
    model, store = cli.model, cli.datamodule.store
    if tuple(model.bundle.info.classes) != tuple(store.classes):
        raise UserError(
            f"{model.folder}: trained for the classes {list(model.bundle.info.classes)}, the dataset has "
            f"{list(store.classes)}; train again with `dvc repro -f train`"
        )
    cli.trainer.test(model, cli.datamodule, verbose=False)
    values = {name: float(value) for name, value in cli.trainer.callback_metrics.items()}
    probabilities = torch.cat([p for p, _ in model.seen]).numpy()
    labels = torch.cat([y for _, y in model.seen]).numpy()

    confusion = confusion_matrix(labels, probabilities.argmax(1), len(store.classes))
    metrics = summary(values, confusion, store.classes) | {"num_test": len(labels)}
    report = project / "data" / "models" / "report"
    report.mkdir(parents=True, exist_ok=True)
    write_bytes(report / "predictions.csv", predictions_csv(store, labels, probabilities))
    write_bytes(report / "confusion_matrix.png", confusion_png(confusion, store.classes))
    write_bytes(project / "metrics.json", (json.dumps(metrics, indent=2) + "\n").encode())
    log_report(project, model.folder, metrics, report)
    print(
        f"evaluate: test accuracy {metrics['test']['accuracy']:.4f}, test loss {metrics['test']['loss']:.4f} "
        f"over {len(labels)} pictures; metrics.json and {report.relative_to(project)} written",
        flush=True,
    )


def confusion_matrix(labels: np.ndarray, predicted: np.ndarray, num_classes: int) -> np.ndarray:
    """Counts int64 (num_classes, num_classes): row = true class, column = predicted class."""
    cells = np.bincount(labels * num_classes + predicted, minlength=num_classes**2)
    return cells.reshape(num_classes, num_classes)


def summary(values: dict[str, float], confusion: np.ndarray, classes: tuple[str, ...]) -> dict[str, Any]:
    """The numbers of metrics.json. A class without test pictures has no recall."""
    right = confusion.diagonal()
    recall = {name: float(right[i] / confusion[i].sum()) for i, name in enumerate(classes) if confusion[i].sum()}
    # no metric is called `error`: DVC takes that name for a revision that failed to load
    test = {name: values[f"test_{name}"] for name in ("accuracy", "loss")}
    test["macro_recall"] = float(np.mean(list(recall.values())))
    return {"test": test, "recall": recall}


def predictions_csv(store: Any, labels: np.ndarray, probabilities: np.ndarray) -> bytes:
    """One row a test picture; the columns `actual` and `predicted` feed DVC's confusion plot."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["image_id", "actual", "predicted", "probability"])
    for image_id, label, row in zip(store.split("test").image_ids, labels, probabilities, strict=True):
        best = int(row.argmax())
        writer.writerow([image_id, store.classes[label], store.classes[best], f"{row[best]:.6f}"])
    return text.getvalue().encode()


def confusion_png(confusion: np.ndarray, classes: tuple[str, ...]) -> bytes:
    """The confusion matrix as a picture: colour = share of the true class, number = pictures."""
    from matplotlib.figure import Figure

    side = min(24.0, 2.5 + 0.45 * len(classes))
    figure = Figure(figsize=(side, side), dpi=110, layout="constrained")
    axes = figure.subplots()
    share = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    ticks = range(len(classes))
    axes.set_xticks(ticks, classes, rotation=90)
    axes.set_yticks(ticks, classes)
    axes.set_xlabel("predicted")
    axes.set_ylabel("actual")
    axes.set_title(f"{int(confusion.diagonal().sum())} of {int(confusion.sum())} test pictures right")
    if len(classes) <= 40:
        for row, column in np.argwhere(confusion):
            dark = share[row, column] > 0.5
            axes.text(
                column, row, str(confusion[row, column]), ha="center", va="center", fontsize=8,
                color="white" if dark else "black",
            )  # fmt: skip
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def log_report(project: Path, bundle: Path, metrics: dict[str, Any], report: Path) -> None:
    """The test metrics and pictures, into the MLflow run of the training.

    Raises:
        UserError: MLflow does not have that run (any more).
    """
    from mlflow.exceptions import MlflowException

    note = json.loads((bundle / "run.json").read_text())
    client = connect(project)
    try:
        run = TrackedRun(client, client.get_run(note["run_id"]))
    except MlflowException as error:
        raise UserError(
            f"MLflow has no run {note['run_id']}, which trained {bundle}; train again with `dvc repro -f train`"
        ) from error
    flat = {f"test_{name}": value for name, value in metrics["test"].items()}
    run.log_metrics(flat | {"num_test": metrics["num_test"]}, step=0)
    run.log_metrics({f"recall_{key(name)}": value for name, value in metrics["recall"].items()}, step=0)
    for path in sorted(report.iterdir()):
        client.log_artifact(run.run_id, str(path), "report")


def key(name: str) -> str:
    """A class name as part of a metric's name: MLflow takes letters, digits and `_-. /` only."""
    return "".join(c if c.isalnum() or c in "_-. " else "_" for c in name)
