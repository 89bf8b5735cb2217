import shutil
from pathlib import Path

import pytest
import yaml

from flows.project.paths import TEMPLATES
from flows.project.presets import apply_preset
from flows.project.project import Project
from imageset.exceptions import UserError
from tests.helpers.project import ROOT

PRESETS = sorted(path.stem for path in (TEMPLATES / "presets").glob("*.yaml"))


@pytest.fixture
def project(tmp_path) -> Path:
    shutil.copy(ROOT / "params.yaml", tmp_path)
    (tmp_path / "presets").mkdir()
    return tmp_path


def read_params(project: Path) -> dict:
    return yaml.safe_load((project / "params.yaml").read_text())


def list_keys(tree: dict, prefix: str = "") -> set[str]:
    """The names that a preset sets, a network or an optimizer as a whole."""
    found = set()
    for key, value in tree.items():
        is_section = isinstance(value, dict) and "class_path" not in value and key not in ("network", "optimizer")
        found |= list_keys(value, f"{prefix}{key}.") if is_section else {f"{prefix}{key}"}
    return found


def test_the_five_presets_are_there():
    assert PRESETS == ["best", "default", "fast", "finetune", "scratch"]


def test_a_fresh_params_yaml_is_the_default_preset(project):
    before = (project / "params.yaml").read_bytes()
    assert apply_preset("default", Project(project)) == "preset default: params.yaml holds these values already"
    assert (project / "params.yaml").read_bytes() == before


@pytest.mark.parametrize("first", PRESETS)
@pytest.mark.parametrize("second", PRESETS)
def test_the_preset_that_was_applied_last_decides_alone(project, first, second):
    other = project / "other"
    shutil.copytree(project, other, ignore=shutil.ignore_patterns("other"))
    apply_preset(second, Project(other))
    apply_preset(first, Project(project))
    apply_preset(second, Project(project))
    assert read_params(project) == read_params(other)


def test_every_preset_sets_every_key_that_another_sets():
    files = {name: yaml.safe_load((TEMPLATES / f"presets/{name}.yaml").read_text()) for name in PRESETS}
    keys = {name: list_keys(preset) for name, preset in files.items()}
    assert all(keys[name] == keys["default"] for name in PRESETS)
    assert "normalize.size_px" in keys["default"] and "train.model.weights" in keys["default"]


@pytest.mark.parametrize("name", PRESETS)
def test_all_comments_are_back_after_the_default(project, name):
    def comments() -> list[str]:
        lines = (project / "params.yaml").read_text().splitlines()
        return [line.partition("#")[2].strip() for line in lines if "#" in line]

    before = comments()
    apply_preset(name, Project(project))
    apply_preset("default", Project(project))
    assert comments() == before


def test_the_values_are_in_params_yaml_and_its_comments_and_other_sections_stay(project):
    before = read_params(project)
    said = apply_preset("fast", Project(project))
    assert "train.model.network" in said and "train.trainer.max_epochs" in said and said.count("\n") == 0
    text = (project / "params.yaml").read_text()
    after = yaml.safe_load(text)
    assert after["train"]["model"]["network"]["class_path"] == "SpeedNet"
    fast = yaml.safe_load((TEMPLATES / "presets" / "fast.yaml").read_text())
    assert fast["train"]["trainer"]["max_epochs"] != before["train"]["trainer"]["max_epochs"]
    assert after["train"]["trainer"] == before["train"]["trainer"] | fast["train"]["trainer"]
    touched = ("normalize", "train")
    assert {k: v for k, v in after.items() if k not in touched} == {
        k: v for k, v in before.items() if k not in touched
    }
    assert "# Every number that changes a result" in text and "# any torch.optim class" in text


def test_a_preset_of_ones_own_may_hold_the_keys_of_train_alone(project):
    (project / "presets/mine.yaml").write_text("trainer: {max_epochs: 2}\nmodel: {warmup: 0.5}\n")
    assert apply_preset("mine", Project(project)).startswith(
        "preset mine: changed in params.yaml: train.trainer.max_epochs, train.model.warmup;"
    )
    assert read_params(project)["train"]["trainer"]["max_epochs"] == 2


def test_keys_that_an_older_params_yaml_lacks_are_added(project):
    params = read_params(project)
    del params["train"]["budget"], params["train"]["model"]["layer_decay"]
    (project / "params.yaml").write_text(yaml.safe_dump(params))
    apply_preset("finetune", Project(project))
    assert read_params(project)["train"]["budget"] is None
    assert read_params(project)["train"]["model"]["layer_decay"] == 0.8


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_a_configuration_that_lightning_takes(project, name):
    from lightning_modules.training.cli import complete_network_spec

    apply_preset(name, Project(project))
    spec = complete_network_spec(read_params(project)["train"]["model"]["network"], "train")
    assert spec["class_path"].startswith("auto" if name == "default" else "lightning_modules.networks.")


def test_an_unknown_preset_or_key_is_one_line_and_changes_nothing(project):
    before = (project / "params.yaml").read_bytes()
    with pytest.raises(UserError, match="no preset 'fats'; did you mean 'fast'"):
        apply_preset("fats", Project(project))
    (project / "presets/mine.yaml").write_text("model: {flipp: true}")
    with pytest.raises(
        UserError, match=r"presets/mine\.yaml: unknown key 'train\.model\.flipp'; did you mean 'flip'"
    ):
        apply_preset("mine", Project(project))
    (project / "presets/mine.yaml").write_text("model: [")
    with pytest.raises(UserError, match="not readable as YAML"):
        apply_preset("mine", Project(project))
    assert (project / "params.yaml").read_bytes() == before
