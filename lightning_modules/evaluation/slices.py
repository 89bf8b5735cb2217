"""Slices of the test split by any column of the dataset's index, to find where a model is weaker."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from imageset.exceptions import UserError
from imageset.utils.text import suggest_name
from lightning_modules.evaluation.bootstrap import compute_wilson_interval

SIZE_COLUMN = "size"  # not a column of the index: the short side of the original image
NUM_BINS = 4  # bins of a column of numbers
MISSING_VALUE = "(none)"
MAX_VALUES = 20  # values of a column of text; all others together are one slice


@dataclass(frozen=True)
class Slice:
    """A part of the test split, and the accuracy on it with its interval."""

    column: str
    value: str
    num: int
    accuracy: float
    low: float
    high: float
    small: bool  # too few images for a reliable accuracy


def list_slice_columns(index: pa.Table) -> list[str]:
    """Return the names that `evaluate.slices` may hold: `size`, and the columns of single numbers or texts."""
    plain = [field.name for field in index.schema if not pa.types.is_nested(field.type)]
    return [SIZE_COLUMN, *plain]


def check_slice_columns(columns: Sequence[str], index: pa.Table) -> None:
    """Raise UserError for a column that the index does not have."""
    known = list_slice_columns(index)
    for column in columns:
        if column not in known:
            raise UserError(f"params.yaml: evaluate.slices: no column {column!r}; {suggest_name(column, known)}")


def compute_slices(
    rows: pa.Table, correct: np.ndarray, columns: Sequence[str], min_size: int, level: float
) -> list[Slice]:
    """Compute the accuracy on each slice; a column with a single value has no slices.

    Args:
        rows: the test split's rows of the index.
        correct: bool (n,), whether each prediction is correct.
        columns: see `list_slice_columns`.
        min_size: a slice of fewer images is marked `small`.
        level: of the intervals (Wilson's).

    Returns:
        The slices by column, in the order of `columns`; in each column the small slices last, and otherwise the
        lowest accuracy first.
    """
    slices = []
    for column in columns:
        values = _assign_slices(rows, column)
        for value in dict.fromkeys(values) if len(set(values)) > 1 else ():
            hits = correct[np.array([row_value == value for row_value in values])]
            low, high = compute_wilson_interval(int(hits.sum()), len(hits), level)
            slices.append(
                Slice(column, value, len(hits), float(hits.mean()), low, high, small=len(hits) < min_size)
            )
    return sorted(slices, key=lambda row: (columns.index(row.column), row.small, row.accuracy, row.value))


def _assign_slices(rows: pa.Table, column: str) -> list[str]:
    """Return the name of the slice that each image belongs to."""
    if column == SIZE_COLUMN:
        sides = np.minimum(rows["width"].to_numpy(), rows["height"].to_numpy())
        return _bin_values(sides, "{:,} to {:,} px")
    values = rows[column]
    if pa.types.is_integer(values.type) or pa.types.is_floating(values.type):
        numbers = values.cast(pa.float64()).to_numpy()  # null becomes NaN
        if len(np.unique(numbers)) > NUM_BINS:
            return _bin_values(numbers, "{:g} to {:g}")
    texts = pc.cast(values, pa.string()).to_pylist()
    filled = [MISSING_VALUE if text is None else text for text in texts]
    names, counts = np.unique(filled, return_counts=True)
    frequent = set(names[np.argsort(-counts, kind="stable")[:MAX_VALUES]].tolist())
    return [text if text in frequent else "(others)" for text in filled]


def _bin_values(values: np.ndarray, text: str) -> list[str]:
    """Group numbers into bins of about equal size, named by their smallest and largest number."""
    missing = np.isnan(values)
    edges = np.unique(np.quantile(values[~missing], np.arange(1, NUM_BINS) / NUM_BINS))
    bins = np.where(missing, -1, np.searchsorted(edges, values, side="left"))
    names = {-1: MISSING_VALUE}
    for number in np.unique(bins[~missing]).tolist():
        members = values[bins == number]
        names[number] = text.format(members.min().item(), members.max().item())
    return [names[number] for number in bins.tolist()]
