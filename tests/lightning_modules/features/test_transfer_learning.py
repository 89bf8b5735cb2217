import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from imageset.store.reader import ImageStore
from lightning_modules.bundle import Bundle
from lightning_modules.features.linear_probe import LinearHead, is_correct
from lightning_modules.features.out_of_fold import OutOfFoldPredictions
from lightning_modules.features.transfer_learning import (
    choose_finetune_epochs,
    count_macs,
    has_linear_head,
    set_head,
)
from lightning_modules.networks.convnet import ConvNet
from lightning_modules.networks.factory import check_network
from lightning_modules.networks.weights.installed import read_installed_weights
from lightning_modules.training.trained_model import TrainedModel, choose_better
from tests.helpers.project import run_stage, set_params, start_stage

LITE0 = {"class_path": "efficientnet_lite0", "init_args": {"resize_px": 32}}


@pytest.fixture(scope="module")
def probed(few_digits_project, tmp_path_factory):
    """The digits with frozen pretrained weights, and what the training printed."""
    project = shutil.copytree(few_digits_project, tmp_path_factory.mktemp("probed") / "project")
    set_params(project, train__model__network=LITE0, train__model__weights="DEFAULT", train__budget=1e-6)
    code, output = run_stage(project, "fit")
    assert code == 0, output
    return project, output


def test_a_budget_that_is_too_small_leaves_the_frozen_network_with_the_probes_head(probed):
    project, output = probed
    assert "fine-tuning would exceed train.budget" in output
    assert "train: linear probe, val_loss 0." in output
    assert "train: the weights are from pictures of 224 px, the network gets 32 px; " in output
    bundle = Bundle.load(project / "data/models/classifier")
    assert bundle.info.metrics["val_accuracy"] > 0.8
    assert bundle.info.fitted_splits == ("train", "val")  # the registered head has learned from both
    backbone = {name: value for name, value in read_installed_weights().items() if name.startswith("blocks")}
    loaded = bundle.network.network.state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in backbone.items())


@pytest.mark.parametrize("mirrors", [False, True])
def test_the_work_of_fine_tuning_is_that_of_its_steps_which_compute_no_mirror_image(
    probed, tmp_path, monkeypatch, mirrors
):
    from lightning_modules.classifier import Classifier
    from lightning_modules.datamodule import ImageDataModule
    from lightning_modules.features import transfer_learning
    from lightning_modules.networks.factory import make_network
    from lightning_modules.networks.registry import resolve_stem
    from lightning_modules.training.cli import build_stage, to_plain_config
    from lightning_modules.training.stage import prepare_training

    monkeypatch.setattr(transfer_learning, "mirror_helps", lambda *_: mirrors)
    project = Path(shutil.copytree(probed[0], tmp_path / "project"))
    set_params(project, train__data__store=str(project / "data/normalized"), train__trainer__max_epochs=15)
    cli = build_stage("train", Classifier, ImageDataModule, project / "params.yaml")
    store = cli.datamodule.store
    network = make_network(resolve_stem(cli.model.network_spec, 32), store.spec.channels, len(store.classes))
    macs = count_macs(network, store.spec.shape)
    budget = 4.5 * transfer_learning.PASSES_PER_STEP * macs * store.counts["train"] / 1e12
    probe = prepare_training(cli, to_plain_config(cli.config) | {"budget": budget}, store, project)
    assert (probe.mirror, cli.trainer.max_epochs) == (mirrors, 4)


def test_the_probe_is_one_finished_run_with_its_metrics(probed):
    from lightning_modules.tracking.client import connect_to_mlflow

    project, _ = probed
    note = json.loads((project / "data/models/classifier/run.json").read_text())
    run = connect_to_mlflow(project).get_run(note["run_id"])
    assert run.info.status == "FINISHED"
    assert run.data.metrics["probe_val_accuracy"] == run.data.metrics["best_val_accuracy"]
    assert (project / "data/models/classifier/history.csv").read_text().count("\n") == 2


def test_the_same_probe_twice_gives_the_same_weights_without_computing_a_feature_again(probed, tmp_path):
    project, _ = probed
    copy = shutil.copytree(project, tmp_path / "copy")
    code, output = run_stage(copy, "fit")
    assert code == 0, output
    name = "data/models/classifier/weights.safetensors"
    assert (copy / name).read_bytes() == (project / name).read_bytes()
    assert "features:" not in output


def test_the_model_is_evaluated_like_any_other(probed, tmp_path):
    project, _ = probed
    copy = shutil.copytree(project, tmp_path / "copy")
    code, output = run_stage(copy, "test")
    assert code == 0, output
    assert json.loads((copy / "metrics.json").read_text())["test"]["accuracy"] > 0.8


def test_labels_are_checked_in_all_splits_since_the_probe_keeps_out_of_fold_predictions(probed, tmp_path):
    project, _ = probed
    copy = shutil.copytree(project, tmp_path / "copy")
    store = ImageStore.open(copy / "data/normalized")
    train = store.split("train")
    path = copy / "data/models/classifier"
    predictions = OutOfFoldPredictions.load(path)
    logits = predictions.select(train.image_ids)
    assert is_correct(logits, train.labels).mean() > 0.75
    wrong = logits.copy()
    suggested = (train.labels[7] + 1) % len(store.classes)
    wrong[7] = 20.0 * (np.arange(len(store.classes)) == suggested)
    both = np.concatenate([wrong, predictions.select(store.split("val").image_ids)])
    replace(predictions, logits=both).save(path)
    code, output = run_stage(copy, "test")
    assert code == 0, output
    with (copy / "data/models/report/label_issues.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    found = next(row for row in rows if row["image_id"] == train.image_ids[7])
    assert found["label"] == store.classes[train.labels[7]]
    assert found["suggested"] == store.classes[suggested]


def test_out_of_fold_predictions_are_read_as_they_were_written(tmp_path):
    logits = np.random.default_rng(0).normal(size=(3, 2)).astype(np.float32)
    OutOfFoldPredictions(("a", "b", "c"), logits, 1.5, (0.25, 0.5)).save(tmp_path)
    read = OutOfFoldPredictions.load(tmp_path)
    assert (read.temperature, read.thresholds, read.image_ids) == (1.5, (0.25, 0.5), ("a", "b", "c"))
    assert np.array_equal(read.select(["c", "a"]), logits[[2, 0]])
    assert read.select(["a", "d"]) is None
    assert OutOfFoldPredictions.load(tmp_path / "elsewhere") is None


@pytest.mark.long
def test_fine_tuning_starts_from_the_probe_and_is_resumed_after_a_kill(probed, tmp_path):
    project, _ = probed
    name = "data/models/classifier/weights.safetensors"
    outputs = []
    for kill in (False, True):
        copy = shutil.copytree(project, tmp_path / f"copy{kill}")
        set_params(copy, train__budget=None, train__trainer__max_epochs=2, train__checkpoint_every_min=0)
        set_params(copy, train__model__optimizer={"class_path": "torch.optim.AdamW", "init_args": {"lr": 1e-4}})
        if kill:
            process = start_stage(copy, "lightning_modules", "fit")
            while not list((copy / ".cache/train").glob("*/last-*.ckpt")):
                assert process.poll() is None, process.stdout.read()
            process.kill()
            process.communicate()
        code, output = run_stage(copy, "fit")
        assert code == 0, output
        outputs.append((output, (copy / name).read_bytes()))
    (calm, weights), (resumed, resumed_weights) = outputs
    assert "epoch 2/2" in calm and "resuming after step" in resumed
    assert weights == resumed_weights
    probe, first = (float(line.split("val_accuracy ")[1].split(",")[0].split(";")[0]) for line in (
        next(line for line in calm.splitlines() if "linear probe: val_loss" in line),
        next(line for line in calm.splitlines() if "epoch 1/2, train_loss" in line),
    ))  # fmt: skip
    assert first > probe - 0.15  # a new random head would be near 0.33


def test_a_budget_of_zero_is_one_line(probed, tmp_path):
    copy = shutil.copytree(probed[0], tmp_path / "copy")
    set_params(copy, train__budget=0)
    code, output = run_stage(copy, "fit")
    assert code == 2
    assert output.strip().splitlines()[-1] == (
        "error: params.yaml: train.budget is 0; give a number above 0, or null"
    )


def test_epochs_are_limited_by_work_and_too_few_are_none():
    epoch = 3 * 1e9 * 1000  # multiply-adds of an epoch over 1,000 images
    assert choose_finetune_epochs(10, 10**9, 1000, None) == 10
    assert choose_finetune_epochs(10, 10**9, 1000, 100 * epoch / 1e12) == 5
    assert choose_finetune_epochs(-1, 10**9, 1000, 100 * epoch / 1e12) == 5
    assert choose_finetune_epochs(10, 10**9, 1000, 4.5 * epoch / 1e12) == 4
    assert choose_finetune_epochs(10, 10**9, 1000, 2.9 * epoch / 1e12) == 0
    assert choose_finetune_epochs(2, 10**9, 1000, 2.9 * epoch / 1e12) == 2


def test_the_head_is_set_and_the_multiply_adds_are_counted():
    network = ConvNet(3, 4, filters=(8,), grid=2, hidden=())
    network.train().features[1].eval()  # as a frozen layer
    assert has_linear_head(network, (16, 16, 3), 4)
    head = LinearHead(np.arange(4 * 32, dtype=np.float32).reshape(4, 32), np.ones(4, np.float32))
    set_head(network, head)
    assert network.classifier[0].weight.tolist() == head.weight.tolist()
    assert count_macs(network, (16, 16, 3)) == 16 * 16 * 8 * 3 * 9 + 32 * 4
    check_network(network, (16, 16, 3), 4)
    assert network.training and network.classifier.training and not network.features[1].training


def test_a_last_layer_that_is_followed_by_others_is_no_linear_head():
    from torchvision.models import squeezenet1_1

    assert not has_linear_head(squeezenet1_1(num_classes=4), (64, 64, 3), 4)


def make_model(name, logits):
    return TrainedModel(name, torch.nn.Identity(), torch.nn.Identity(), {}, 0, {}, np.asarray(logits, np.float32))


def test_the_fine_tuned_network_must_beat_the_probe_in_loss_without_losing_accuracy():
    labels = np.array([0, 1] * 20)
    right, weak = np.eye(2)[labels] * 4, np.eye(2)[labels] * 4
    weak[:8] = weak[:8, ::-1]
    probe, better = make_model("probe", weak), make_model("tuned", right)
    assert choose_better(probe, better, labels) is better
    assert choose_better(better, probe, labels) is better
    assert choose_better(probe, make_model("tuned", weak), labels) is probe  # a tie


def test_a_small_gain_on_a_small_split_may_be_chance():
    draws = np.random.default_rng(1)
    labels = np.array([0, 1] * 10)
    margins = draws.normal(2, 1.5, 20)  # logit of the right class over that of the other
    changed = margins + draws.normal(0.1, 0.5, 20)
    signs = np.where(labels == 0, 1, -1)
    few = [np.stack([signs * values / 2, -signs * values / 2], axis=1) for values in (margins, changed)]
    many = [np.tile(logits, (50, 1)) for logits in few]
    for logits, name in ((few, "probe"), (many, "tuned")):
        models = make_model("probe", logits[0]), make_model("tuned", logits[1])
        assert choose_better(*models, np.tile(labels, len(logits[0]) // 20)).name == name
