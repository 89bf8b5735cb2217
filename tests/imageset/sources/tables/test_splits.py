from __future__ import annotations

from pathlib import Path

import pytest

from imageset.check import check_source
from imageset.exceptions import UserError
from imageset.sources.factory import open_source
from tests.helpers.images import encode_noise


def write_table(folder: Path, column: str, values: list[str]) -> Path:
    lines = [f"path,label,{column}"]
    for number, value in enumerate(values):
        (folder / f"{number}.png").write_bytes(encode_noise(number))
        lines.append(f"{number}.png,{'ab'[number % 2]},{value}")
    (folder / "t.csv").write_text("\n".join(lines) + "\n")
    return folder / "t.csv"


@pytest.mark.parametrize(
    ("values", "splits", "said"),
    [
        (["train", "val", "test"], ["train", "val", "test"], ""),
        (["TRAIN", " Validate ", "TEST"], ["train", "val", "test"], "'Validate' is val"),
        (["train", "eval", "holdout"], ["train", "val", "test"], "'eval' is val, 'holdout' is test"),
        (["training", "dev", "testing"], ["train", "val", "test"], "'dev' is val, 'testing' is test"),
        (["train", "", "test"], ["train", None, "test"], ""),
    ],
)
def test_synonyms_of_splits_are_read_and_said(
    tmp_path: Path, values: list[str], splits: list[str | None], said: str
) -> None:
    source = open_source(write_table(tmp_path, "split", values))
    assert [image.split for image in source] == splits
    assert said in source.describe() and ("in the column 'split'" in source.describe()) == bool(said)


@pytest.mark.parametrize(
    ("column", "values", "named"),
    [
        ("split", ["train", "quiz", "private"], "split 'private', 'quiz' in the column 'split' are not"),
        ("subset", ["0", "1", "2"], "split '0', '1', '2' in the column 'subset' are not"),
        ("fold", ["train", "1"], "split '1' in the column 'fold' is not"),
    ],
)
def test_values_that_are_no_splits_stop_and_the_way_out_works(
    tmp_path: Path, column: str, values: list[str], named: str
) -> None:
    table = write_table(tmp_path, column, values)
    with pytest.raises(UserError, match=rf"{named} train, val, test; rename .*\?split= to ignore the column"):
        open_source(table)
    assert named in str(check_source(str(table), workers=1).stop_reason)
    source = open_source(f"{table}?split=")
    assert {image.split for image in source} == {None} and not source.splits


def test_the_numbers_of_folds_are_no_splits_but_may_be_groups(tmp_path: Path) -> None:
    table = write_table(tmp_path, "fold", ["0", "1", "2", "0"])
    source = open_source(table)
    assert "the column 'fold' is not used ('0', '1', '2' are no splits); ?group=fold keeps" in source.describe()
    assert not source.splits
    assert [image.group for image in open_source(f"{table}?group=fold")] == ["0", "1", "2", "0"]
    with pytest.raises(UserError, match="are not train, val, test"):
        open_source(f"{table}?split=fold")
