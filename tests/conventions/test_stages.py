import yaml

from tests.helpers.project import ROOT


def test_every_code_file_that_a_stage_depends_on_is_there():
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    code = [path for stage in stages.values() for path in stage["deps"] if path.endswith(".py")]
    assert code and [path for path in code if not (ROOT / path).is_file()] == []


def test_every_section_that_a_stage_depends_on_is_in_params():
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    assert {name for stage in stages.values() for name in stage["params"]} <= set(params)
