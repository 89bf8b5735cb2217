"""The stage `train`: params.yaml and a normalized dataset in, a bundle and its MLflow run out."""

import fcntl
import hashlib
import json
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytorch_lightning as pl
import torch
import yaml
from pytorch_lightning.callbacks import EarlyStopping
from pytorch_lightning.utilities.exceptions import SIGTERMException

from imageset.atomic import write_bytes
from imageset.errors import UserError
from imageset.store import ImageStore
from lightning_modules.allocator import keep_large_blocks
from lightning_modules.bundle import Bundle, BundleInfo, check_network, save_bundle
from lightning_modules.calibration import fit_temperature, probabilities
from lightning_modules.callbacks import SHOWN, Curves, StopIfNotFinite, write_history
from lightning_modules.checkpoints import TERMINATED, DigestCheckpointIO, Keep, StopRequest, newest_whole
from lightning_modules.classifier import Classifier
from lightning_modules.cli import StageCLI, build_stage, plain
from lightning_modules.datamodule import ImageDataModule
from lightning_modules.networks.named import for_pictures
from lightning_modules.networks.weights import read
from lightning_modules.outbox import Away, PatientRun, client_of, find, is_server, sync
from lightning_modules.provenance import COMMIT, changes, git_commit, lock_digest
from lightning_modules.ranks import Launcher, SameEverywhere, explain_loss, join, watch
from lightning_modules.reference import make_reference
from lightning_modules.registered import log_model
from lightning_modules.scoring import Scorer
from lightning_modules.several import fit_thresholds
from lightning_modules.tracking import TrackedRun, connect, experiment_id, flatten

if TYPE_CHECKING:
    from mlflow import MlflowClient

CODE = (
    "augment", "calibration", "callbacks", "checkpoints", "classifier", "datamodule", "fit", "networks/by_name",
    "networks/convnet", "networks/lenet", "networks/named", "networks/speednet", "networks/timm_by_name",
    "networks/weights", "reference", "scoring", "several",
)  # fmt: skip
NUM_WHITENED = 2048  # pictures that a first layer is computed from, see networks.speednet
# on the result: an unfinished training goes on; the number of ranks counts, not who started them
WITHOUT_EFFECT = {
    "checkpoint_every_min",
    "data.cache",
    "reference_pictures",
    "trainer.devices",
    "trainer.num_nodes",
}
OUT_OF_MEMORY = ("can't allocate memory", "not enough memory", "out of memory", "bad_alloc")  # as torch says it
NEVER = 2**31  # epochs: patience of an EarlyStopping that waits for its threshold alone


@dataclass(frozen=True)
class Work:
    """Where an unfinished training keeps its state; a finished one leaves nothing here."""

    folder: Path

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep others out of the folder while this training runs.

        Raises:
            UserError: the same training runs already.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(f"{self.folder}: this training runs already; wait until it ends") from None
            yield

    def is_held(self) -> bool:
        """True while a training of this folder runs."""
        try:
            with self.held():
                return False
        except UserError:
            return True

    def resume(self, tidy: bool) -> Path | None:
        """The checkpoint to go on from, if there is one.

        Args:
            tidy: name damaged ones and remove them; for the rank that holds the folder.
        """
        path, damaged = newest_whole(self.folder, "last")
        if not tidy:
            return path
        for leftover in self.folder.glob(".*.partial"):
            leftover.unlink(missing_ok=True)
        for one in damaged:
            one.unlink(missing_ok=True)
            instead = "the one before it is used" if path else "none is left, so training begins anew"
            print(f"train: {one}: damaged and removed; {instead}", flush=True)
        return path

    @property
    def run_id(self) -> str | None:
        path = self.folder / "run_id"
        return path.read_text() if path.exists() else None

    def remember(self, run_id: str) -> None:
        write_bytes(self.folder / "run_id", run_id.encode())


def fit(project: Path) -> None:
    """Train as params.yaml says and write `data/models/classifier/`.

    Interrupted and called again, it goes on after the last checkpoint, in the same MLflow run.

    Raises:
        UserError: a wrong setting, a broken dataset, a loss that is not finite, too little memory.
        SystemExit: 143 after SIGTERM.
    """
    stop = StopRequest()
    if not join():
        stop.listen()
    keep_large_blocks()
    cli = build_stage("train", Classifier, ImageDataModule, project / "params.yaml")
    config = plain(cli.config)
    if config["reference_pictures"] < 1:
        raise UserError(
            f"params.yaml: train: reference_pictures is {config['reference_pictures']}; give 1 or more"
        )
    if config["threads"] is not None:
        if config["threads"] < 1:
            raise UserError(f"params.yaml: train: threads is {config['threads']}; give 1 or more, or null")
        torch.set_num_threads(config["threads"])
    store: ImageStore = cli.datamodule.store
    prepare(cli, config, store, project)

    num_ranks = cli.trainer.world_size
    work = Work(project / ".cache" / "train" / training_key(store, config, num_ranks))
    launcher = watch(cli.trainer)
    try:
        if cli.trainer.is_global_zero:
            fit_and_log(project, cli, config, work, stop)
        else:
            train(cli, work, None, stop)
    except (MemoryError, RuntimeError) as error:
        if is_out_of_memory(error):
            size = max(store.spec.shape)
            raise UserError(
                f"out of memory; lower train.data.batch_size (now {config['data']['batch_size']}) or "
                f"normalize.size_px (now {size}) in params.yaml"
            ) from error
        if lost := explain_loss(error, launcher, num_ranks):
            raise lost from error
        raise
    finally:
        if launcher is not None:
            launcher.end()


def fit_and_log(project: Path, cli: StageCLI, config: Mapping[str, Any], work: Work, stop: StopRequest) -> None:
    """What rank 0 does: the training as an MLflow run that says how it ended."""
    store: ImageStore = cli.datamodule.store
    with work.held():
        dataset = {"name": store.name, "fingerprint": store.fingerprint, "digest": dataset_digest(project, store)}
        run = open_run(project, work, dataset, config)
        if isinstance(launcher := cli.trainer.strategy.launcher, Launcher):
            launcher.last_words = lambda: run.close("FAILED")
        try:
            curves, keep = train(cli, work, run, stop)
            finish(project, run, cli, config, dataset, curves, keep)
            shutil.rmtree(work.folder)
            run.close("FINISHED")
        except BaseException as error:
            run.close("KILLED" if isinstance(error, KeyboardInterrupt | SystemExit) else "FAILED")
            raise


def is_out_of_memory(error: Exception) -> bool:
    """True for what Python, torch on a CPU and torch on a GPU raise where there is no memory left."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in OUT_OF_MEMORY)


def prepare(cli: StageCLI, config: dict[str, Any], store: ImageStore, project: Path) -> None:
    """Give the model what only the dataset knows, and the seed to both."""
    seed = config["seed_everything"]
    cli.model.seed = cli.datamodule.seed = 0 if seed is True else int(seed)
    cli.datamodule.balanced = cli.model.imbalance == "sampler"
    check_trainer(cli)
    check_ranks(cli, config, store)
    try:
        config["model"]["network"] = cli.model.network_spec = for_pictures(cli.model.network_spec, store.spec.size)
        source = None
        if cli.model.weights is not None:
            if cli.model.weights.startswith("models:/"):
                connect(project)
            source = read(cli.model.weights, cli.model.network_spec)
            config["model"]["weights_sha256"] = source.digest  # logged, and part of what a training is
        split = store.split("train")
        pictures = torch.from_numpy(split.batch(np.arange(min(len(split), NUM_WHITENED))))
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


def training_key(store: ImageStore, config: Mapping[str, Any], num_ranks: int) -> str:
    """SHA-256 of what a training is made of: the data, the parameters, the code and the number of processes."""
    digest = hashlib.sha256(store.fingerprint.encode())
    parameters = {key: value for key, value in flatten(config) if key not in WITHOUT_EFFECT}
    digest.update(json.dumps([parameters, num_ranks], sort_keys=True).encode())
    for name in CODE:
        digest.update((Path(__file__).parent / f"{name}.py").read_bytes())
    return digest.hexdigest()[:32]


def dataset_digest(project: Path, store: ImageStore) -> str:
    """DVC's hash of the normalized dataset; inside a running stage `dvc.lock` holds the current one."""
    try:
        lock = yaml.safe_load((project / "dvc.lock").read_text())
        return str(lock["stages"]["normalize"]["outs"][0]["md5"])
    except (OSError, KeyError, TypeError, IndexError, yaml.YAMLError):
        return store.fingerprint[:32]  # trained without DVC: our own, cut to the length MLflow takes


def open_run(project: Path, work: Work, dataset: Mapping[str, str], config: Mapping[str, Any]) -> TrackedRun:
    """The MLflow run of this training, with its parameters and its dataset."""
    commit = git_commit(project)
    tags = {"convoy.dataset": dataset["name"], "convoy.fingerprint": dataset["fingerprint"]}
    tags |= {COMMIT: commit} if commit else {}
    earlier = work.run_id
    network = config["model"]["network"]["class_path"].rpartition(".")[-1]
    name = f"{network} {time.strftime('%Y-%m-%d %H:%M:%S', time.gmtime())}"
    if is_server(project):
        run: TrackedRun = open_on_server(project, work, dataset["name"], earlier, name, tags)
    else:
        client = connect(project)
        close_killed(client, work)
        run = TrackedRun.open(client, experiment_id(client, dataset["name"], project), earlier, name, tags)
    work.remember(run.run_id)
    described = work.folder / "described"
    if not run.is_of(earlier) or not described.exists():
        run.log_params(config)
        run.log_dataset(dataset["name"], dataset["digest"], project / config["data"]["store"], context="training")
        page = project / config["data"]["store"] / "dataset.html"
        if page.exists():
            run.log_artifact(page, "dataset")
        write_bytes(work.folder / "changes.patch", changes(project))
        run.log_artifact(work.folder / "changes.patch", "source")
        write_bytes(described, b"")
    if isinstance(run, PatientRun):
        run.strict = False
    return run


def open_on_server(
    project: Path, work: Work, experiment: str, run_id: str | None, name: str, tags: Mapping[str, str]
) -> PatientRun:
    """The same on a server, which may be away; one that is there is first sent what has waited for it."""
    with suppress(Away):  # said when the first entry cannot be sent
        client = client_of(project)
        sync(project)
        close_killed(client, work)
    return PatientRun.open(project, experiment, run_id, name, tags)


def close_killed(client: "MlflowClient", work: Work) -> None:
    """Say KILLED of the trainings beside this one that MLflow takes for running and that no process runs."""
    from mlflow.exceptions import MlflowException

    for note in sorted(work.folder.parent.glob("*/run_id")):
        other = Work(note.parent)
        if other.folder == work.folder or other.is_held() or other.run_id is None:
            continue
        outbox = find(work.folder.parent.parent.parent, other.run_id)
        run_id = outbox.run_id if outbox is not None else other.run_id
        try:
            if client.get_run(run_id).info.status == "RUNNING":
                client.set_terminated(run_id, "KILLED")
        except MlflowException:  # that run was deleted
            continue


def train(cli: StageCLI, work: Work, run: TrackedRun | None, stop: StopRequest) -> tuple[Curves, Keep]:
    """Run Lightning's loop; returns the curves and the callback that kept the best epoch.

    Raises:
        SystemExit: 143 after SIGTERM.
    """
    trainer: Any = cli.trainer
    resume = work.resume(tidy=trainer.is_global_zero)
    through = run.last_step("train_loss") if run is not None and resume is not None else -1
    log = run.log_metrics if run is not None else lambda metrics, step: None
    curves = Curves(log, through)
    keep = Keep(work.folder, cli.config["checkpoint_every_min"], stop)
    same = SameEverywhere({"training": work.folder.name, "last checkpoint": resume.name if resume else ""})
    trainer.callbacks = [same, *trainer.callbacks, StopIfNotFinite(), curves, *stoppers(cli.config), keep]
    trainer.strategy.checkpoint_io = DigestCheckpointIO()
    if resume is not None and trainer.is_global_zero:
        print(f"train: going on after step {steps_of(resume):,}, from {resume}", flush=True)
    try:
        trainer.fit(cli.model, cli.datamodule, ckpt_path=resume)
    except SIGTERMException as error:  # by itself it would end the process with status 0
        raise SystemExit(TERMINATED) from error
    finally:
        stop.at_once = True
    if isinstance(trainer.strategy.launcher, Launcher):
        trainer.strategy.launcher.over.set()
    if stop.asked:  # too late for the loop to see it
        raise SystemExit(TERMINATED)
    return curves, keep


def steps_of(checkpoint: Path) -> int:
    """How many steps a checkpoint comes after."""
    return int(re.split("[-.]", checkpoint.name)[1])


def stoppers(config: Any) -> list[pl.Callback]:
    """Ends the training when the validation error reaches `stop_at_error`."""
    if config["stop_at_error"] is None:
        return []
    return [
        EarlyStopping("val_error", mode="min", patience=NEVER, stopping_threshold=config["stop_at_error"] + 1e-12)
    ]


def finish(
    project: Path,
    run: TrackedRun,
    cli: StageCLI,
    config: Mapping[str, Any],
    dataset: Mapping[str, str],
    curves: Curves,
    keep: Keep,
) -> None:
    """Write the stage's output and log the model of the best epoch."""
    store: ImageStore = cli.datamodule.store
    checkpoint = DigestCheckpointIO().load_checkpoint(keep.best())
    cli.model.load_state_dict(checkpoint["state_dict"])
    row = curves.rows[checkpoint["epoch"]]
    info = BundleInfo(
        network=config["model"]["network"],
        classes=store.classes,
        decode=store.spec.to_dict(),
        mean=cli.model.mean,
        std=cli.model.std,
        dataset=dict(dataset),
        metrics={name: row[name] for name in SHOWN if name.startswith("val_") and name in row},
        abstain_below=config["abstain_below"],
        git_commit=git_commit(project),
        lock_sha256=lock_digest(project),
    )
    info = replace(info, **calibrated(Bundle(info, cli.model.served, ""), store, config))
    output = project / "data" / "models" / "classifier"
    output.mkdir(parents=True, exist_ok=True)
    reference = make_reference(Bundle(info, cli.model.served, ""), store, config["reference_pictures"])
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


def calibrated(bundle: Bundle, store: ImageStore, config: Mapping[str, Any]) -> dict[str, Any]:
    """What makes the probabilities of a trained network honest, from one more pass over the validation split: the
    bundle's temperature, and where a picture may bear several labels their thresholds."""
    split = store.split("val")
    logits = Scorer(bundle).split_logits(split, config["data"]["batch_size"])
    temperature = fit_temperature(logits, split.labels)
    if not store.multi_label:
        return {"temperature": temperature}
    known = probabilities(logits, temperature, multi_label=True)
    return {"temperature": temperature, "thresholds": fit_thresholds(known, split.labels)}
