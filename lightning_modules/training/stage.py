"""The stage `train`: trains a network on a normalized dataset and writes a model bundle and its MLflow run."""

import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pytorch_lightning.utilities.exceptions import SIGTERMException

from imageset import termination
from imageset.exceptions import UserError
from imageset.params import load_section
from imageset.store.reader import ImageStore
from imageset.utils.atomic_write import write_bytes
from imageset.utils.file_lock import output_lock
from imageset.utils.memory import keep_large_blocks
from lightning_modules.bundle import Bundle, BundleInfo, save_bundle
from lightning_modules.classifier import Classifier
from lightning_modules.datamodule import ImageDataModule
from lightning_modules.features.out_of_fold import FILE_NAME, OutOfFoldPredictions
from lightning_modules.features.reference_sample import make_reference_sample
from lightning_modules.features.transfer_learning import (
    Probe,
    choose_finetune_epochs,
    count_macs,
    fit_probe,
    has_linear_head,
    make_feature_cache,
    set_head,
)
from lightning_modules.networks.factory import check_network
from lightning_modules.networks.pretrained import PretrainedWeights, read_weights
from lightning_modules.networks.registry import AUTO, resolve_stem
from lightning_modules.networks.weights.installed import INSTALLED_NETWORK
from lightning_modules.project_code.modules import copy_modules, find_project_modules, hash_files
from lightning_modules.tracking.client import connect_to_mlflow
from lightning_modules.tracking.local_store.location import find_cache
from lightning_modules.tracking.model_download import load_bundle
from lightning_modules.tracking.model_logging import log_model
from lightning_modules.tracking.provenance import hash_lock_file, read_git_commit
from lightning_modules.tracking.run import TrackedRun, format_params
from lightning_modules.training.auto_network import choose_network
from lightning_modules.training.callbacks import (
    FiniteLossCheck,
    MetricHistory,
    describe_early_end,
    make_early_stopping,
    write_history,
)
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
from lightning_modules.training.duration.clock import start_clock
from lightning_modules.training.mlflow_run import open_run, read_dataset_digest
from lightning_modules.training.params import check_train_params
from lightning_modules.training.trained_model import (
    TrainedModel,
    calibrate,
    choose_better,
    describe_metrics,
    take_best_epoch,
    take_probe,
)
from lightning_modules.training.unfinished_training import RunState, compute_training_key

NUM_WHITENING_IMAGES = 2048  # images that a first layer is computed from, see networks.speednet
OUT_OF_MEMORY_MESSAGES = (  # parts of torch's messages
    "can't allocate memory",
    "not enough memory",
    "out of memory",
    "bad_alloc",
)
MODEL_FOLDER = Path("data", "models", "classifier")


def fit(project: Path) -> None:
    """Train as params.yaml describes, and write `data/models/classifier/`.

    A call after an interrupted one resumes from the last checkpoint, in the same MLflow run.

    Args:
        project: folder of the project.

    Raises:
        UserError: a setting is wrong, the dataset is damaged, the loss is not finite, or memory runs out.
        SystemExit: 143 after SIGTERM.
    """
    stop = StopRequest(termination.request)
    if join_group():
        termination.stop_listening()  # a rank that waits for the others in C would not run a handler
    else:
        stop.listen()
    keep_large_blocks()
    section = load_section(project / "params.yaml", "train")
    code = copy_modules(find_project_modules(section, project))  # read now: it may be edited during the training
    network_code = copy_modules(find_project_modules((section.get("model") or {}).get("network"), project))
    cli = build_stage("train", Classifier, ImageDataModule, project / "params.yaml")
    config = to_plain_config(cli.config)
    check_train_params(config)
    if config["threads"] is not None:
        torch.set_num_threads(config["threads"])
    store: ImageStore = cli.datamodule.store
    clock = start_clock(cli, config, project)
    probe = prepare_training(cli, config, store, project)

    num_ranks = cli.trainer.world_size
    key = compute_training_key(store, config, num_ranks, hash_files(code))
    run_state = RunState(find_cache(project) / "train" / key)
    is_resumed = run_state.find_checkpoint(remove_damaged=False) is not None
    launcher = watch_ranks(cli.trainer)
    try:
        if cli.trainer.is_global_zero:
            fit_and_log(project, cli, config, run_state, stop, probe, network_code)
            if not is_resumed:
                clock.save()
        elif cli.trainer.max_epochs:
            run_trainer(cli, run_state, None, stop)
    except (MemoryError, RuntimeError) as error:
        if is_out_of_memory(error):
            size = max(store.spec.shape)
            raise UserError(
                f"out of memory; lower train.data.batch_size (now {config['data']['batch_size']}) or "
                f"normalize.size_px (now {size}) in params.yaml"
            ) from error
        if user_error := describe_lost_rank(error, launcher, num_ranks):
            raise user_error from error
        raise
    finally:
        if launcher is not None:
            launcher.stop_all()


def fit_and_log(
    project: Path,
    cli: StageCLI,
    config: Mapping[str, Any],
    run_state: RunState,
    stop: StopRequest,
    probe: Probe | None,
    code: Mapping[str, bytes],
) -> None:
    """Train and log an MLflow run with its final status, on rank 0.

    Args:
        project: folder of the project.
        cli: the trainer, the model and the data of the stage.
        config: the section `train` of params.yaml.
        run_state: state of the unfinished training.
        stop: the handler of SIGTERM.
        probe: the probe that the head started from, if there is one.
        code: the project's own modules that the network is built from, for the bundle.
    """
    store: ImageStore = cli.datamodule.store
    (project / MODEL_FOLDER).parent.mkdir(parents=True, exist_ok=True)
    with run_state.run_lock(), output_lock(project / MODEL_FOLDER, print_waiting):
        dataset = {
            "name": store.name,
            "fingerprint": store.fingerprint,
            "digest": read_dataset_digest(project, store),
        }
        run = open_run(project, run_state, dataset, config)
        if isinstance(launcher := cli.trainer.strategy.launcher, WatchedLauncher):
            launcher.on_failure = lambda: run.close("FAILED")
        try:
            info = describe_model(project, cli, config, dataset)
            trained, history = train_model(cli, config, run_state, run, stop, info, probe)
            save_model(project, run, cli, config, info, trained, history, code)
            save_out_of_fold(project / MODEL_FOLDER, store, probe)
            run_state.save_finished(project, run.run_id)
            run.close("FINISHED")
            shutil.rmtree(run_state.folder)
        except BaseException as error:
            run.close("KILLED" if isinstance(error, KeyboardInterrupt | SystemExit) else "FAILED")
            raise


def print_waiting(line: str) -> None:
    """Print which process writes the model of this project."""
    print(f"train: {line}", flush=True)


def is_out_of_memory(error: Exception) -> bool:
    """Return whether the error means that memory ran out, in Python or in torch on a CPU or a GPU."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(message in str(error) for message in OUT_OF_MEMORY_MESSAGES)


def prepare_training(cli: StageCLI, config: dict[str, Any], store: ImageStore, project: Path) -> Probe | None:
    """Build the model for the dataset, and seed the model and the data.

    Args:
        cli: the trainer, the model and the data of the stage.
        config: the section `train` of params.yaml; it receives the values that `auto` stands for and the
            digest of the weights.
        store: the normalized dataset.
        project: folder of the project.

    Returns:
        The linear probe that the head starts from, if the weights are pretrained and the head is new.

    Raises:
        UserError: a setting does not fit the dataset, the ranks or the network.
    """
    seed = config["seed_everything"]
    cli.model.seed = cli.datamodule.seed = 0 if seed is True else int(seed)
    cli.datamodule.balanced = cli.model.imbalance == "sampler"
    check_trainer(cli)
    check_ranks(cli, config, store)
    try:
        is_chosen_here = cli.model.network_spec["class_path"] == AUTO
        lines = [resolve_network(cli, config, store, project)]
        weights = None
        if cli.model.weights is not None:
            if cli.model.weights.startswith("models:/"):
                connect_to_mlflow(project)
            weights = read_weights(cli.model.weights, cli.model.network_spec, load_bundle)
            config["model"]["weights_sha256"] = weights.digest  # logged, and part of the training key
            if not is_chosen_here:  # else the size was chosen, too
                lines.append(describe_size_difference(cli.model.network_spec, weights, store.spec.size))
        split = store.split("train")
        images = torch.from_numpy(split.read_batch(np.arange(min(len(split), NUM_WHITENING_IMAGES))))
        lines.append(cli.model.build(store.mean, store.std, store.classes, split.labels, weights, images))
        check_network(cli.model.network, store.spec.shape, len(store.classes))
    except (TypeError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"params.yaml: train: model.network: {error}") from error
    for line in lines:
        if line and cli.trainer.is_global_zero:
            print(f"train: {line}", flush=True)
    probe = start_from_probe(cli, config, store, project, weights) if weights is not None else None
    cli.model.flip = config["model"]["flip"] = (
        (probe is not None and probe.mirror_is_same) if cli.model.flip == AUTO else cli.model.flip
    )
    config["model"]["crop_area"] = cli.model.min_crop_area
    return probe


def describe_size_difference(network: Mapping[str, Any], weights: PretrainedWeights, side_px: int) -> str:
    """Return a line if weights were trained on images of another size than the network gets; else nothing.

    Args:
        network: {"class_path", "init_args"}.
        weights: the pretrained weights.
        side_px: side of the dataset's images.
    """
    trained_px, shown_px = weights.images.side_px, network["init_args"].get("resize_px") or side_px
    if trained_px is None or trained_px == shown_px:
        return ""
    return (
        f"the weights are from pictures of {trained_px} px, the network gets {shown_px} px; "
        f"normalize.size_px: {trained_px} in params.yaml changes that"
    )


def resolve_network(cli: StageCLI, config: dict[str, Any], store: ImageStore, project: Path) -> str:
    """Replace `auto` in the model's network and weights; return a line about the choice, or nothing."""
    model, summary = cli.model, ""
    if model.network_spec["class_path"] == AUTO:
        choice = choose_network(model, store, config, project, cli.trainer.strategy.root_device)
        model.network_spec, model.weights, summary = choice.network, choice.weights, choice.summary
    elif model.weights == AUTO:
        is_installed = model.network_spec["init_args"].get("name") == INSTALLED_NETWORK
        model.weights = "DEFAULT" if is_installed else None
    model.network_spec = resolve_stem(model.network_spec, store.spec.size)
    config["model"] |= {"network": model.network_spec, "weights": model.weights}
    return summary


def start_from_probe(
    cli: StageCLI, config: dict[str, Any], store: ImageStore, project: Path, weights: PretrainedWeights
) -> Probe | None:
    """Fit a linear probe, let the model's head start from it, and limit fine-tuning to the budget.

    Returns:
        None if the head is pretrained, too, or is more than a linear layer.
    """
    model, num_classes = cli.model, len(store.classes)
    if model.keeps_head or not has_linear_head(model.network, store.spec.shape, num_classes):
        return None
    device = cli.trainer.strategy.root_device
    cache = make_feature_cache(find_cache(project), model, store, weights.digest, device)
    probe = fit_probe(model, store, cache, device, model.seed)
    if device.type == "cpu" and model.freeze_mode == "none":
        macs = count_macs(model.network, store.spec.shape)  # of a step, in which no mirror image is computed
        epochs = choose_finetune_epochs(
            cli.trainer.max_epochs or -1, macs, store.counts["train"], config["budget"]
        )
        cli.trainer.fit_loop.max_epochs = config["trainer"]["max_epochs"] = epochs
    networks = [model.network] if model.ema is None else [model.network, model.average]
    for network in networks:
        set_head(network, probe.head)
        if probe.mirror:
            network.mirror = True
    model.fix_batch_statistics()
    model.is_head_fitted = True
    if probe.mirror:
        model.network_spec["init_args"]["mirror"] = True
    if cli.trainer.is_global_zero:
        print(
            f"train: linear probe: val_loss {probe.score.loss:.4f}, val_accuracy {probe.score.accuracy:.4f}"
            + (", over each picture and its mirror image" if probe.mirror else "")
            + ("" if cli.trainer.max_epochs else "; fine-tuning would exceed train.budget"),
            flush=True,
        )
    return probe


def check_trainer(cli: StageCLI) -> None:
    """Raise UserError for options of the Trainer that would fail only at the first step or at the end."""
    trainer = cli.trainer
    if trainer.precision.endswith("-true") and trainer.precision != "32-true":
        raise UserError(
            f"params.yaml: train: trainer.precision: {trainer.precision} stores the weights in this precision, "
            "but pictures are normalized to 32 bits; give 32-true, bf16-mixed or 16-mixed"
        )
    if trainer.max_epochs in (None, -1) and trainer.max_steps == -1:
        raise UserError(
            "params.yaml: train: trainer.max_epochs is unlimited, but the learning rate falls until the last "
            "epoch; give a number (trainer.max_time may end the training earlier)"
        )


def check_ranks(cli: StageCLI, config: Mapping[str, Any], store: ImageStore) -> None:
    """Raise UserError for settings that several processes do not support."""
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
    cli: StageCLI, run_state: RunState, run: TrackedRun | None, stop: StopRequest
) -> tuple[MetricHistory, ResumableCheckpoint]:
    """Run Lightning's training loop, from the last checkpoint if there is one.

    Args:
        cli: the trainer, the model and the data of the stage.
        run_state: state of the unfinished training.
        run: MLflow run that receives the metrics; None on other ranks than 0.
        stop: the handler of SIGTERM.

    Returns:
        The metrics of each epoch, and the callback that knows the best checkpoint.

    Raises:
        SystemExit: 143 after SIGTERM.
    """
    trainer: Any = cli.trainer
    checkpoint = run_state.find_checkpoint(remove_damaged=trainer.is_global_zero)
    last_logged_epoch = run.last_step("train_loss") if run is not None else -1
    log_metrics = run.log_metrics if run is not None else lambda metrics, step: None
    history = MetricHistory(log_metrics, last_logged_epoch)
    checkpoint_callback = ResumableCheckpoint(run_state.folder, cli.config["checkpoint_every_min"], stop)
    rank_values = {"training": run_state.folder.name, "last checkpoint": checkpoint.name if checkpoint else ""}
    trainer.callbacks = [
        RankConsistencyCheck(rank_values),
        *trainer.callbacks,
        FiniteLossCheck(),
        history,
        *make_early_stopping(cli.config),
        checkpoint_callback,
    ]
    trainer.strategy.checkpoint_io = DigestCheckpointIO()
    if checkpoint is not None and trainer.is_global_zero:
        print(f"train: resuming after step {parse_num_steps(checkpoint):,}, from {checkpoint}", flush=True)
    try:
        trainer.fit(cli.model, cli.datamodule, ckpt_path=checkpoint)
    except SIGTERMException as error:  # uncaught, it ends the process with status 0
        raise SystemExit(SIGTERM_EXIT_STATUS) from error
    finally:
        stop.immediate = True
    if isinstance(trainer.strategy.launcher, WatchedLauncher):
        trainer.strategy.launcher.finished.set()
    if stop.is_requested:  # received after the loop checked for the last time
        raise SystemExit(SIGTERM_EXIT_STATUS)
    if trainer.is_global_zero and (reason := describe_early_end(trainer, cli.config)):
        print(f"train: {reason}", flush=True)
    return history, checkpoint_callback


def parse_num_steps(checkpoint: Path) -> int:
    """Return the number of steps before a checkpoint, from its name."""
    return int(re.split("[-.]", checkpoint.name)[1])


def train_model(
    cli: StageCLI,
    config: Mapping[str, Any],
    run_state: RunState,
    run: TrackedRun,
    stop: StopRequest,
    info: BundleInfo,
    probe: Probe | None,
) -> tuple[TrainedModel, MetricHistory]:
    """Train, on rank 0, and return the best model and the metrics of each epoch.

    Args:
        cli: the trainer, the model and the data of the stage.
        config: the section `train` of params.yaml.
        run_state: state of the unfinished training.
        run: MLflow run that receives the metrics.
        stop: the handler of SIGTERM.
        info: a description of the model, without its metrics.
        probe: the probe that the head started from, if there is one.
    """
    store: ImageStore = cli.datamodule.store
    probe_model = None
    if probe is not None:
        probe_model = take_probe(cli.model.network, probe)
        run.log_metrics({f"probe_{name}": value for name, value in probe_model.metrics.items()}, 0)
    if probe_model is not None and not cli.trainer.max_epochs:
        history = MetricHistory(lambda metrics, step: None, -1)
        history.rows.append({"epoch": 0, **probe_model.metrics})
        run.log_metrics(probe_model.metrics, 0)
        return probe_model, history
    history, checkpoint_callback = run_trainer(cli, run_state, run, stop)
    trained = take_best_epoch(cli.model, info, store, history, checkpoint_callback, config["data"]["batch_size"])
    if probe_model is not None:
        trained = choose_better(probe_model, trained, store.split("val").labels)
    return trained, history


def describe_model(
    project: Path, cli: StageCLI, config: Mapping[str, Any], dataset: Mapping[str, str]
) -> BundleInfo:
    """Return the description of the model for its bundle, without metrics and calibration.

    Args:
        project: folder of the project.
        cli: the trainer, the model and the data of the stage.
        config: the section `train` of params.yaml.
        dataset: `name`, `fingerprint` and `digest` of the normalized dataset.
    """
    store: ImageStore = cli.datamodule.store
    return BundleInfo(
        network=config["model"]["network"],
        classes=store.classes,
        decode=store.spec.to_dict(),
        mean=cli.model.mean,
        std=cli.model.std,
        dataset=dict(dataset),
        metrics={},
        abstain_below=config["abstain_below"],
        git_commit=read_git_commit(project),
        lock_sha256=hash_lock_file(project),
    )


def save_model(
    project: Path,
    run: TrackedRun,
    cli: StageCLI,
    config: Mapping[str, Any],
    info: BundleInfo,
    trained: TrainedModel,
    history: MetricHistory,
    code: Mapping[str, bytes],
) -> None:
    """Write the stage's output and log the model.

    Args:
        project: folder of the project.
        run: MLflow run that receives the model.
        cli: the trainer, the model and the data of the stage.
        config: the section `train` of params.yaml.
        info: a description of the model, without metrics and calibration.
        trained: the model.
        history: the metrics of each epoch.
        code: the project's own modules that the network is built from.
    """
    store: ImageStore = cli.datamodule.store
    info = replace(info, metrics=trained.metrics, fitted_splits=trained.fitted_splits, **trained.calibration)
    output = project / MODEL_FOLDER
    output.mkdir(parents=True, exist_ok=True)
    reference = make_reference_sample(
        Bundle(info, trained.network_for_reference, ""), store, config["reference_pictures"]
    )
    save_bundle(output, info, trained.network, reference, code)
    write_history(output / "history.csv", history)
    model_uri = log_model(run, output, info, store)
    run.log_metrics({f"best_{name}": value for name, value in info.metrics.items()}, max(trained.epoch, 0))
    run_info = {
        "run_id": run.run_id,
        "experiment": info.dataset["name"],
        "model_uri": model_uri,
        "dataset": dict(info.dataset),
        "params": format_params(config),  # with what `auto` stands for; dvc.lock has params.yaml only
    }
    write_bytes(output / "run.json", (json.dumps(run_info, indent=2) + "\n").encode())
    print(
        f"train: {trained.name}, {describe_metrics(info.metrics)}; "
        f"{output.relative_to(project)} written, MLflow run {run.run_id}",
        flush=True,
    )


def save_out_of_fold(folder: Path, store: ImageStore, probe: Probe | None) -> None:
    """Write the probe's out-of-fold predictions beside the bundle; without a probe, remove those of before."""
    if probe is None:
        (folder / FILE_NAME).unlink(missing_ok=True)
        return
    image_ids = (*store.split("train").image_ids, *store.split("val").image_ids)
    calibration = calibrate(probe.out_of_fold_logits, probe.labels)
    OutOfFoldPredictions(image_ids, probe.out_of_fold_logits, **calibration).save(folder)
