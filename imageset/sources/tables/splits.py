"""The column of splits of a table: the names that are taken for train, val and test, and those that are not."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from imageset.sources.layouts.split_names import SPLIT_BY_FOLDER

SPLIT_BY_VALUE = {
    **SPLIT_BY_FOLDER,
    "validate": "val",
    "hold-out": "test",
    "hold_out": "test",
}
# Columns that often hold something else, such as the number of a fold; they are no splits if no value is one.
_LOOSE_NAMES = frozenset({"fold", "set"})
_MAX_VALUES_NAMED = 5
FLAG_COLUMNS = frozenset({"is_valid", "is_val"})  # fastai's: true in the rows of validation pictures
_SPLIT_BY_FLAG = {"true": "val", "1": "val", "1.0": "val", "false": "train", "0": "train", "0.0": "train"}


@dataclass(frozen=True, slots=True)
class SplitColumn:
    """A column of splits as it was understood.

    Attributes:
        column: its name; None if no column gives splits.
        note: a clause about it for the description of the source, or "".
        problem: why its values cannot be used, or None.
    """

    column: str | None
    note: str = ""
    problem: str | None = None


def parse_split(value: Any, column: str = "") -> str | None:
    """Return train, val or test for a cell of a column, or None if it is empty or no split."""
    if column.strip().lower() in FLAG_COLUMNS:
        return _SPLIT_BY_FLAG.get(_fold(value))
    return SPLIT_BY_VALUE.get(value if type(value) is str else "") or SPLIT_BY_VALUE.get(_fold(value))


def choose_split_column(label: str, column: str | None, is_given: bool, values: Iterable[Any]) -> SplitColumn:
    """Decide whether a column gives splits.

    Args:
        label: name of the source in messages.
        column: the column, or None.
        is_given: whether the user named the column.
        values: its distinct values.
    """
    if column is None:
        return SplitColumn(None)
    given = {_fold(value): str(value).strip() for value in values if _fold(value)}
    if column.strip().lower() in FLAG_COLUMNS:
        if given.keys() <= _SPLIT_BY_FLAG.keys():
            note = f"in the column '{column}' true is val, false is train"
            return SplitColumn(column, f"{note}; {label}?split= ignores it" if given else "")
        return SplitColumn(None, f"the column '{column}' is not used: it holds more than true and false")
    unknown = [text for folded, text in sorted(given.items()) if folded not in SPLIT_BY_VALUE]
    if unknown and not is_given and column.lower() in _LOOSE_NAMES and len(unknown) == len(given):
        return SplitColumn(
            None,
            f"the column '{column}' is not used ({_join(unknown)} are no splits); ?group={column} keeps the "
            "pictures of each value in one split",
        )
    if unknown:
        verb = "is" if len(unknown) == 1 else "are"
        return SplitColumn(
            column,
            problem=f"{label}: split {_join(unknown)} in the column '{column}' {verb} not train, val, test; "
            f"rename {'it' if len(unknown) == 1 else 'them'} there, or give {label}?split= to ignore the column "
            "and let Convoy split the pictures",
        )
    synonyms = [
        f"'{text}' is {SPLIT_BY_VALUE[folded]}"
        for folded, text in sorted(given.items())
        if folded != SPLIT_BY_VALUE[folded]
    ]
    return SplitColumn(column, f"in the column '{column}' {', '.join(synonyms)}" if synonyms else "")


def _fold(value: Any) -> str:
    return "" if value is None or value != value else str(value).strip().lower()  # NaN: no value


def _join(values: list[str]) -> str:
    texts = [f"'{value}'" for value in values[:_MAX_VALUES_NAMED]]
    more = len(values) - len(texts)
    return ", ".join(texts) + (f" and {more:,} more" if more else "")
