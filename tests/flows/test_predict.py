from pathlib import Path

import pytest

from flows.predict import collect_precision_tags
from flows.project.paths import read_dataset_name
from flows.promotion.model_registry import Version
from imageset.exceptions import UserError


def test_the_version_carries_what_was_seen_of_a_faster_precision_and_says_it_once():
    found = {
        "engine": "openvino", "precision": "bf16", "seen": "agrees with fp32 on 99.60% of 250 validation pictures",
        "refused": {"openvino int8": "agrees with fp32 on 97.00%", "pytorch int8": "pytorch runs no int8 here"},
    }  # fmt: skip
    tags = collect_precision_tags(Version("digits", 1, ""), found)
    assert tags == {
        "convoy.precision.bf16": "openvino, used: agrees with fp32 on 99.60% of 250 validation pictures",
        "convoy.precision.int8": "openvino, not used: agrees with fp32 on 97.00%",
    }
    assert collect_precision_tags(Version("digits", 1, "", None, tags), found) == {}
    plain = {"engine": "onnxruntime", "precision": "fp32", "seen": "differs by 6e-08", "refused": {}}
    assert collect_precision_tags(Version("digits", 1, ""), plain) == {}


def test_the_name_of_the_model_is_that_of_the_dataset(tmp_path):
    (tmp_path / "data/normalized").mkdir(parents=True)
    (tmp_path / "data/normalized/dataset.json").write_text('{"name": "flowers"}')
    assert read_dataset_name(tmp_path) == "flowers"


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"name'])
def test_a_broken_dataset_is_named(tmp_path, text):
    (tmp_path / "data/normalized").mkdir(parents=True)
    (tmp_path / "data/normalized/dataset.json").write_text(text)
    with pytest.raises(UserError, match=r"dataset\.json: broken .*dvc repro -f normalize"):
        read_dataset_name(tmp_path)


def test_without_a_dataset_the_way_to_a_model_is_named(tmp_path):
    with pytest.raises(UserError, match="convoy run FOLDER"):
        read_dataset_name(Path(tmp_path))
