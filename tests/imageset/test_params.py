from __future__ import annotations

from pathlib import Path

import pytest

from imageset.exceptions import UserError
from imageset.params import load_params

KNOWN = {"side": (int, str), "rate": float, "split": {"seed": int}}


def load(folder: Path, text: str) -> dict[str, object]:
    (folder / "params.yaml").write_text(text)
    return load_params(folder / "params.yaml", "stage", KNOWN)


def test_a_section_is_read(tmp_path: Path) -> None:
    assert load(tmp_path, "stage: {side: auto, rate: 1, split: {seed: 3}}") == {
        "side": "auto",
        "rate": 1,
        "split": {"seed": 3},
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stage: {sidee: 3, rate: 1, split: {seed: 0}}", "unknown key 'sidee'; did you mean 'side'?"),
        ("stage: {side: 3, rate: 1, split: {sed: 0}}", "stage.split: unknown key 'sed'; did you mean 'seed'?"),
        ("stage: {side: 3, split: {seed: 0}}", "the key 'rate' is missing"),
        ("stage: {side: 3, rate: fast, split: {seed: 0}}", "stage.rate: must be a number, not 'fast'"),
        ("stage: {side: true, rate: 1, split: {seed: 0}}", "stage.side: must be a whole number or text, not True"),
        ("stage: {side: 3, rate: 1, split: 0}", "stage.split: must be a section"),
        ("other: {}", "the section 'stage:' is missing"),
        ("a: [", "not readable as YAML"),
    ],
)
def test_a_wrong_file_is_explained_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        load(tmp_path, text)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        load_params(tmp_path / "params.yaml", "stage", KNOWN)


@pytest.mark.parametrize("key", ["size", "nfiles"])
def test_a_key_that_dvc_does_not_see_change_is_refused_wherever_it_stands(tmp_path: Path, key: str) -> None:
    with pytest.raises(UserError, match=f"stage.split.{key}.* leaves keys of this name out of its run cache"):
        load(tmp_path, f"stage: {{side: 3, rate: 1, split: {{{key}: 3}}}}")
