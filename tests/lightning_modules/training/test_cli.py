from pathlib import Path

import pytest
import torch

from imageset.exceptions import UserError
from lightning_modules.classifier import Classifier
from lightning_modules.datamodule import ImageDataModule
from lightning_modules.training.cli import build_stage, choose_precision, to_plain_config
from lightning_modules.training.stage import prepare_training
from tests.helpers.project import copy_params, set_params


@pytest.fixture
def build(digits_project, tmp_path):
    copy_params(tmp_path)
    set_params(tmp_path, train__data__store=str(digits_project / "data/normalized"))

    def build(**changes):
        set_params(tmp_path, **changes)
        return build_stage("train", Classifier, ImageDataModule, tmp_path / "params.yaml")

    return build


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train__trainer__max_epoch": 3}, "unknown key 'trainer.max_epoch'; did you mean 'trainer.max_epochs'?"),
        ({"train__modle": {}}, "unknown key 'modle'; did you mean 'model'?"),
        ({"train__data__batchsize": 3}, "unknown key 'data.batchsize'; did you mean 'data.batch_size'?"),
        ({"train__model__network__init_args__filter": [3]}, "model.network: unknown key 'filter'; did you"),
        ({"train__model__network__init_args__pool": "median"}, "Got value: median"),
        ({"train__model__network__class_path": "lightning_modules.networks.Conv"}, "has no attribute 'Conv'"),
        ({"train__model__network": "resnet-18"}, "no network is called 'resnet-18'; did you mean 'resnet18'?"),
        ({"train__model__network": {"class_path": "torch.nn.ReLU"}}, "does not take (in_channels, num_classes)"),
        ({"train__model__network": {"class_path": "fractions.Fraction"}}, "does not take (in_chan"),
        ({"train__model__network": {"class_path": "LeNet5", "init_arg": {}}}, "unknown key 'init_arg'; did"),
        ({"train__model__network": {"class_path": "resnet18", "init_args": {"stm": 1}}}, "unknown key 'stm'; did"),
        ({"train__model__network": ["resnet18"]}, "give a name such as resnet18"),
        ({"train__trainer__precision": "bf17"}, "trainer.precision: 'bf17' does not fit; expected auto, 64, 32"),
        ({"train__model__imbalance": "weight"}, "model.imbalance"),
        ({"train__model__schedule": "linear"}, "model.schedule"),
        ({"train__model__optimizer__class_path": "torch.optim.Adamm"}, "'torch.optim.Adamm' cannot be used"),
        ({"train__model__optimizer__init_args__learning": 1}, "model.optimizer: unknown key 'learning'"),
        ({"train__trainer__max_epochs": "many"}, "trainer.max_epochs: 'many' does not fit; expected int, null"),
        ({"train__data__batch_size": 0}, "data.batch_size is 0"),
        ({"train__data__store": "nowhere"}, "nowhere"),
    ],
)  # fmt: skip
def test_a_wrong_setting_is_one_line_that_names_it(build, change, message):
    with pytest.raises(UserError) as caught:
        build(**change)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_network_that_is_not_for_these_pictures_is_named_before_any_epoch(build):
    for network, said in (
        ("vit_b_16", "takes pictures of 224 px only, these have 16 x 16"),
        ("timm/resnet26dd", "timm has no network 'resnet26dd'; did you mean 'resnet26d'?"),
        ({"class_path": "torch.nn.Linear"}, "it does not take pictures of 16x16x1"),
        (
            {"class_path": f"{__name__}.no_logits"},
            "it returns (2, 1, 16, 16) for 2 pictures, not their logits (2, 10)",
        ),
        ({"class_path": f"{__name__}.no_network"}, "gives a int, not a torch.nn.Module"),
        ({"class_path": "fractions.gcd"}, "cannot be imported"),
    ):
        with pytest.raises(UserError) as caught:
            cli = build(train__model__network=network)
            prepare_training(cli, to_plain_config(cli.config), cli.datamodule.store, Path())
        assert said in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"train__trainer__precision": "bf16-true"},
            "trainer.precision: bf16-true stores the weights in this precision",
        ),
        ({"train__trainer__max_epochs": -1}, "trainer.max_epochs is unlimited"),
        (
            {"train__trainer__max_epochs": None, "train__trainer__max_time": "00:00:01:00"},
            "max_epochs is unlimited",
        ),
        ({"train__model__weights": "wrong_shape.pth"}, "the network has [2, 1, 3, 3]"),
        ({"train__model__weights": "more_layers.pth"}, "unexpected"),
        ({"train__model__weights": "nowhere.pth"}, "nowhere.pth: No such file"),
    ],
)
def test_what_would_fail_at_the_first_step_is_named_before_any_epoch(build, tmp_path, monkeypatch, change, said):
    monkeypatch.chdir(tmp_path)
    state = small_network(1, 10).state_dict()
    torch.save({**state, "0.weight": torch.ones(2, 1, 5, 5)}, "wrong_shape.pth")
    torch.save({**state, "4.weight": torch.ones(1)}, "more_layers.pth")
    with pytest.raises(UserError) as caught:
        cli = build(train__model__network=f"{__name__}.small_network", **change)
        prepare_training(cli, to_plain_config(cli.config), cli.datamodule.store, Path())
    assert said in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("network", "path"),
    [("resnet18", "TorchvisionNet"), ("timm/resnet26d", "TimmNet"), ("LeNet5", "LeNet5"), ("ConvNet", "ConvNet")],
)
def test_a_network_may_be_a_plain_name(build, network, path):
    spec = build(train__model__network=network).model.network_spec
    assert spec["class_path"] == f"lightning_modules.networks.{path}"
    assert spec["init_args"].get("stem", "auto") == "auto"


def no_logits(in_channels: int, num_classes: int) -> torch.nn.Module:
    return torch.nn.Identity()


def no_network(in_channels: int, num_classes: int) -> torch.nn.Module:
    return in_channels + num_classes


def small_network(in_channels: int, num_classes: int, width: int = 2) -> torch.nn.Module:
    return torch.nn.Sequential(
        torch.nn.Conv2d(in_channels, width, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(),
        torch.nn.Linear(width, num_classes),
    )  # fmt: skip


def test_a_function_that_returns_a_network_is_one(build):
    path = f"{__name__}.small_network"
    cli = build(train__model__network={"class_path": path, "init_args": {"width": 5}})
    prepare_training(cli, to_plain_config(cli.config), cli.datamodule.store, Path())
    assert cli.model.network[0].out_channels == 5
    assert build(train__model__network=path).model.network_spec["init_args"] == {"width": 2}


def test_any_option_of_the_trainer_can_be_named(build):
    assert build(train__trainer__accumulate_grad_batches=3).trainer.accumulate_grad_batches == 3


def test_any_callback_can_be_named(build):
    swa = {"class_path": "pytorch_lightning.callbacks.StochasticWeightAveraging", "init_args": {"swa_lrs": 0.01}}
    cli = build(train__trainer__callbacks=[swa])
    assert "StochasticWeightAveraging" in [type(callback).__name__ for callback in cli.trainer.callbacks]


def test_any_optimizer_can_be_named(build):
    cli = build(
        train__model__optimizer={"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1, "momentum": 0.9}}
    )
    cli.model.build((0.5,), (0.5,), tuple("0123456789"))
    assert type(cli.model.make_optimizer(cli.model.parameters())).__name__ == "SGD"


def test_a_missing_key_is_named(build, tmp_path):
    import yaml

    params = yaml.safe_load((tmp_path / "params.yaml").read_text())
    del params["train"]["model"]["shift"]
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    with pytest.raises(UserError, match=r"the key 'model\.shift' is missing"):
        build()


@pytest.mark.parametrize(("bf16", "precision"), [(True, "bf16-mixed"), (False, "32-true")])
def test_precision_auto_is_bf16_on_a_gpu_or_cpu_that_has_it_and_else_full(monkeypatch, bf16, precision):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: bf16)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_precision("cpu") == choose_precision("auto") == choose_precision(None) == precision
    assert choose_precision("gpu") == "32-true"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: not bf16)
    assert choose_precision("cpu") == precision and choose_precision("auto") != precision
    assert choose_precision("mps") == "32-true"
