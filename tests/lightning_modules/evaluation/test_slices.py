import numpy as np
import pyarrow as pa
import pytest

from imageset.exceptions import UserError
from lightning_modules.evaluation.slices import check_slice_columns, compute_slices

ROWS = pa.table({
    "group": ["a", "a", None, "b", "b", "b", "b", "b"],
    "width": [8, 9, 10, 11, 100, 110, 120, 130],
    "height": [90, 90, 90, 90, 100, 100, 100, 100],
    "label": ["x"] * 8,
})  # fmt: skip
RIGHT = np.array([True, False, True, True, False, False, True, True])


def found(column, smallest=2):
    return {one.value: one for one in compute_slices(ROWS, RIGHT, [column], smallest, 0.95)}


def test_each_group_has_its_own_accuracy_and_small_ones_are_marked():
    groups = found("group")
    assert {name: (one.num, one.accuracy) for name, one in groups.items()} == {
        "a": (2, 0.5), "b": (5, 0.6), "(none)": (1, 1.0),
    }  # fmt: skip
    assert [name for name, one in groups.items() if one.small] == ["(none)"]
    assert all(one.low <= one.accuracy <= one.high for one in groups.values())


def test_sizes_are_in_bins_of_the_short_side():
    sizes = found("size")
    assert list(sizes) and sum(one.num for one in sizes.values()) == len(RIGHT)
    assert "8 to 9 px" in sizes


def test_a_column_with_one_value_has_no_slices():
    assert found("label") == {}


def test_many_values_are_one_slice_beyond_the_twenty_largest():
    rows = pa.table({"group": [f"g{i:03d}" for i in range(100)]})
    parts = {one.value: one.num for one in compute_slices(rows, np.ones(100, bool), ["group"], 30, 0.95)}
    assert len(parts) == 21 and parts["(others)"] == 80


def test_numbers_that_are_missing_are_a_slice_of_their_own():
    rows = pa.table({"age": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, None, None]})
    parts = {one.value: one.num for one in compute_slices(rows, RIGHT, ["age"], 1, 0.95)}
    assert parts["(none)"] == 2 and sum(parts.values()) == 8


def test_a_column_that_there_is_not_is_named_with_the_nearest():
    with pytest.raises(UserError, match=r"evaluate\.slices: no column 'gruop'; did you mean 'group'\?"):
        check_slice_columns(["size", "gruop"], ROWS)
