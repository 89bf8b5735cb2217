from __future__ import annotations

import pyarrow as pa

from flows.promotion.gates.leakage import explain_moves


def test_test_pictures_that_the_champion_learnt_from_say_that_the_split_has_changed_and_what_to_do() -> None:
    learnt = pa.table({"image_id": pa.array([bytes([1]) * 32, bytes([2]) * 32], pa.binary(32))})
    text = explain_moves(["01" * 32, "03" * 32], learnt)
    assert "1 of them moved from train to test since" in text and "convoy promote --override REASON" in text
    assert explain_moves(["03" * 32], learnt) == ""  # only its group or a look-alike was learnt
