from __future__ import annotations

from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flows.project.project import Project
from flows.promotion.gates.gate import Gate
from flows.promotion.gates.leakage import (
    evaluate_leakage,
    explain_moves,
    find_leaked_images,
    load_training_images,
)
from flows.promotion.model_registry import Version
from lightning_modules.tracking.model_logging import list_training_images


def test_test_pictures_that_the_champion_learnt_from_say_that_the_split_has_changed_and_what_to_do() -> None:
    learnt = pa.table({"image_id": pa.array([bytes([1]) * 32, bytes([2]) * 32], pa.binary(32))})
    text = explain_moves(["01" * 32, "03" * 32], learnt)
    assert "1 of them moved from train to test since" in text and "convoy promote --override REASON" in text
    assert explain_moves(["03" * 32], learnt) == ""  # only its group or a look-alike was learnt


def make_id(number: int) -> str:
    return f"{number:02x}" * 32


def make_rows(*rows: tuple[int, str | None, int]) -> pa.Table:
    """Rows of an index: number, group and perceptual hash of each picture."""
    ids, groups, phashes = zip(*rows, strict=True)
    return pa.table({"image_id": [make_id(number) for number in ids], "group": pa.array(groups, pa.string()),
                     "phash": pa.array(phashes, pa.uint64())})  # fmt: skip


TRAIN = make_rows((1, "a", 11), (2, None, 12))
TEST = make_rows((3, "b", 13), (4, None, 14), (5, None, 12), (6, "c", 16))
VAL = make_rows((7, "d", 17), (8, "a", 18))
CHAMPION = Version("pets", 3, "run-7")


def make_store(fingerprint: str = "now") -> SimpleNamespace:
    splits = {name: SimpleNamespace(rows=rows) for name, rows in (("train", TRAIN), ("test", TEST), ("val", VAL))}
    return SimpleNamespace(split=splits.get, index=pa.concat_tables([TRAIN, TEST, VAL]), fingerprint=fingerprint)


def make_bundle(fingerprint: str) -> SimpleNamespace:
    return SimpleNamespace(info=SimpleNamespace(dataset={"fingerprint": fingerprint}))


@pytest.mark.parametrize(
    ("learnt", "leaked"),
    [
        ((1, "a", 11), []),  # still a training picture
        ((3, None, 99), [3]),  # the picture itself
        ((9, "c", 99), [6]),  # of its group
        ((9, None, 14), [4]),  # looks like it, and has left the store
        ((2, None, 14), []),  # is still there: a near duplicate would be in its group
        ((9, None, 99), []),
    ],
)
def test_a_test_picture_is_known_by_itself_its_group_or_a_removed_look_alike(learnt, leaked):
    images = list_training_images(make_rows(learnt, (2, None, 12)))
    assert find_leaked_images(make_store(), images) == [make_id(number) for number in leaked]


def test_validation_pictures_are_looked_for_likewise():
    assert find_leaked_images(make_store(), list_training_images(TRAIN), "val") == [make_id(8)]


def test_a_champion_of_the_same_data_needs_no_table_of_its_run(monkeypatch):
    monkeypatch.setattr("mlflow.artifacts.download_artifacts", None)
    images = load_training_images(CHAMPION, make_bundle("now"), make_store(), Project("."))
    assert images["image_id"].to_pylist() == [bytes([number]) * 32 for number in (1, 2)]
    gate = evaluate_leakage(CHAMPION, make_bundle("now"), make_store(), Project("."))
    assert gate == Gate("unseen", True, f"{CHAMPION} was trained on no test picture", {"num_leaks": 0})


def test_the_pictures_of_other_data_come_from_the_run_of_the_champion(monkeypatch, tmp_path):
    pq.write_table(list_training_images(make_rows((3, None, 99), (9, "c", 98))), tmp_path / "pictures.parquet")
    files = {("run-7", "training/pictures.parquet"): str(tmp_path / "pictures.parquet")}
    monkeypatch.setattr(
        "mlflow.artifacts.download_artifacts", lambda run_id, artifact_path: files[run_id, artifact_path]
    )
    gate = evaluate_leakage(CHAMPION, make_bundle("before"), make_store(), Project("."))
    assert (gate.name, gate.passes, gate.numbers) == ("unseen", False, {"num_leaks": 2})
    assert gate.message.startswith(
        f"{CHAMPION} was trained on 2 of the test pictures, their group or look-alikes, e.g. 0303030303030303; "
        "1 of them moved"
    )


def test_a_champion_whose_pictures_are_not_known_cannot_be_compared(monkeypatch, tmp_path):
    monkeypatch.setattr(
        "mlflow.artifacts.download_artifacts", lambda run_id, artifact_path: str(tmp_path / "missing")
    )
    gate = evaluate_leakage(CHAMPION, make_bundle("before"), make_store(), Project("."))
    assert gate == Gate(
        "unseen", False, f"the training pictures of {CHAMPION} are not known; inspect the model and promote with "
        "--override"
    )  # fmt: skip
