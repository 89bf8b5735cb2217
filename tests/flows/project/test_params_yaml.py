import shutil

import pytest
import yaml

from flows.project import params_yaml
from imageset.exceptions import UserError
from tests.helpers.project import ROOT


def test_a_file_that_is_read_and_written_is_the_same_byte_for_byte(tmp_path):
    path = tmp_path / "params.yaml"
    shutil.copy(ROOT / "params.yaml", path)
    params_yaml.write_commented_yaml(path, params_yaml.read_commented_yaml(path))
    assert path.read_bytes() == (ROOT / "params.yaml").read_bytes()


@pytest.mark.parametrize("value", [1e-5, 0.00123, 3e10, 7, True, None, "a: b", [1, 2e-6], {"lr": 1e-7}])
def test_a_value_is_read_back_as_it_was_by_pyyaml_too(tmp_path, value):
    path = tmp_path / "params.yaml"
    path.write_text("train: {lr: 0.1}  # a comment\n")
    document = params_yaml.read_commented_yaml(path)
    document["train"]["lr"] = params_yaml.to_yaml_value(value)
    params_yaml.write_commented_yaml(path, document)
    assert yaml.safe_load(path.read_text()) == {"train": {"lr": value}}
    assert "# a comment" in path.read_text()


def test_what_is_no_mapping_is_refused_in_one_line(tmp_path):
    (tmp_path / "params.yaml").write_text("- 1")
    with pytest.raises(UserError, match="holds no keys"):
        params_yaml.read_commented_yaml(tmp_path / "params.yaml")
