"""The roles of a table's columns, guessed from their names or given, and the ways to read labels from them.

An image's labels are in one column (one label per cell, several per cell between separators, or a list), or each
label has a column of its own that holds 0 or 1.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from imageset.exceptions import UserError
from imageset.labels import join_labels
from imageset.utils.text import suggest_name

COLUMN_NAMES_BY_ROLE: Mapping[str, tuple[str, ...]] = {
    "path": (
        "path",
        "file",
        "filename",
        "file_name",
        "filepath",
        "file_path",
        "image_path",
        "image",
        "img",
        "uri",
        "bytes",
        "jpg",
        "png",
    ),
    "label": ("label", "labels", "class", "class_name", "category", "target", "label_name", "y", "cls", "tags"),
    "split": ("split", "subset", "partition", "fold", "set"),
    "group": ("group", "group_id", "patient", "patient_id", "subject", "subject_id", "sequence", "track"),
    "time": (
        "time",
        "date",
        "datetime",
        "timestamp",
        "taken",
        "taken_at",
        "date_taken",
        "captured_at",
        "acquired",
    ),
}
QUERY_KEYS = (*COLUMN_NAMES_BY_ROLE, "separator", "labels")  # the keys that are allowed after the question mark
CELL_SEPARATORS = ("|", ";", ",")
_FLAG_VALUES = {"0": False, "1": True, "0.0": False, "1.0": True, "false": False, "true": True}

Row = Mapping[str, Any]
DistinctValues = Callable[[str], set[Any]]  # column -> its distinct values


@dataclass(frozen=True, slots=True)
class LabelReader:
    """A way to read the label of a row.

    Attributes:
        columns: the columns that the label is read from.
        multi_label: whether an image may have several labels, or none.
        note: what was understood, and how to change it; for the description of the source.
        read: returns the one string of imageset.labels for a row, or None if the row is unlabelled.
    """

    columns: tuple[str, ...]
    multi_label: bool
    note: str
    read: Callable[[Row], str | None]


UNLABELLED = LabelReader((), False, "no labels", lambda row: None)


def choose_columns(label: str, names: list[str], query: Mapping[str, str]) -> dict[str, str | None]:
    """Return the column of each role, given or guessed; None for a role without a column.

    Args:
        label: name of the source in messages.
        names: the columns of the table.
        query: column by role, as in a URL's query.

    Raises:
        UserError: a role or a column does not exist, or no column holds the images.
    """
    for role, column in query.items():
        if role not in QUERY_KEYS:
            raise UserError(f"{label}: '{role}' is not a role of a column; {suggest_name(role, QUERY_KEYS)}")
        for name in column.split(",") if role == "labels" else [column]:
            if role != "separator" and name not in names:
                raise UserError(f"{label}: no column '{name}'; {suggest_name(name, names)}")
    by_lower = {name.lower(): name for name in reversed(names)}
    taken = set(query.get("labels", "").split(","))
    chosen = {
        role: query.get(role)
        or next((by_lower[guess] for guess in guesses if guess in by_lower and by_lower[guess] not in taken), None)
        for role, guesses in COLUMN_NAMES_BY_ROLE.items()
    }
    if chosen["path"] is None:
        raise UserError(_describe_missing_column(label, "path", names))
    return chosen


def choose_label_reader(
    label: str,
    schema: pa.Schema,
    columns: Mapping[str, str | None],
    query: Mapping[str, str],
    distinct_values: DistinctValues,
) -> LabelReader:
    """Return the way to read labels, given or guessed.

    Args:
        label: name of the source in messages.
        schema: the schema of the table.
        columns: the column of each role, from `choose_columns`.
        query: column by role, as in a URL's query.
        distinct_values: returns the distinct values of a column.

    Raises:
        UserError: no column looks like labels, or the query contradicts itself or the table.
    """
    if "labels" in query:
        if "label" in query or "separator" in query:
            raise UserError(
                f"{label}: give either labels=A,B,C (one column per label) or label= and separator=, not both"
            )
        return _build_flag_reader(label, tuple(query["labels"].split(",")), "")
    column = columns["label"]
    if column is None:
        others = tuple(name for name in schema.names if name not in columns.values())
        if len(others) < 2 or not all(_are_flags(distinct_values(name)) for name in others):
            raise UserError(
                _describe_missing_column(label, "label", schema.names)
                + f", or, with one column per label, {label}?labels=A,B,C"
            )
        return _build_flag_reader(label, others, f" (guessed; to change it, give {label}?label=COLUMN)")
    if pa.types.is_list(schema.field(column).type) or pa.types.is_large_list(schema.field(column).type):
        return _build_list_reader(column, read_class_names(schema, column))
    return _build_column_reader(label, column, read_class_names(schema, column), query, distinct_values)


def read_class_names(schema: pa.Schema, column: str) -> list[str]:
    """Return the class names that Hugging Face's datasets library stores in the schema, also those of a list."""
    try:
        feature = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"][column]
        feature = feature[0] if isinstance(feature, list) else feature.get("feature", feature)
        return [str(name) for name in feature["names"]]
    except (KeyError, ValueError, TypeError, IndexError, AttributeError):
        return []


def guess_separator(values: Iterable[str]) -> tuple[str | None, str | None]:
    """Return (separator between labels or None, separator that may or may not be one or None).

    A separator separates labels if every part of every value that contains it occurs in another value as well.
    This is so for "cat", "cat|dog", "dog|cow|cat" and "cow", but not for "tench, Tinca tinca" and "crane, bird",
    which are names with a comma.
    """
    values = set(values)
    unsure = None
    for separator in CELL_SEPARATORS:
        if any(separator in value for value in values):
            counts = Counter(part for value in values for part in set(_split_cell(value, separator)))
            compound_parts = {
                part for value in values if separator in value for part in _split_cell(value, separator)
            }
            if compound_parts and all(counts[part] > 1 for part in compound_parts):
                return separator, None
            unsure = unsure or separator
    return None, unsure


# ---- the ways to read a label ----------------------------------------------------------------------------------


def _build_column_reader(
    label: str, column: str, names: list[str], query: Mapping[str, str], distinct_values: DistinctValues
) -> LabelReader:
    """Read one label per cell, or several between separators."""
    separator, note = query.get("separator"), ""
    if separator is None and not names:
        separator, unsure = guess_separator(value for value in distinct_values(column) if isinstance(value, str))
        if separator:
            note = f" (guessed; {label}?separator= makes each cell one label)"
        elif unsure in ("|", ";"):
            raise UserError(
                f"{label}: the column '{column}' holds '{unsure}', which may or may not separate labels; "
                f"give {label}?separator={unsure} if it does, or ?separator= if it does not"
            )
        elif unsure:
            note = f"a cell with '{unsure}' is read as one label; ?separator={unsure} makes it several labels"
    if not separator:
        return LabelReader((column,), False, note, lambda row: _to_class_name(row[column], names) or None)

    def read(row: Row) -> str | None:
        return None if row[column] is None else join_labels(_split_cell(str(row[column]), separator))

    return LabelReader((column,), True, f"multi-label, separated by '{separator}'{note}", read)


def _build_list_reader(column: str, names: list[str]) -> LabelReader:
    def read(row: Row) -> str | None:
        return (
            None
            if row[column] is None
            else join_labels(_to_class_name(value, names) or "" for value in row[column])
        )

    return LabelReader((column,), True, "multi-label, as a list", read)


def _build_flag_reader(label: str, columns: tuple[str, ...], note: str) -> LabelReader:
    """Read one column per label, each 0 or 1; a row with all of them empty is unlabelled."""

    def read(row: Row) -> str | None:
        if all(row[column] in (None, "") for column in columns):
            return None
        return join_labels(column for column in columns if _parse_flag(label, column, row[column]))

    return LabelReader(columns, True, f"multi-label, one column per label{note}", read)


def _to_class_name(value: Any, names: list[str]) -> str | None:
    if value is None:
        return None
    if names and isinstance(value, int) and 0 <= value < len(names):
        return names[value]
    return str(value)


def _split_cell(value: str, separator: str) -> list[str]:
    return [part for text in value.split(separator) if (part := text.strip())]


def _parse_flag(label: str, column: str, value: Any) -> bool:
    flag = _FLAG_VALUES.get(str(value).strip().lower())
    if flag is None:
        raise UserError(
            f"{label}: the column '{column}' is read as a label of 0 or 1, but holds {value!r}; give 0 or 1 in "
            "every row, or leave all label columns empty in the rows of unlabelled pictures"
        )
    return flag


def _are_flags(values: set[Any]) -> bool:
    given = {str(value).strip().lower() for value in values if value not in (None, "")}
    return bool(given) and given <= set(_FLAG_VALUES)


def _describe_missing_column(label: str, role: str, names: list[str]) -> str:
    return (
        f"{label}: no column looks like the {role} (columns: {', '.join(names)}); "
        f"name the column with {label}?{role}=COLUMN"
    )
