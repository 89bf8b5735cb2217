import shutil
from pathlib import Path

import pytest
import yaml

from flows.project.presets import apply_preset
from flows.project.project import Project
from imageset.exceptions import UserError
from tests.helpers.project import ROOT

PRESETS = sorted(path.stem for path in (ROOT / "presets").glob("*.yaml"))


@pytest.fixture
def project(tmp_path) -> Path:
    shutil.copy(ROOT / "params.yaml", tmp_path)
    shutil.copytree(ROOT / "presets", tmp_path / "presets")
    return tmp_path


def train(project: Path) -> dict:
    return yaml.safe_load((project / "params.yaml").read_text())["train"]


def keys(tree: dict, prefix: str = "") -> set[str]:
    """The names that a preset sets, a network or an optimizer as a whole."""
    found = set()
    for key, value in tree.items():
        inner = isinstance(value, dict) and "class_path" not in value and key in ("trainer", "data", "model")
        found |= keys(value, f"{prefix}{key}.") if inner else {f"{prefix}{key}"}
    return found


def test_the_four_presets_are_there():
    assert PRESETS == ["best", "default", "fast", "finetune"]


def test_a_fresh_params_yaml_is_the_default_preset(project):
    before = (project / "params.yaml").read_bytes()
    assert apply_preset("default", Project(project)) == "preset default: params.yaml holds these values already"
    assert (project / "params.yaml").read_bytes() == before


@pytest.mark.parametrize("name", PRESETS)
def test_the_default_takes_back_what_a_preset_changed(project, name):
    before = train(project)
    apply_preset(name, Project(project))
    assert (train(project) != before) is (name != "default")
    apply_preset("default", Project(project))
    assert train(project) == before
    default = yaml.safe_load((ROOT / "presets/default.yaml").read_text())
    assert keys(yaml.safe_load((ROOT / f"presets/{name}.yaml").read_text())) <= keys(default)


def test_the_values_are_in_params_yaml_and_its_comments_and_other_sections_stay(project):
    before = yaml.safe_load((project / "params.yaml").read_text())
    said = apply_preset("fast", Project(project))
    assert "model.network" in said and "trainer.max_epochs" in said and said.count("\n") == 0
    text = (project / "params.yaml").read_text()
    after = yaml.safe_load(text)
    assert after["train"]["model"]["network"]["class_path"] == "SpeedNet"
    fast = yaml.safe_load((ROOT / "presets" / "fast.yaml").read_text())
    assert fast["trainer"]["max_epochs"] != before["train"]["trainer"]["max_epochs"]
    assert after["train"]["trainer"] == before["train"]["trainer"] | fast["trainer"]
    assert {k: v for k, v in after.items() if k != "train"} == {k: v for k, v in before.items() if k != "train"}
    assert "# Every number that changes a result" in text and "# any torch.optim class" in text


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_a_configuration_that_lightning_takes(project, name, monkeypatch):
    from lightning_modules.training.cli import complete_network_spec

    apply_preset(name, Project(project))
    spec = complete_network_spec(train(project)["model"]["network"], "train")
    assert spec["class_path"].startswith("lightning_modules.networks.")


def test_an_unknown_preset_or_key_is_one_line_and_changes_nothing(project):
    before = (project / "params.yaml").read_bytes()
    with pytest.raises(UserError, match="no preset 'fats'; did you mean 'fast'"):
        apply_preset("fats", Project(project))
    (project / "presets/mine.yaml").write_text("model: {flipp: true}")
    with pytest.raises(UserError, match=r"presets/mine\.yaml: unknown key 'model\.flipp'; did you mean 'flip'"):
        apply_preset("mine", Project(project))
    (project / "presets/mine.yaml").write_text("model: [")
    with pytest.raises(UserError, match="not readable as YAML"):
        apply_preset("mine", Project(project))
    assert (project / "params.yaml").read_bytes() == before
