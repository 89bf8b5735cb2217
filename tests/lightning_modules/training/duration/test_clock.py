import json
import re
import shutil
from pathlib import Path

import pytest

from imageset.params import load_section
from lightning_modules.training.duration.clock import PastTraining, format_estimates, scale_past
from lightning_modules.training.duration.estimate import list_candidates
from tests.helpers.project import run_stage, set_params


def read_weights_digest(project: Path) -> str:
    return json.loads((project / "data/models/classifier/bundle.json").read_text())["weights_sha256"]


def test_the_first_line_says_where_and_how_long_and_the_estimate_changes_no_weight(few_digits_project, tmp_path):
    project = Path(shutil.copytree(few_digits_project, tmp_path / "project"))
    set_params(project, train__threads=1)
    code, output = run_stage(project, "fit")
    assert code == 0, output
    num = load_num_train(project)
    place = f"train: CPU with 1 core, {num} pictures: "
    assert re.fullmatch(rf"{place}(a few seconds|about \d+ s)", output.splitlines()[0])
    past = PastTraining.load(project / ".cache")
    assert past is not None and past.num_pictures == num and past.seconds > 0
    digest = read_weights_digest(project)

    PastTraining(171.0, num, past.device, past.setting).save(project / ".cache")  # now nothing is measured
    code, output = run_stage(project, "fit")
    assert output.splitlines()[0] == f"{place}about 3 min"
    assert read_weights_digest(project) == digest


def load_num_train(project: Path) -> int:
    counts = json.loads((project / "data/normalized/dataset.json").read_text())["counts"]["train"]
    return sum(counts.values())


def test_a_past_training_counts_only_on_the_same_device_with_the_same_setting(tmp_path):
    past = PastTraining(60.0, 100, "CPU with 2 cores", "a")
    past.save(tmp_path)
    assert PastTraining.load(tmp_path) == past
    assert scale_past(past, "CPU with 2 cores", "a", 300) == 180
    assert scale_past(past, "GPU", "a", 300) is None
    assert scale_past(past, "CPU with 2 cores", "b", 300) is None
    assert scale_past(None, "GPU", "a", 300) is None
    (tmp_path / "train" / "duration.json").write_text("[]")
    assert PastTraining.load(tmp_path) is None


def test_two_networks_that_take_different_times_are_both_named():
    assert format_estimates([60.0, 170.0]) == "about 1 min, about 3 min if ConvNet is better"
    assert format_estimates([170.0, 171.0]) == "about 3 min"
    assert format_estimates([]) == "how long it takes is known after the first batches"


@pytest.mark.parametrize(
    ("network", "weights", "expected"),
    [
        ("auto", "auto", [("TimmNet", True), ("ConvNet", False)]),
        ("auto", None, [("ConvNet", False)]),
        ("auto", "DEFAULT", [("TimmNet", True)]),
        ("ConvNet", None, [("ConvNet", False)]),
        ("efficientnet_lite0", "auto", [("TimmNet", True)]),
    ],
)
def test_the_candidates_are_those_of_the_training(few_digits_project, tmp_path, network, weights, expected):
    from lightning_modules.classifier import Classifier
    from lightning_modules.datamodule import ImageDataModule
    from lightning_modules.training.cli import build_stage, to_plain_config

    project = Path(shutil.copytree(few_digits_project, tmp_path / "project"))
    set_params(project, train__model__network=network, train__model__weights=weights,
               train__data__store=str(project / "data/normalized"))  # fmt: skip
    assert load_section(project / "params.yaml", "train")["model"]["network"] == network
    cli = build_stage("train", Classifier, ImageDataModule, project / "params.yaml")
    device = cli.trainer.strategy.root_device
    found = list_candidates(cli.model, cli.datamodule.store, to_plain_config(cli.config), device)
    assert [(spec["class_path"].rpartition(".")[2], pretrained) for spec, pretrained in found] == expected
