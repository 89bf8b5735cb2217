"""Columns of flags: one column for each label, 0 or 1 in each row, read a batch of rows at a time."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa

from imageset.exceptions import UserError

UNSET, SET, EMPTY, INVALID = range(4)
_FLAG_VALUES = {"0": False, "1": True, "0.0": False, "1.0": True, "false": False, "true": True}


def are_flags(values: set[Any]) -> bool:
    """Return whether the distinct values of a column are 0 and 1, and perhaps nothing."""
    given = {str(value).strip().lower() for value in values if value not in (None, "")}
    return bool(given) and given <= set(_FLAG_VALUES)


def is_one_hot(batches: Iterable[pa.RecordBatch]) -> bool:
    """Return whether each row of flags holds exactly one 1; rows without any value are unlabelled."""
    num_given = 0
    for batch in batches:
        flags = classify_flags(batch)
        given = flags[~(flags == EMPTY).all(axis=1)]
        if (given > SET).any() or ((given == SET).sum(axis=1) != 1).any():
            return False
        num_given += len(given)
    return num_given > 0


def classify_flags(batch: pa.RecordBatch) -> np.ndarray:
    """Return uint8 (rows, columns): UNSET, SET, EMPTY or INVALID."""
    flags = np.empty((batch.num_columns, batch.num_rows), np.uint8)
    for number, column in enumerate(batch.columns):
        plain = column.dictionary_decode() if pa.types.is_dictionary(column.type) else column
        encoded = plain.dictionary_encode(null_encoding="encode")
        values = encoded.dictionary.to_pylist()
        flags[number] = np.array(list(map(_classify_flag, values)), np.uint8)[encoded.indices.to_numpy()]
    return flags.T


def _classify_flag(value: Any) -> int:
    if value in (None, ""):
        return EMPTY
    flag = _FLAG_VALUES.get(str(value).strip().lower())
    return INVALID if flag is None else int(flag)


def is_set(value: Any) -> bool:
    """Return whether a cell holds 1."""
    return _FLAG_VALUES.get(str(value).strip().lower(), False)


def parse_flag(label: str, column: str, value: Any) -> bool:
    """Return whether a cell holds 1.

    Raises:
        UserError: it holds neither 0 nor 1.
    """
    flag = _FLAG_VALUES.get(str(value).strip().lower())
    if flag is None:
        raise UserError(
            f"{label}: the column '{column}' is read as a label of 0 or 1, but holds {value!r}; give 0 or 1 in "
            "every row, or leave all label columns empty in the rows of unlabelled pictures"
        )
    return flag


def list_set_columns(label: str, batch: pa.RecordBatch) -> list[list[int] | None]:
    """Return for each row the numbers of the columns that hold 1, or None if all are empty.

    Raises:
        UserError: a cell is no flag, or only some cells of a row are empty.
    """
    flags = classify_flags(batch)
    is_empty = (flags == EMPTY).all(axis=1)
    wrong = np.argwhere((flags > SET) & ~is_empty[:, None])
    if len(wrong):
        row, number = map(int, wrong[0])
        parse_flag(label, batch.schema.names[number], batch.column(number)[row].as_py())
    numbers: list[list[int] | None] = [None if empty else [] for empty in is_empty.tolist()]
    for row, number in np.argwhere(flags == SET).tolist():
        found = numbers[row]
        assert found is not None
        found.append(number)
    return numbers
