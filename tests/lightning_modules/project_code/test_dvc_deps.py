"""The lines that Convoy writes into dvc.yaml."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from imageset.exceptions import UserError
from lightning_modules.project_code.dvc_deps import STAGE_VARIABLE, check_stage_modules, update_dvc_yaml

PIPELINE = """\
# the top
stages:
  train:
    cmd: python -P -m lightning_modules fit   # a comment
    deps:
      - data/normalized
      # of ours
      - {listed}
    params: [train]

  evaluate:
    cmd: test
    deps: [data/normalized]
"""
PARAMS = {"train": {"model": {"network": "mynet.Tiny"}}, "evaluate": {"trainer": {}}}


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "dvc.yaml").write_text(PIPELINE.replace("{listed}", "vocabulary.txt"))
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(PARAMS))
    (tmp_path / "mynet.py").write_text("from nets import helper\n")
    (tmp_path / "nets").mkdir()
    (tmp_path / "nets" / "helper.py").write_text("")
    return tmp_path


def read(folder: Path) -> str:
    return (folder / "dvc.yaml").read_text()


def test_modules_are_listed_after_the_others_and_nothing_else_changes(folder):
    before = read(folder)
    assert update_dvc_yaml(folder, ["train"]) == ["dvc.yaml: train now depends on mynet.py, nets/helper.py"]
    new = "      - mynet.py  # class_path\n      - nets/helper.py  # class_path\n"
    assert read(folder) == before.replace("vocabulary.txt\n", f"vocabulary.txt\n{new}")
    assert update_dvc_yaml(folder, ["train"]) == []


def test_modules_that_are_no_longer_needed_are_removed_but_never_a_line_of_the_user(folder):
    (folder / "dvc.yaml").write_text(PIPELINE.replace("{listed}", "old.py"))
    before = read(folder)
    update_dvc_yaml(folder, ["train"])
    (folder / "mynet.py").write_text("")
    assert update_dvc_yaml(folder, ["train"]) == ["dvc.yaml: train no longer depends on nets/helper.py"]
    (folder / "params.yaml").write_text(yaml.safe_dump({"train": {"model": {"network": "LeNet5"}}}))
    assert update_dvc_yaml(folder, ["train"]) == ["dvc.yaml: train no longer depends on mynet.py"]
    assert read(folder) == before


def test_a_module_below_a_folder_that_the_user_lists_is_not_listed_again(folder):
    (folder / "dvc.yaml").write_text(PIPELINE.replace("{listed}", "nets"))
    assert update_dvc_yaml(folder, ["train"]) == ["dvc.yaml: train now depends on mynet.py"]
    assert "nets/helper.py" not in read(folder)


def test_lines_end_as_those_of_the_file_do(folder):
    text = PIPELINE[: PIPELINE.index("    params")].replace("{listed}", "a.txt").rstrip("\n")
    (folder / "dvc.yaml").write_bytes(text.replace("\n", "\r\n").encode())
    update_dvc_yaml(folder, ["train"])
    assert (folder / "dvc.yaml").read_bytes().endswith(b"a.txt\r\n      - mynet.py  # class_path\r\n"
                                                       b"      - nets/helper.py  # class_path\r\n")  # fmt: skip


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stages: [", "not readable as YAML"),
        ("stages:\n  train:\n    cmd: x\n    deps: [a, b]\n", r"stages\.train\.deps: must be a list with one"),
        ("stages:\n  train:\n    cmd: x\n", r"stages\.train\.deps: must be a list with one"),
    ],
)
def test_a_file_that_cannot_be_changed_is_left_and_named(folder, text, message):
    (folder / "dvc.yaml").write_text(text)
    with pytest.raises(UserError, match=message):
        update_dvc_yaml(folder, ["train"])
    assert read(folder) == text


@pytest.mark.parametrize("text", ["", "stages:\n  train_more:\n    cmd: x\n"])
def test_a_project_without_the_stage_needs_nothing(folder, text):
    (folder / "dvc.yaml").write_text(text)
    assert update_dvc_yaml(folder, ["train"]) == []


@pytest.mark.parametrize("addressing", ["train", "sub/dvc.yaml:train"])
def test_a_stage_that_dvc_started_without_all_modules_lists_them_and_stops(folder, monkeypatch, addressing):
    monkeypatch.setenv(STAGE_VARIABLE, addressing)
    with (
        pytest.raises(UserError, match=r"now depends on mynet\.py, nets/helper\.py, .*; run the command again"),
        check_stage_modules(folder, "train"),
    ):
        pytest.fail("the stage ran")
    with check_stage_modules(folder, "train"):
        pass


def test_a_module_that_changes_while_dvc_runs_the_stage_is_named(folder, monkeypatch):
    update_dvc_yaml(folder, ["train"])
    monkeypatch.setenv(STAGE_VARIABLE, "train")
    with (
        pytest.raises(UserError, match=r"train: nets/helper\.py changed while the stage ran"),
        check_stage_modules(folder, "train"),
    ):
        (folder / "nets/helper.py").write_text("x = 1\n")


def test_in_a_copy_of_an_experiment_a_line_says_so_and_the_stage_runs(folder, monkeypatch, capsys):
    copy = folder / ".dvc/tmp/exps/tmpabc"
    copy.mkdir(parents=True)
    for name in ("dvc.yaml", "params.yaml", "mynet.py", "nets"):
        (folder / name).rename(copy / name)
    before = read(copy)
    monkeypatch.setenv(STAGE_VARIABLE, "train")
    with check_stage_modules(copy, "train"):
        assert "dvc.yaml of this experiment does not list mynet.py, nets/helper.py" in capsys.readouterr().out
    assert read(copy) == before


@pytest.mark.parametrize(("stage", "rank"), [("", ""), ("evaluate", ""), ("train", "1")])
def test_a_stage_that_dvc_did_not_start_and_the_other_ranks_of_one_are_not_checked(
    folder, monkeypatch, stage, rank
):
    monkeypatch.setenv(STAGE_VARIABLE, stage)
    monkeypatch.setenv("LOCAL_RANK", rank)
    before = read(folder)
    with check_stage_modules(folder, "train"):
        assert read(folder) == before
