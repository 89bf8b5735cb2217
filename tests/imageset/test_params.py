from __future__ import annotations

from pathlib import Path

import pytest

from imageset.errors import UserError
from imageset.params import load_params

KNOWN = {"size": (int, str), "rate": float, "split": {"seed": int}}


def load(folder: Path, text: str) -> dict[str, object]:
    (folder / "params.yaml").write_text(text)
    return load_params(folder / "params.yaml", "stage", KNOWN)


def test_a_section_is_read(tmp_path: Path) -> None:
    assert load(tmp_path, "stage: {size: auto, rate: 1, split: {seed: 3}}") == {
        "size": "auto", "rate": 1, "split": {"seed": 3}}


@pytest.mark.parametrize(("text", "message"), [
    ("stage: {sise: 3, rate: 1, split: {seed: 0}}", "unknown key 'sise'; did you mean 'size'?"),
    ("stage: {size: 3, rate: 1, split: {sed: 0}}", "stage.split: unknown key 'sed'; did you mean 'seed'?"),
    ("stage: {size: 3, split: {seed: 0}}", "the key 'rate' is missing"),
    ("stage: {size: 3, rate: fast, split: {seed: 0}}", "stage.rate: must be a number, not 'fast'"),
    ("stage: {size: true, rate: 1, split: {seed: 0}}", "stage.size: must be a whole number or text, not True"),
    ("stage: {size: 3, rate: 1, split: 0}", "stage.split: must be a section"),
    ("other: {}", "the section 'stage:' is missing"),
    ("a: [", "not readable as YAML"),
])
def test_a_wrong_file_is_explained_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        load(tmp_path, text)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        load_params(tmp_path / "params.yaml", "stage", KNOWN)
