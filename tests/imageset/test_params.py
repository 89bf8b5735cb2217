from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field

from imageset.exceptions import UserError
from imageset.params import OneOf, ParamsModel, RangeMessage, check_given_params, load_params


class Split(ParamsModel):
    seed: int


class Stage(ParamsModel):
    side: int | str
    rate: float = Field(ge=0)
    split: Split
    bits: Annotated[int | None, OneOf((None, 0, 1))] = None
    names: list[str] = Field(default_factory=list)
    processes: Annotated[
        Annotated[int, Field(ge=1)] | Literal["auto"], RangeMessage(" is {value}; give auto, or 1 or more")
    ] = "auto"


def load(folder: Path, text: str) -> dict[str, Any]:
    (folder / "params.yaml").write_text(text)
    return load_params(folder / "params.yaml", "stage", Stage).to_dict()


def test_a_section_is_read_and_what_it_leaves_out_has_its_default(tmp_path: Path) -> None:
    params = load(tmp_path, "stage: {side: auto, rate: 1, split: {seed: 3}}")
    assert params == {
        "side": "auto",
        "rate": 1,
        "split": {"seed": 3},
        "bits": None,
        "names": [],
        "processes": "auto",
    }
    assert isinstance(params["rate"], int)  # a whole number stays one


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stage: {sidee: 3, rate: 1, split: {seed: 0}}", "unknown key 'sidee'; did you mean 'side'?"),
        ("stage: {side: 3, rate: 1, split: {sed: 0}}", "stage.split: unknown key 'sed'; did you mean 'seed'?"),
        ("stage: {3: 3, side: 3, rate: 1, split: {seed: 0}}", "stage: unknown key '3'"),
        ("stage: {side: 3, split: {seed: 0}}", "the key 'rate' is missing"),
        ("stage: {side: 3, rate: fast, split: {seed: 0}}", "stage.rate: must be a number, not 'fast'"),
        ("stage: {side: 3, rate: '3', split: {seed: 0}}", "stage.rate: must be a number, not '3'"),
        ("stage: {side: 3, rate: true, split: {seed: 0}}", "stage.rate: must be a number, not True"),
        ("stage: {side: true, rate: 1, split: {seed: 0}}", "stage.side: must be a whole number or text, not True"),
        ("stage: {side: 3, rate: 1, split: 0}", "stage.split: must be a section with the keys seed"),
        ("stage: {side: 3, rate: 1, split: {seed: 1.0}}", "stage.split.seed: must be a whole number, not 1.0"),
        ("stage: {side: 3, rate: -0.5, split: {seed: 0}}", "stage.rate is -0.5; give 0 or more"),
        ("stage: {side: 3, rate: .nan, split: {seed: 0}}", "stage.rate is nan; give 0 or more"),
        ("stage: {side: 3, rate: .inf, split: {seed: 0}}", "stage.rate is inf; give 0 or more"),
        ("stage: {side: 3, rate: 1, bits: 2, split: {seed: 0}}", "stage.bits: must be one of null, 0, 1, not 2"),
        ("stage: {side: 3, rate: 1, bits: true, split: {seed: 0}}", "must be a whole number or null, not True"),
        ("stage: {side: 3, rate: 1, bits: 1.0, split: {seed: 0}}", "must be a whole number or null, not 1.0"),
        ("stage: {side: 3, rate: 1, names: [1], split: {seed: 0}}", "stage.names: must hold only text, not [1]"),
        ("stage: {side: 3, rate: 1, processes: all, split: {seed: 0}}", "processes is 'all'; give auto, or 1"),
        ("stage: {side: 3, rate: 1, processes: 0, split: {seed: 0}}", "processes is 0; give auto, or 1 or more"),
        ("stage: {side: 3, rate: 5e-2, split: {seed: 0}}", "must be a number, not '5e-2'; write 0.05 or 5.0e-2"),
        ("stage: {side: 3, rate: 0, split: {seed: 1e3}}", "must be a whole number, not '1e3'; write 1000"),
        ("stage: {side: 3, rate: 0, bits: '1', split: {seed: 0}}", "or null, not '1'; write 1"),
        ("stage: {side: 3, rate: 1, processes: 1e1, split: {seed: 0}}", "give auto, or 1 or more; write 10"),
        ("other: {}", "the section 'stage:' is missing"),
        ("a: [", "not readable as YAML"),
    ],
)
def test_a_wrong_file_is_explained_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        load(tmp_path, text)
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"{tmp_path / 'params.yaml'}: ")


def test_of_several_mistakes_the_unknown_key_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="unknown key 'sidee'; did you mean 'side'"):
        load(tmp_path, "stage: {sidee: 3, rate: fast, split: {seed: x}}")


def test_a_section_that_need_not_be_complete_is_checked_as_far_as_it_goes() -> None:
    check_given_params({"rate": 0.5}, Stage, "stage")
    with pytest.raises(UserError, match=r"stage\.rate is -1; give 0 or more"):
        check_given_params({"rate": -1}, Stage, "stage")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        load_params(tmp_path / "params.yaml", "stage", Stage)


@pytest.mark.parametrize("key", ["size", "nfiles"])
def test_a_key_that_dvc_does_not_see_change_is_refused_wherever_it_stands(tmp_path: Path, key: str) -> None:
    with pytest.raises(UserError, match=f"stage.split.{key}.* leaves keys of this name out of its run cache"):
        load(tmp_path, f"stage: {{side: 3, rate: 1, split: {{{key}: 3}}}}")
