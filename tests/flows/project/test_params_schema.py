import copy
from collections.abc import Mapping, MutableMapping

import jsonschema
import pytest
import yaml

from flows.project.params import LATER_SECTIONS
from flows.project.params_schema import SCHEMA_FILE, build_schema, format_schema
from flows.project.paths import TEMPLATES
from tests.helpers.project import ROOT

PARAMS_TEXT = (ROOT / "params.yaml").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def validator() -> jsonschema.Draft202012Validator:
    schema = build_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def read_params() -> dict:
    return yaml.safe_load(PARAMS_TEXT)


def merge(section: MutableMapping, preset: Mapping) -> None:
    for key, value in preset.items():
        if (
            isinstance(value, Mapping)
            and "class_path" not in value
            and isinstance(section.get(key), MutableMapping)
        ):
            merge(section[key], value)
        else:
            section[key] = value


def test_the_committed_schema_is_the_generated_one():
    assert (ROOT / SCHEMA_FILE).read_text(encoding="utf-8") == format_schema(), (
        "run python -m flows.project.params_schema"
    )


def test_params_yaml_names_its_schema_and_follows_it(validator):
    assert PARAMS_TEXT.startswith(f"# yaml-language-server: $schema={SCHEMA_FILE}\n")
    validator.validate(read_params())


@pytest.mark.parametrize("name", sorted(path.name for path in (TEMPLATES / "presets").glob("*.yaml")))
def test_params_yaml_follows_the_schema_with_every_preset(validator, name):
    params = read_params()
    merge(params, yaml.safe_load((TEMPLATES / "presets" / name).read_text(encoding="utf-8")))
    validator.validate(params)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("normalize", "sise_px"), 32), (("normalize", "size_px"), "big"), (("normalize", "split", "vall"), 0.1),
        (("normalize", "split", "val"), 1.5), (("normalize", "channels"), 2), (("train", "thread"), 2),
        (("train", "threads"), 0), (("evaluate", "slices"), "size"), (("evaluate", "bootstrap", "level"), 1),
        (("explain", "layer"), 1), (("promote", "confidence"), 0.3), (("promote", "metric"), "acuracy"),
        (("sweep", "space"), {"train.model.warmup": {"low": 0, "hihg": 1}}), (("sweep", "processes"), "all"),
        (("predict", "engine"), "tensorrt"), (("monitor", "retrain", "enabled"), "yes"),
        (("hooks", "on_fail"), None), (("after_run", "push"), "yes"),
    ],
)  # fmt: skip
def test_a_wrong_key_or_value_does_not_follow_the_schema(validator, path, value):
    params = copy.deepcopy(read_params())
    section = params
    for key in path[:-1]:
        section = section[key]
    section[path[-1]] = value
    assert not validator.is_valid(params)


def test_a_missing_section_does_not_follow_the_schema_and_every_key_is_described(validator):
    for name in read_params():
        without = {key: value for key, value in read_params().items() if key != name}
        assert validator.is_valid(without) == (name in LATER_SECTIONS)
    for section in validator.schema["$defs"].values():
        assert section["description"].strip()
        assert all("description" in value or "$ref" in value for value in section["properties"].values())
