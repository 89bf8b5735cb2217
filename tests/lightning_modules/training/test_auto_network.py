import json
import re
import shutil

import pytest

from lightning_modules.bundle import check_bundle
from lightning_modules.training.auto_network import choose_side, extrapolate
from tests.helpers.project import run_stage, set_params

AUTO = {"train__model__network": "auto", "train__model__weights": "auto"}


def read_network(project):
    return check_bundle(project / "data/models/classifier")[0].network


@pytest.fixture(scope="module")
def chosen(digits_project, tmp_path_factory):
    """The digits with `network: auto`, trained; and what that printed."""
    project = shutil.copytree(digits_project, tmp_path_factory.mktemp("auto") / "project")
    set_params(project, **AUTO, train__trainer__max_epochs=8)
    code, output = run_stage(project, "fit")
    assert code == 0, output
    return project, output


def test_digits_get_random_weights_and_both_numbers_are_said(chosen):
    project, output = chosen
    first = next(line for line in output.splitlines() if line.startswith("train: network: "))
    numbers = r"validation accuracy [01]\.\d{4} \(efficientnet_lite0: 0\.\d{4}\); tried on 1,1\d\d pictures"
    assert re.fullmatch(f"train: network: ConvNet, {numbers}", first), first
    assert read_network(project)["class_path"] == "lightning_modules.networks.ConvNet"
    assert read_network(project)["init_args"]["filters"] == [32, 64, 128]


def test_the_run_has_the_parameters_that_auto_stood_for(chosen):
    from lightning_modules.tracking.client import connect_to_mlflow

    project, _ = chosen
    run_id = json.loads((project / "data/models/classifier/run.json").read_text())["run_id"]
    params = connect_to_mlflow(project).get_run(run_id).data.params
    assert params["model.network.class_path"] == "lightning_modules.networks.ConvNet"
    assert (params["model.weights"], params["model.flip"]) == ("None", "False")


@pytest.mark.long
def test_the_choice_is_kept_and_the_training_is_that_of_the_chosen_network(chosen, tmp_path):
    project, output = chosen
    weights = (project / "data/models/classifier/weights.safetensors").read_bytes()
    copy = shutil.copytree(project, tmp_path / "copy")
    code, again = run_stage(copy, "fit")
    assert code == 0, again
    assert "features:" not in again  # nothing was tried again
    assert [line for line in again.splitlines() if "network:" in line] == [
        line for line in output.splitlines() if "network:" in line
    ]
    assert (copy / "data/models/classifier/weights.safetensors").read_bytes() == weights
    set_params(copy, train__model__network="ConvNet", train__model__weights=None)
    code, again = run_stage(copy, "fit")
    assert code == 0, again
    assert (copy / "data/models/classifier/weights.safetensors").read_bytes() == weights


@pytest.mark.parametrize("fits_budget", [None, lambda side_px: True, lambda side_px: False])
@pytest.mark.parametrize(
    ("side_px", "expected"), [(28, 64), (32, 64), (64, 224), (128, 224), (224, 224), (256, 256)]
)
def test_images_are_enlarged_towards_the_size_that_the_weights_know(side_px, expected, fits_budget):
    assert choose_side(side_px, fits_budget) == expected


@pytest.mark.parametrize(
    ("side_px", "expected"), [(28, 64), (64, 128), (128, 128), (160, 160), (192, 224), (256, 256)]
)
def test_images_stay_smaller_where_only_so_fine_tuning_fits_the_budget(side_px, expected):
    assert choose_side(side_px, lambda px: px <= 160) == expected


def test_the_error_is_extrapolated_as_a_power_of_the_number_of_images():
    assert extrapolate([1500], [0.7], 1500) == 0.7
    assert extrapolate([375, 1500], [0.6, 0.8], 6000) == pytest.approx(0.9)
    assert extrapolate([375, 1500], [0.8, 0.7], 6000) == pytest.approx(0.7)  # never worse with more
    assert extrapolate([375, 1500], [1.0, 1.0], 6000) == 1.0
    assert extrapolate([375, 1500], [1.0, 0.9], 6000) == pytest.approx(0.9)
