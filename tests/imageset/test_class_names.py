from __future__ import annotations

from pathlib import Path

import pytest

from imageset.check import check_source
from imageset.class_names import describe_similar_names, find_similar_names, normalize_class_name
from imageset.sources.factory import open_source
from tests.helpers.images import encode_noise


@pytest.mark.parametrize(
    ("name", "normalized"),
    [("cat", "cat"), (" cat\t", "cat"), ("cafe\u0301", "caf\u00e9"), ("\u00a0Käfer ", "Käfer"), ("  ", "")],
)
def test_a_class_name_has_no_blanks_around_it_and_is_in_nfc(name: str, normalized: str) -> None:
    assert normalize_class_name(name) == normalized


@pytest.mark.parametrize(
    "group",
    [
        ["Cat", "cat"],
        ["FALSE", "False", "false"],
        ["red car", "red  car"],
        ["red car", "red_car", "red-car"],
        ["03", "3", "3.0"],
        ["STRASSE", "straße"],
        ["x2", "x²"],
    ],
)
def test_names_that_may_be_one_class_are_found(group: list[str]) -> None:
    assert find_similar_names([*group, "dog", "7"]) == [sorted(group)]


def test_different_names_are_not_similar() -> None:
    names = ["cat", "cats", "1", "10", "1.5", "C#", "C+", "C_", "", "n/a"]
    assert find_similar_names(names) == [] and describe_similar_names(names) is None


def test_similar_names_are_named_with_escapes_and_counted() -> None:
    text = describe_similar_names(["a\x1b[31m", "A\x1b[31m", *"bBcCdDeE"])
    assert text is not None and "'A\\x1b[31m' and 'a\\x1b[31m'" in text and ", and 2 more; give" in text


def test_a_check_warns_of_classes_that_differ_by_case_only(tmp_path: Path) -> None:
    for number, name in enumerate(("Cat", "cat", "dog")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.png").write_bytes(encode_noise(number))
    report = check_source(str(tmp_path), workers=1)
    assert [warning for warning in report.warnings if "'Cat' and 'cat'" in warning]


def test_folders_of_one_class_in_two_unicode_forms_are_one_class(tmp_path: Path) -> None:
    for number, name in enumerate(("train/cafe\u0301", "test/caf\u00e9", "train/dog", "test/dog ")):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / f"{number}.png").write_bytes(encode_noise(number))
    source = open_source(tmp_path)
    assert source.classes == {"caf\u00e9": 2, "dog": 2}
    assert {image.label for image in source} == {"caf\u00e9", "dog"}
    assert "class names in Unicode NFC without blanks around them" in source.describe()
