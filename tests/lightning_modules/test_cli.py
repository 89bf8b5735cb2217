import shutil

import pytest

from imageset.errors import UserError
from lightning_modules.classifier import Classifier
from lightning_modules.cli import build_stage
from lightning_modules.datamodule import ImageDataModule
from tests.lightning_modules.conftest import ROOT, set_params


@pytest.fixture
def build(digits_project, tmp_path):
    shutil.copy(ROOT / "params.yaml", tmp_path)
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
    cli.model.build((0.5,), (0.5,), 10)
    assert type(cli.model.make_optimizer(cli.model.parameters())).__name__ == "SGD"


def test_a_missing_key_is_named(build, tmp_path):
    import yaml

    params = yaml.safe_load((tmp_path / "params.yaml").read_text())
    del params["train"]["model"]["shift"]
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    with pytest.raises(UserError, match=r"the key 'model\.shift' is missing"):
        build()
