"""Predictions that are killed (SIGKILL, a process of their own) at each of their renames and called again."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from flows.prediction import cache
from tests.helpers import killed_prediction
from tests.helpers.images import write_digit_images
from tests.helpers.project import ROOT


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Path:
    """`once` holds a table that was written undisturbed, `all` and `new` are to be killed in."""
    work = tmp_path_factory.mktemp("killed")
    for name in ("once", "all", "new"):
        folder = write_digit_images(work / name / "pictures", classes="01", num_each=40)
        (folder / "0" / "broken.png").write_bytes(b"no picture")
        (folder / "twin.png").write_bytes(min((folder / "1").iterdir()).read_bytes())
    with pytest.MonkeyPatch.context() as patch:
        for name, value in killed_prediction.MANY_SHARDS.items():
            patch.setattr(cache, name, value)
        assert killed_prediction.predict(work / "once", new_only=False) == "82 rows, 0 taken over"
    return work


@pytest.fixture(scope="module")
def said(work) -> list[str]:
    """The output of the killed runs. After the shards come three renames: note, table, ledger."""
    num_parts = len(list((work / "once/parts").glob("*/*.parquet")))
    assert num_parts > 4
    # before and after the first part, before the third; after the note; after the table
    points = [1, -1, 2, num_parts - 2 + 2, -2]
    # before the table; after the table, before it is noted that its pictures were delivered
    new_points = [num_parts + 2, -2]
    groups = ([work / "all", "all", *points], ["--", work / "new", "new", *new_points])
    done = subprocess.run(
        [sys.executable, "-m", killed_prediction.__name__, *(str(one) for group in groups for one in group)],
        cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout.splitlines()


def test_every_run_was_killed(said):
    assert [line for line in said if line.endswith("ended")] == []
    assert sum(line.endswith("killed") for line in said) == 7


def test_a_prediction_killed_again_and_again_gives_the_same_table_byte_for_byte(said, work):
    assert said[5] == "82 rows, 82 taken over"
    assert (work / "all/out.parquet").read_bytes() == (work / "once/out.parquet").read_bytes()
    assert [path for path in work.rglob(".*") if path.name != ".lock"] == []


def test_new_pictures_are_delivered_once_however_a_run_is_killed(said, work):
    assert said[-1].startswith("82 rows")
    assert (work / "new/out.parquet").read_bytes() == (work / "once/out.parquet").read_bytes()
    (record,) = (work / "new/parts").glob("*.delivered.txt")
    image_ids = record.read_text().split()[::2]
    assert len(image_ids) == len(set(image_ids)) == 81  # one of them is there twice
