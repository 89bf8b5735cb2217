"""Where a model is weaker: its accuracy over parts of the test split, by any column of the dataset's index."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from imageset.exceptions import UserError
from imageset.utils.text import suggest_name
from lightning_modules.evaluation.bootstrap import compute_wilson_interval

SIZE_COLUMN = "size"  # not a column: the short side of the picture as it came
NUM_BINS = 4  # of a column of numbers
MISSING_VALUE = "(none)"
MAX_VALUES = 20  # values of a column of words; the others are one slice


@dataclass(frozen=True)
class Slice:
    """One part of the test split, and the accuracy on it with its interval."""

    column: str
    value: str
    num: int
    accuracy: float
    low: float
    high: float
    small: bool  # too few pictures to lean on


def list_slice_columns(index: pa.Table) -> list[str]:
    """What `evaluate.slices` may name: `size`, and the columns that hold one number or one word a picture."""
    plain = [field.name for field in index.schema if not pa.types.is_nested(field.type)]
    return [SIZE_COLUMN, *plain]


def check_slice_columns(columns: Sequence[str], index: pa.Table) -> None:
    """Raise UserError for a column that there is not."""
    known = list_slice_columns(index)
    for column in columns:
        if column not in known:
            raise UserError(f"params.yaml: evaluate.slices: no column {column!r}; {suggest_name(column, known)}")


def compute_slices(
    rows: pa.Table, correct: np.ndarray, columns: Sequence[str], min_size: int, level: float
) -> list[Slice]:
    """The accuracy on each slice, columns in the order given; a column with one value only says nothing.

    Args:
        rows: the test split's rows of the index.
        right: bool (n,).
        columns: see `list_slice_columns`.
        smallest: a slice of fewer pictures is marked `small`.
        level: of the intervals (Wilson's).
    """
    found = []
    for column in columns:
        values = _assign_slices(rows, column)
        for value in dict.fromkeys(values) if len(set(values)) > 1 else ():
            here = correct[np.array([one == value for one in values])]
            low, high = compute_wilson_interval(int(here.sum()), len(here), level)
            found.append(
                Slice(column, value, len(here), float(here.mean()), low, high, small=len(here) < min_size)
            )
    return sorted(found, key=lambda one: (columns.index(one.column), one.small, one.accuracy, one.value))


def _assign_slices(rows: pa.Table, column: str) -> list[str]:
    """The slice that each picture belongs to."""
    if column == SIZE_COLUMN:
        sides = np.minimum(rows["width"].to_numpy(), rows["height"].to_numpy())
        return _bin_values(sides, "{:,} to {:,} px")
    values = rows[column]
    if pa.types.is_integer(values.type) or pa.types.is_floating(values.type):
        numbers = values.cast(pa.float64()).to_numpy()  # null becomes NaN
        if len(np.unique(numbers)) > NUM_BINS:
            return _bin_values(numbers, "{:g} to {:g}")
    words = pc.cast(values, pa.string()).to_pylist()
    named = [MISSING_VALUE if word is None else word for word in words]
    names, counts = np.unique(named, return_counts=True)
    kept = set(names[np.argsort(-counts, kind="stable")[:MAX_VALUES]].tolist())
    return [word if word in kept else "(others)" for word in named]


def _bin_values(values: np.ndarray, text: str) -> list[str]:
    """Numbers in bins of about equally many pictures, named by their smallest and largest."""
    missing = np.isnan(values)
    edges = np.unique(np.quantile(values[~missing], np.arange(1, NUM_BINS) / NUM_BINS))
    places = np.where(missing, -1, np.searchsorted(edges, values, side="left"))
    names = {-1: MISSING_VALUE}
    for place in np.unique(places[~missing]).tolist():
        here = values[places == place]
        names[place] = text.format(here.min().item(), here.max().item())
    return [names[place] for place in places.tolist()]
