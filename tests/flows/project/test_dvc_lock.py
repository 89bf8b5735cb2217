from __future__ import annotations

from pathlib import Path

import pytest

from flows.project.dvc_lock import COPY, protect_dvc_lock, restore_dvc_lock
from imageset.exceptions import UserError

STAGE = "  {name}:\n    cmd: python make.py\n    deps:\n    - path: data\n      md5: 0a\n      size: 1\n"
ONE = "schema: '2.0'\nstages:\n" + STAGE.format(name="normalize")
TWO = ONE + STAGE.format(name="train") + "    outs:\n    - path: model\n      md5: 0b\n"


class KilledError(Exception):
    pass


def write_and_die(folder: Path, text: str) -> None:
    with pytest.raises(KilledError), protect_dvc_lock(folder):
        (folder / "dvc.lock").write_text(text)
        raise KilledError


@pytest.mark.parametrize(
    "text", ["", TWO[:20], TWO[:40], TWO[: len(ONE) + 3], TWO[: TWO.index("outs:") + 5], "\0" * 9]
)
def test_a_part_of_a_lock_is_replaced_by_the_lock_from_before(tmp_path, text):
    (tmp_path / "dvc.lock").write_text(ONE)
    write_and_die(tmp_path, text)
    assert (tmp_path / "dvc.lock").read_text() == ONE


def test_a_part_of_the_first_lock_is_removed(tmp_path):
    write_and_die(tmp_path, TWO[:40])
    assert not (tmp_path / "dvc.lock").exists()


def test_a_part_that_a_killed_process_left_is_replaced_before_dvc_runs_again(tmp_path):
    (tmp_path / "dvc.lock").write_text(ONE)
    with protect_dvc_lock(tmp_path):
        pass
    (tmp_path / "dvc.lock").write_text(TWO[:40])
    with protect_dvc_lock(tmp_path):
        assert (tmp_path / "dvc.lock").read_text() == ONE


def test_a_whole_lock_stays_whoever_wrote_it(tmp_path):
    (tmp_path / "dvc.lock").write_text(ONE)
    write_and_die(tmp_path, TWO)
    (tmp_path / COPY).write_text(ONE)
    restore_dvc_lock(tmp_path)
    assert (tmp_path / "dvc.lock").read_text() == TWO


def test_a_damaged_lock_without_a_copy_and_a_conflict_are_left_to_the_user(tmp_path):
    path = tmp_path / "dvc.lock"
    for text in (TWO[:40], f"<<<<<<< HEAD\n{ONE}=======\n{TWO}>>>>>>> side\n"):
        path.write_text(text)
        with pytest.raises(UserError, match=r"`git checkout dvc\.lock` restores"), protect_dvc_lock(tmp_path):
            pass
        assert path.read_text() == text
        path.unlink()
        restore_dvc_lock(tmp_path)
        with protect_dvc_lock(tmp_path):  # from now on there is a copy
            path.write_text(ONE)
