"""`python -m lightning_modules fit --find lr|batch_size`: Lightning's tuner on what params.yaml says.

What it finds is printed and kept as an MLflow run; params.yaml stays as it is.
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
    """Search for a learning rate or a batch size, print and log it.

    Args:
        project: the folder of params.yaml.
        what: `lr`: the loss over 100 steps with a rising learning rate, and where it falls fastest;
            `batch_size`: doubled until memory runs out, or an epoch is one batch.

    Raises:
        UserError: a wrong setting, or nothing could be found.
    """
    cli = build_stage("train", Classifier, ImageDataModule, project / "params.yaml")
    config = to_plain_config(cli.config)
    prepare_training(cli, config, cli.datamodule.store, project)
    with tempfile.TemporaryDirectory() as scratch:
        trainer: Any = cli.trainer
        trainer._default_root_dir = scratch  # the tuner keeps the untrained weights there
        found, curve = (find_lr if parameter == "lr" else find_batch_size)(cli)
    client = connect_to_mlflow(project)
    name = cli.datamodule.store.name
    title = f"find {parameter} {time.strftime('%Y-%m-%d %H:%M:%S', time.gmtime())}"
    run = TrackedRun.open(client, ensure_experiment(client, name, project), None, title, {FIND_TAG: parameter})
    run.log_params(config)
    for step, metrics in enumerate(curve):
        run.log_metrics(metrics, step)
    run.log_metrics({f"found_{parameter}": found}, 0)
    run.close("FINISHED")
    key = "model.optimizer.init_args.lr" if parameter == "lr" else "data.batch_size"
    print(
        f"find: {parameter} {found:.3g}; set train.{key} in params.yaml to use it (MLflow run {run.run_id})", flush=True
    )


def find_lr(cli: StageCLI) -> tuple[float, list[dict[str, float]]]:
    """The learning rate at which the loss falls fastest, and the curve it was read from."""
    finder = Tuner(cli.trainer).lr_find(
        cli.model, datamodule=cli.datamodule, num_training=LR_STEPS, max_lr=10.0, update_attr=False
    )
    found = finder.suggestion() if finder is not None else None
    if finder is None or found is None:
        raise UserError("find lr: the loss gave no slope; lower data.batch_size, so that an epoch has more steps")
    rates, losses = finder.results["lr"], finder.results["loss"]
    return found, [{"tried_lr": lr, "loss": loss} for lr, loss in zip(rates, losses, strict=True)]


def find_batch_size(cli: StageCLI) -> tuple[float, list[dict[str, float]]]:
    """The largest power of two times the present batch size that fits into memory."""
    data: Any = cli.datamodule
    count = len(data.store.split("train"))
    found = Tuner(cli.trainer).scale_batch_size(
        cli.model, datamodule=data, init_val=data.batch_size, max_val=min(count, MAX_BATCH_SIZE), steps_per_trial=2
    )
    if found is None:
        raise UserError("find batch_size: not even one batch went through; lower data.batch_size")
    return float(min(found, count)), []
