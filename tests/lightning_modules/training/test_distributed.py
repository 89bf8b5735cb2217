"""Two processes on one machine that train one network over gloo."""

import csv
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from flows.orchestration.prefect_server import find_free_port
from imageset.exceptions import UserError
from imageset.raw.ingestion import ingest_source
from imageset.sources.factory import open_source
from lightning_modules.bundle import Bundle
from lightning_modules.classifier import Classifier
from lightning_modules.datamodule import ImageDataModule
from lightning_modules.tracking.client import connect_to_mlflow
from lightning_modules.training.cli import build_stage, to_plain_config
from lightning_modules.training.distributed import RankConsistencyCheck, apply_torchrun_env, describe_lost_rank
from lightning_modules.training.stage import check_ranks
from tests.helpers.images import write_multilabel_images
from tests.helpers.project import copy_params, run_stage, set_params

SGD = {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.02, "momentum": 0.9, "nesterov": True}}
TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]


def start(project: Path, *command: str) -> subprocess.Popen:
    env = {k: v for k, v in os.environ.items() if k != "MLFLOW_TRACKING_URI"}
    return subprocess.Popen(
        [*command, "-m", "lightning_modules", "fit"], cwd=project, env=env, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def until(said, process, timeout_s=900) -> None:
    deadline = time.monotonic() + timeout_s
    while not said():
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def steps(project: Path) -> int:
    return max((int(path.name.split("-")[1]) for path in project.glob(".cache/train/*/last-*.ckpt")), default=0)


def other_ranks(process: subprocess.Popen) -> list[psutil.Process]:
    return [
        one for one in psutil.Process(process.pid).children() if "lightning_modules" in " ".join(one.cmdline())
    ]


def rows(project: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((project / "data/models/classifier/history.csv").open()))


def note(project: Path) -> dict:
    return json.loads((project / "data/models/classifier/run.json").read_text())


@pytest.fixture(scope="module")
def projects(digits_project, tmp_path_factory) -> Iterator[tuple[Path, Path]]:
    """The same training for two processes and, with the double batch, for one. No augmentation and no dropout,
    which draw for each rank, and no batch normalization: over several ranks it works on GPUs only. Full precision
    and SGD, which makes no more of the last digit of a gradient: AdamW divides small ones by their own size, and
    then one picture in the middle between two classes may be told either way."""
    yield in_twos(digits_project, tmp_path_factory.mktemp("ranks"))


def in_twos(project: Path, folder: Path) -> tuple[Path, Path]:
    """Two copies of a project: to train with two processes, and with one and the double batch."""
    for name, devices, batch_size in (("two", 2, 32), ("one", 1, 64)):
        copy = Path(shutil.copytree(project, folder / name))
        set_params(
            copy, train__trainer__devices=devices, train__trainer__accelerator="cpu",
            train__trainer__precision="32-true", train__model__optimizer=SGD,
            train__data__batch_size=batch_size, train__model__shift=0.0, train__checkpoint_every_min=0,
            train__model__network__init_args__dropout=0.0, train__model__network__init_args__batch_norm=False,
        )  # fmt: skip
    return folder / "two", folder / "one"


@pytest.fixture(scope="module")
def label_sets(tmp_path_factory, empty_mlflow_db) -> Path:
    """A project whose pictures bear several labels."""
    project = tmp_path_factory.mktemp("labels")
    copy_params(project)
    shutil.copy(empty_mlflow_db, project / "mlflow.db")
    table = write_multilabel_images(project / "pairs", 400)
    ingest_source(open_source(f"{table}?labels=zero,one,two,three"), project / "data" / "raw")
    set_params(project, train__trainer__max_epochs=2, normalize__size_px=16, normalize__near_duplicate_bits=None)
    code, output = run_stage(project, "normalize", "imageset")
    assert code == 0, output
    return project


@pytest.mark.long
def test_two_ranks_end_together_go_on_together_and_give_the_metrics_of_one_with_the_double_batch(projects):
    two, one = projects
    process = start(two, sys.executable)
    until(lambda: steps(two) >= 2, process)
    (other,) = other_ranks(process)
    other.send_signal(signal.SIGTERM)  # to the rank that neither logs nor writes
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 143, output
    stopped_at = steps(two)
    (begun,) = two.glob(".cache/train/*/run_id")
    run_id = begun.read_text()
    assert connect_to_mlflow(two).get_run(run_id).info.status == "KILLED"

    process = start(two, sys.executable)
    until(lambda: steps(two) > stopped_at + 2, process)
    (other,) = other_ranks(process)
    other.kill()
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 2, output
    assert f"train: resuming after step {stopped_at}, " in output
    assert "error: rank 1 was ended by SIGKILL, so all ranks stopped; run the same command again to " in output
    assert "Traceback" not in output
    assert connect_to_mlflow(two).get_run(run_id).info.status == "FAILED"
    stopped_at = steps(two)

    process = start(two, *TORCHRUN, "--nproc-per-node=2", f"--master-port={find_free_port()}")
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output
    assert output.count("train: resuming after step") == 1
    assert note(two)["run_id"] == run_id
    client = connect_to_mlflow(two)
    assert client.get_run(run_id).info.status == "FINISHED"
    assert [point.step for point in client.get_metric_history(run_id, "train_loss")] == [0, 1, 2]
    assert [path for path in (two / ".cache/train").iterdir() if path.is_dir()] == []

    code, output = run_stage(one, "fit")
    assert code == 0, output
    for alone, together in zip(rows(one), rows(two), strict=True):
        for name in ("train_loss", "train_accuracy", "val_loss", "val_accuracy", "learning_rate"):
            assert float(together[name]) == pytest.approx(float(alone[name]), abs=1e-4), (name, alone, together)


@pytest.mark.long
def test_several_labels_a_picture_are_measured_over_two_ranks_and_end_when_the_time_is_over(label_sets, tmp_path):
    two, one = in_twos(label_sets, tmp_path)
    for project in (two, one):
        code, output = run_stage(project, "fit")
        assert code == 0, output
    for alone, together in zip(rows(one), rows(two), strict=True):
        for name in ("train_loss", "train_accuracy", "val_loss", "val_accuracy", "val_map"):
            assert float(together[name]) == pytest.approx(float(alone[name]), abs=1e-4), (name, alone, together)

    set_params(two, train__trainer__max_epochs=100_000, train__trainer__max_time="00:00:00:02")
    code, output = run_stage(two, "fit")
    assert code == 0, output
    assert 0 < len(rows(two)) < 100_000 and all(0 <= float(row["val_map"]) <= 1 for row in rows(two))
    assert connect_to_mlflow(two).get_run(note(two)["run_id"]).info.status == "FINISHED"
    thresholds = Bundle.load(two / "data/models/classifier").info.thresholds
    assert thresholds is not None and len(thresholds) == 4


def test_torchruns_numbers_are_those_of_the_trainer(monkeypatch):
    assert apply_torchrun_env({"devices": "auto"}) == {"devices": "auto"}
    for name, value in (("TORCHELASTIC_RUN_ID", "x"), ("LOCAL_WORLD_SIZE", "4"), ("GROUP_WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    assert apply_torchrun_env({"devices": "auto"}) == {"devices": 4, "num_nodes": 2}
    assert apply_torchrun_env({"devices": [0, 1, 2, 3], "num_nodes": 2}) == {
        "devices": [0, 1, 2, 3],
        "num_nodes": 2,
    }
    for wrong in ({"devices": 2}, {"devices": [0]}, {"num_nodes": 1}):
        (key,) = wrong
        with pytest.raises(
            UserError, match=rf"trainer\.{key} is .*torchrun started 4 processes on each of 2 mach"
        ):
            apply_torchrun_env({"devices": "auto"} | wrong)


def in_two_processes(work, *arguments) -> list[str]:
    """Return the results or errors of `work(rank, *arguments)` in two forked processes connected by gloo."""
    context = multiprocessing.get_context("fork")
    answers, port = context.SimpleQueue(), find_free_port()

    def one(rank: int) -> None:
        import torch

        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), GLOO_SOCKET_IFNAME="lo")
        torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
        try:
            answers.put((rank, str(work(rank, *arguments))))
        except Exception as error:
            answers.put((rank, f"{type(error).__name__}: {error}"))
        os._exit(0)

    processes = [context.Process(target=one, args=(rank,)) for rank in range(2)]
    for process in processes:
        process.start()
    said = dict(answers.get() for _ in processes)
    for process in processes:
        process.join()
    return [said[0], said[1]]


def test_ranks_that_would_not_train_the_same_stop_before_the_first_step():
    def check(rank: int, names: tuple[str, str]):
        return RankConsistencyCheck({"last checkpoint": names[rank]}).setup(
            SimpleNamespace(world_size=2), None, "fit"
        )

    assert in_two_processes(check, ("a", "a")) == ["None", "None"]
    for answer in in_two_processes(check, ("a", "")):
        assert answer.startswith(
            "UserError: rank 1 has a different last checkpoint than rank 0: none, not a; all ranks need"
        )


def test_what_a_rank_says_when_another_is_gone_is_one_line():
    def ask(rank: int):
        import torch

        if rank == 1:
            return "gone"
        try:
            for _ in range(100):
                torch.distributed.all_reduce(torch.ones(1))
        except RuntimeError as error:
            return describe_lost_rank(error, None, 2)

    assert "another rank has ended (see its message)" in in_two_processes(ask)[0]
    assert describe_lost_rank(RuntimeError("shape mismatch"), None, 2) is None
    assert describe_lost_rank(RuntimeError("Connection closed by peer"), None, 1) is None


def test_what_several_processes_cannot_do_is_named_before_they_start(projects):
    two, _ = projects
    before = (two / "params.yaml").read_text()
    for change, said in (
        ({"train__trainer__sync_batchnorm": True}, "trainer.sync_batchnorm works on GPUs only"),
        ({"train__trainer__devices": 300}, "pictures in val for 300 processes; lower train.trainer.devices"),
    ):
        set_params(two, train__data__store=str(two / "data/normalized"), **change)
        cli = build_stage("train", Classifier, ImageDataModule, two / "params.yaml")
        with pytest.raises(UserError, match=said):
            check_ranks(cli, to_plain_config(cli.config), cli.datamodule.store)
        (two / "params.yaml").write_text(before)
