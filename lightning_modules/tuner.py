"""Search for a learning rate or a batch size with Lightning's tuner: `fit --find lr|batch_size`.

The result is printed and logged as an MLflow run; params.yaml is not changed.
"""

import tempfile
import time
from pathlib import Path
from typing import Any

from pytorch_lightning.tuner import Tuner

from imageset.exceptions import UserError
from lightning_modules.classifier import Classifier
from lightning_modules.datamodule import ImageDataModule
from lightning_modules.tracking.client import connect_to_mlflow, ensure_experiment
from lightning_modules.tracking.run import TrackedRun
from lightning_modules.tracking.tags import FIND_TAG
from lightning_modules.training.cli import StageCLI, build_stage, to_plain_config
from lightning_modules.training.stage import prepare_training

LR_STEPS = 100
MAX_BATCH_SIZE = 8192


def tune(project: Path, parameter: str) -> None:
    """Search for a learning rate or a batch size, print it and log it.

    Args:
        project: folder of the project.
        parameter: `lr`: the learning rate rises over 100 steps, and the result is where the loss falls fastest;
            `batch_size`: the batch size is doubled until memory runs out or an epoch is one batch.

    Raises:
        UserError: a setting is wrong, or the search has no result.
    """
    cli = build_stage("train", Classifier, ImageDataModule, project / "params.yaml")
    config = to_plain_config(cli.config)
    prepare_training(cli, config, cli.datamodule.store, project)
    with tempfile.TemporaryDirectory() as scratch:
        trainer: Any = cli.trainer
        # private API of pytorch_lightning, read in 2.6.6; the tuner saves the untrained weights in this folder
        trainer._default_root_dir = scratch
        value, curve = (find_lr if parameter == "lr" else find_batch_size)(cli)
    client = connect_to_mlflow(project)
    name = cli.datamodule.store.name
    title = f"find {parameter} {time.strftime('%Y-%m-%d %H:%M:%S', time.gmtime())}"
    run = TrackedRun.open(client, ensure_experiment(client, name, project), None, title, {FIND_TAG: parameter})
    run.log_params(config)
    for step, metrics in enumerate(curve):
        run.log_metrics(metrics, step)
    run.log_metrics({f"found_{parameter}": value}, 0)
    run.close("FINISHED")
    key = "model.optimizer.init_args.lr" if parameter == "lr" else "data.batch_size"
    print(
        f"find: {parameter} {value:.3g}; set train.{key} in params.yaml to use it (MLflow run {run.run_id})",
        flush=True,
    )


def find_lr(cli: StageCLI) -> tuple[float, list[dict[str, float]]]:
    """Return the learning rate at which the loss falls fastest, and the curve of the search."""
    finder = Tuner(cli.trainer).lr_find(
        cli.model, datamodule=cli.datamodule, num_training=LR_STEPS, max_lr=10.0, update_attr=False
    )
    best_lr = finder.suggestion() if finder is not None else None
    if finder is None or best_lr is None:
        raise UserError(
            "find lr: the loss curve is too short for a slope; lower data.batch_size to have more steps"
        )
    rates, losses = finder.results["lr"], finder.results["loss"]
    return best_lr, [{"tried_lr": lr, "loss": loss} for lr, loss in zip(rates, losses, strict=True)]


def find_batch_size(cli: StageCLI) -> tuple[float, list[dict[str, float]]]:
    """Return the largest batch size that fits into memory, the present one times a power of two, and no curve."""
    data: Any = cli.datamodule
    num_images = len(data.store.split("train"))
    batch_size = Tuner(cli.trainer).scale_batch_size(
        cli.model,
        datamodule=data,
        init_val=data.batch_size,
        max_val=min(num_images, MAX_BATCH_SIZE),
        steps_per_trial=2,
    )
    if batch_size is None:
        raise UserError("find batch_size: not even one batch fits into memory; lower data.batch_size")
    return float(min(batch_size, num_images)), []
