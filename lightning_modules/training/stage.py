"""The stage `run_trainer`: params.yaml and a normalized dataset in, a bundle and its MLflow run out."""

import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EarlyStopping
from pytorch_lightning.utilities.exceptions import SIGTERMException

from imageset.exceptions import UserError
from imageset.store.reader import ImageStore
from imageset.utils.atomic_write import write_bytes
from imageset.utils.memory import keep_large_blocks
from lightning_modules.bundle import Bundle, BundleInfo, save_bundle
from lightning_modules.calibration.temperature import fit_temperature, to_probabilities
from lightning_modules.calibration.thresholds import fit_thresholds
from lightning_modules.classifier import Classifier
from lightning_modules.datamodule import ImageDataModule
from lightning_modules.features.reference_sample import make_reference_sample
from lightning_modules.networks.factory import check_network
from lightning_modules.networks.pretrained import read_weights
from lightning_modules.networks.registry import resolve_stem
from lightning_modules.scoring import Scorer
from lightning_modules.tracking.client import connect_to_mlflow
from lightning_modules.tracking.model_download import load_bundle
from lightning_modules.tracking.model_logging import log_model
from lightning_modules.tracking.provenance import hash_lock_file, read_git_commit
from lightning_modules.tracking.run import TrackedRun
from lightning_modules.training.callbacks import SUMMARY_METRICS, FiniteLossCheck, MetricHistory, write_history
from lightning_modules.training.checkpointing import (
    SIGTERM_EXIT_STATUS,
    DigestCheckpointIO,
    ResumableCheckpoint,
    StopRequest,
)
from lightning_modules.training.cli import StageCLI, build_stage, to_plain_config
from lightning_modules.training.distributed import (
    RankConsistencyCheck,
    WatchedLauncher,
    describe_lost_rank,
    join_group,
    watch_ranks,
)
from lightning_modules.training.mlflow_run import open_run, read_dataset_digest
from lightning_modules.training.unfinished_training import RunState, compute_training_key

NUM_WHITENING_IMAGES = 2048  # pictures that a first layer is computed from, see networks.speednet
OUT_OF_MEMORY_MESSAGES = (
    "can't allocate memory",
    "not enough memory",
    "out of memory",
    "bad_alloc",
)  # as torch says it
ENDLESS_PATIENCE = 2**31  # epochs: patience of an EarlyStopping that waits for its threshold alone


def fit(project: Path) -> None:
    """Train as params.yaml says and write `data/models/classifier/`.

    Interrupted and called again, it goes on after the last checkpoint, in the same MLflow run.

    Raises:
        UserError: a wrong setting, a broken dataset, a loss that is not finite, too little memory.
        SystemExit: 143 after SIGTERM.
    """
    stop = StopRequest()
    if not join_group():
        stop.listen()
    keep_large_blocks()
    cli = build_stage("train", Classifier, ImageDataModule, project / "params.yaml")
    config = to_plain_config(cli.config)
    if config["reference_pictures"] < 1:
        raise UserError(
            f"params.yaml: train: reference_pictures is {config['reference_pictures']}; give 1 or more"
        )
    if config["threads"] is not None:
        if config["threads"] < 1:
            raise UserError(f"params.yaml: train: threads is {config['threads']}; give 1 or more, or null")
        torch.set_num_threads(config["threads"])
    store: ImageStore = cli.datamodule.store
    prepare_training(cli, config, store, project)

    num_ranks = cli.trainer.world_size
    work = RunState(project / ".cache" / "train" / compute_training_key(store, config, num_ranks))
    launcher = watch_ranks(cli.trainer)
    try:
        if cli.trainer.is_global_zero:
            fit_and_log(project, cli, config, work, stop)
        else:
            run_trainer(cli, work, None, stop)
    except (MemoryError, RuntimeError) as error:
        if is_out_of_memory(error):
            size = max(store.spec.shape)
            raise UserError(
                f"out of memory; lower train.data.batch_size (now {config['data']['batch_size']}) or "
                f"normalize.size_px (now {size}) in params.yaml"
            ) from error
        if lost := describe_lost_rank(error, launcher, num_ranks):
            raise lost from error
        raise
    finally:
        if launcher is not None:
            launcher.stop_all()


def fit_and_log(
    project: Path, cli: StageCLI, config: Mapping[str, Any], work: RunState, stop: StopRequest
) -> None:
    """What rank 0 does: the training as an MLflow run that says how it ended."""
    store: ImageStore = cli.datamodule.store
    with work.run_lock():
        dataset = {
            "name": store.name,
            "fingerprint": store.fingerprint,
            "digest": read_dataset_digest(project, store),
        }
        run = open_run(project, work, dataset, config)
        if isinstance(launcher := cli.trainer.strategy.launcher, WatchedLauncher):
            launcher.on_failure = lambda: run.close("FAILED")
        try:
            curves, keep = run_trainer(cli, work, run, stop)
            save_best_model(project, run, cli, config, dataset, curves, keep)
            shutil.rmtree(work.folder)
            run.close("FINISHED")
        except BaseException as error:
            run.close("KILLED" if isinstance(error, KeyboardInterrupt | SystemExit) else "FAILED")
            raise


def is_out_of_memory(error: Exception) -> bool:
    """True for what Python, torch on a CPU and torch on a GPU raise where there is no memory left."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in OUT_OF_MEMORY_MESSAGES)


def prepare_training(cli: StageCLI, config: dict[str, Any], store: ImageStore, project: Path) -> None:
    """Give the model what only the dataset knows, and the seed to both."""
    seed = config["seed_everything"]
    cli.model.seed = cli.datamodule.seed = 0 if seed is True else int(seed)
    cli.datamodule.balanced = cli.model.imbalance == "sampler"
    check_trainer(cli)
    check_ranks(cli, config, store)
    try:
        config["model"]["network"] = cli.model.network_spec = resolve_stem(cli.model.network_spec, store.spec.size)
        source = None
        if cli.model.weights is not None:
            if cli.model.weights.startswith("models:/"):
                connect_to_mlflow(project)
            source = read_weights(cli.model.weights, cli.model.network_spec, load_bundle)
            config["model"]["weights_sha256"] = source.digest  # logged, and part of what a training is
        split = store.split("train")
        pictures = torch.from_numpy(split.read_batch(np.arange(min(len(split), NUM_WHITENING_IMAGES))))
        said = cli.model.build(store.mean, store.std, store.classes, split.labels, source, pictures)
        check_network(cli.model.network, store.spec.shape, len(store.classes))
        if said and cli.trainer.is_global_zero:
            print(f"train: {said}", flush=True)
    except (TypeError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"params.yaml: train: model.network: {error}") from error


def check_trainer(cli: StageCLI) -> None:
    """Raise UserError for options of the Trainer that would fail only at the first step, or at the end."""
    trainer = cli.trainer
    if trainer.precision.endswith("-true") and trainer.precision != "32-true":
        raise UserError(
            f"params.yaml: train: trainer.precision: {trainer.precision} keeps the weights themselves so, and "
            "pictures are normalized to 32 bits; give 32-true, bf16-mixed or 16-mixed"
        )
    if trainer.max_epochs in (None, -1) and trainer.max_steps == -1:
        raise UserError(
            "params.yaml: train: trainer.max_epochs has no end, and the learning rate falls towards one; "
            "give a number (trainer.max_time may end it earlier)"
        )


def check_ranks(cli: StageCLI, config: Mapping[str, Any], store: ImageStore) -> None:
    """Raise UserError for what several processes cannot do."""
    if (num_ranks := cli.trainer.world_size) == 1:
        return
    if config["trainer"]["sync_batchnorm"] and cli.trainer.strategy.root_device.type == "cpu":
        raise UserError("params.yaml: train: trainer.sync_batchnorm works on GPUs only; set it to false")
    for name in ("train", "val"):
        if (count := store.counts[name]) < num_ranks:
            raise UserError(
                f"{store.path}: {count} pictures in {name} for {num_ranks} processes; "
                "lower train.trainer.devices in params.yaml"
            )


def run_trainer(
    cli: StageCLI, work: RunState, run: TrackedRun | None, stop: StopRequest
) -> tuple[MetricHistory, ResumableCheckpoint]:
    """Run Lightning's loop; returns the curves and the callback that kept the best epoch.

    Raises:
        SystemExit: 143 after SIGTERM.
    """
    trainer: Any = cli.trainer
    resume = work.resume(tidy=trainer.is_global_zero)
    through = run.last_step("train_loss") if run is not None and resume is not None else -1
    log = run.log_metrics if run is not None else lambda metrics, step: None
    curves = MetricHistory(log, through)
    keep = ResumableCheckpoint(work.folder, cli.config["checkpoint_every_min"], stop)
    same = RankConsistencyCheck({"training": work.folder.name, "last checkpoint": resume.name if resume else ""})
    trainer.callbacks = [
        same,
        *trainer.callbacks,
        FiniteLossCheck(),
        curves,
        *make_early_stopping(cli.config),
        keep,
    ]
    trainer.strategy.checkpoint_io = DigestCheckpointIO()
    if resume is not None and trainer.is_global_zero:
        print(f"train: going on after step {parse_num_steps(resume):,}, from {resume}", flush=True)
    try:
        trainer.fit(cli.model, cli.datamodule, ckpt_path=resume)
    except SIGTERMException as error:  # by itself it would end the process with status 0
        raise SystemExit(SIGTERM_EXIT_STATUS) from error
    finally:
        stop.immediate = True
    if isinstance(trainer.strategy.launcher, WatchedLauncher):
        trainer.strategy.launcher.finished.set()
    if stop.is_requested:  # too late for the loop to see it
        raise SystemExit(SIGTERM_EXIT_STATUS)
    return curves, keep


def parse_num_steps(checkpoint: Path) -> int:
    """How many steps a checkpoint comes after."""
    return int(re.split("[-.]", checkpoint.name)[1])


def make_early_stopping(config: Any) -> list[pl.Callback]:
    """Ends the training when the validation error reaches `stop_at_error`."""
    if config["stop_at_error"] is None:
        return []
    return [
        EarlyStopping(
            "val_error", mode="min", patience=ENDLESS_PATIENCE, stopping_threshold=config["stop_at_error"] + 1e-12
        )
    ]


def save_best_model(
    project: Path,
    run: TrackedRun,
    cli: StageCLI,
    config: Mapping[str, Any],
    dataset: Mapping[str, str],
    curves: MetricHistory,
    keep: ResumableCheckpoint,
) -> None:
    """Write the stage's output and log the model of the best epoch."""
    store: ImageStore = cli.datamodule.store
    checkpoint = DigestCheckpointIO().load_checkpoint(keep.best_path())
    cli.model.load_state_dict(checkpoint["state_dict"])
    row = curves.rows[checkpoint["epoch"]]
    info = BundleInfo(
        network=config["model"]["network"],
        classes=store.classes,
        decode=store.spec.to_dict(),
        mean=cli.model.mean,
        std=cli.model.std,
        dataset=dict(dataset),
        metrics={name: row[name] for name in SUMMARY_METRICS if name.startswith("val_") and name in row},
        abstain_below=config["abstain_below"],
        git_commit=read_git_commit(project),
        lock_sha256=hash_lock_file(project),
    )
    info = replace(info, **fit_calibration(Bundle(info, cli.model.served, ""), store, config))
    output = project / "data" / "models" / "classifier"
    output.mkdir(parents=True, exist_ok=True)
    reference = make_reference_sample(Bundle(info, cli.model.served, ""), store, config["reference_pictures"])
    save_bundle(output, info, cli.model.served, reference)
    write_history(output / "history.csv", curves)
    model_uri = log_model(run, output, info, store)
    run.log_metrics({f"best_{name}": value for name, value in info.metrics.items()}, checkpoint["epoch"])
    note = {
        "run_id": run.run_id,
        "experiment": dataset["name"],
        "model_uri": model_uri,
        "dataset": dict(dataset),
    }
    write_bytes(output / "run.json", (json.dumps(note, indent=2) + "\n").encode())
    print(
        f"train: best epoch {checkpoint['epoch'] + 1}, "
        f"{', '.join(f'{name} {value:.4f}' for name, value in info.metrics.items())}; "
        f"{output.relative_to(project)} written, MLflow run {run.run_id}",
        flush=True,
    )


def fit_calibration(bundle: Bundle, store: ImageStore, config: Mapping[str, Any]) -> dict[str, Any]:
    """What makes the probabilities of a trained network honest, from one more pass over the validation split: the
    bundle's temperature, and where a picture may bear several labels their thresholds."""
    split = store.split("val")
    logits = Scorer(bundle).split_logits(split, config["data"]["batch_size"])
    temperature = fit_temperature(logits, split.labels)
    if not store.multi_label:
        return {"temperature": temperature}
    known = to_probabilities(logits, temperature, multi_label=True)
    return {"temperature": temperature, "thresholds": fit_thresholds(known, split.labels)}
