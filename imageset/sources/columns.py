"""Which column of a table holds what, as guessed by the names or as said, and how its labels are read.

A picture's labels stand in one column (one label a cell, several in a cell between separators, or a list), or
each in a column of its own that holds 0 or 1.
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
QUERY_KEYS = (*COLUMN_NAMES_BY_ROLE, "separator", "labels")  # what may stand behind the question mark
CELL_SEPARATORS = ("|", ";", ",")
_FLAG_VALUES = {"0": False, "1": True, "0.0": False, "1.0": True, "false": False, "true": True}

Row = Mapping[str, Any]
DistinctValues = Callable[[str], set[Any]]  # column -> its distinct values


@dataclass(frozen=True, slots=True)
class LabelReader:
    """How a row's label is read: `read(row)` gives the one string of imageset.labels, or None for unlabelled.

    Attributes:
        columns: what it is read from.
        multi_label: whether a picture may bear several, or none.
        note: for the echo: what was understood, and how to say otherwise.
    """

    columns: tuple[str, ...]
    multi_label: bool
    note: str
    read: Callable[[Row], str | None]


UNLABELLED = LabelReader((), False, "no labels", lambda row: None)


def choose_columns(label: str, names: list[str], query: Mapping[str, str]) -> dict[str, str | None]:
    """The column of each role, as said or guessed; the label's is None where there is no such column.

    Raises:
        UserError: a role or column that does not exist, or no column for the pictures.
    """
    for role, column in query.items():
        if role not in QUERY_KEYS:
            raise UserError(f"{label}: '{role}' is no role of a column; {suggest_name(role, QUERY_KEYS)}")
        for one in column.split(",") if role == "labels" else [column]:
            if role != "separator" and one not in names:
                raise UserError(f"{label}: no column '{one}'; {suggest_name(one, names)}")
    lower = {name.lower(): name for name in reversed(names)}
    taken = set(query.get("labels", "").split(","))
    chosen = {
        role: query.get(role)
        or next((lower[guess] for guess in guesses if guess in lower and lower[guess] not in taken), None)
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
    """How labels are read, as said or guessed.

    Raises:
        UserError: nothing looks like labels, or what was said does not go together or with what is there.
    """
    if "labels" in query:
        if "label" in query or "separator" in query:
            raise UserError(f"{label}: say either labels=A,B,C (a column each) or label= and separator=, not both")
        return _build_flag_reader(label, tuple(query["labels"].split(",")), "")
    column = columns["label"]
    if column is None:
        others = tuple(name for name in schema.names if name not in columns.values())
        if len(others) < 2 or not all(_are_flags(distinct_values(name)) for name in others):
            raise UserError(
                _describe_missing_column(label, "label", schema.names)
                + f", or, with one column a label, {label}?labels=A,B,C"
            )
        return _build_flag_reader(label, others, f" (guessed; {label}?label=COLUMN says otherwise)")
    if pa.types.is_list(schema.field(column).type) or pa.types.is_large_list(schema.field(column).type):
        return _build_list_reader(column, read_class_names(schema, column))
    return _build_column_reader(label, column, read_class_names(schema, column), query, distinct_values)


def read_class_names(schema: pa.Schema, column: str) -> list[str]:
    """Class names that Hugging Face's datasets library keeps in the schema; those of a list's items too."""
    try:
        feature = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"][column]
        feature = feature[0] if isinstance(feature, list) else feature.get("feature", feature)
        return [str(name) for name in feature["names"]]
    except (KeyError, ValueError, TypeError, IndexError, AttributeError):
        return []


def guess_separator(values: Iterable[str]) -> tuple[str | None, str | None]:
    """Return (separator that stands between labels, separator of which that cannot be told).

    It is told by this: every part of every value recurs in another value. So it is with "cat", "cat|dog" and
    "dog|cow|cat", "cow"; not with "tench, Tinca tinca" and "crane, bird", which are names with a comma in them.
    """
    values = set(values)
    unsure = None
    for separator in CELL_SEPARATORS:
        if any(separator in value for value in values):
            parts = Counter(part for value in values for part in set(_split_cell(value, separator)))
            compound = {part for value in values if separator in value for part in _split_cell(value, separator)}
            if compound and all(parts[part] > 1 for part in compound):
                return separator, None
            unsure = unsure or separator
    return None, unsure


# ---- the ways to read a label ----------------------------------------------------------------------------------


def _build_column_reader(
    shown: str, column: str, names: list[str], said: Mapping[str, str], distinct: DistinctValues
) -> LabelReader:
    """One label a cell, or several between separators."""
    separator, note = said.get("separator"), ""
    if separator is None and not names:
        separator, unsure = guess_separator(value for value in distinct(column) if isinstance(value, str))
        if separator:
            note = f" (guessed; {shown}?separator= takes a cell as one label)"
        elif unsure in ("|", ";"):
            raise UserError(
                f"{shown}: the column '{column}' holds '{unsure}' and it is not clear whether that stands between "
                f"several labels; say so with {shown}?separator={unsure}, or with ?separator= that it does not"
            )
        elif unsure:
            note = f"a cell with '{unsure}' is taken as one label; ?separator={unsure} makes it several"
    if not separator:
        return LabelReader((column,), False, note, lambda row: _to_class_name(row[column], names) or None)

    def read(row: Row) -> str | None:
        return None if row[column] is None else join_labels(_split_cell(str(row[column]), separator))

    return LabelReader((column,), True, f"several labels a picture, between them '{separator}'{note}", read)


def _build_list_reader(column: str, names: list[str]) -> LabelReader:
    def read(row: Row) -> str | None:
        return (
            None if row[column] is None else join_labels(_to_class_name(one, names) or "" for one in row[column])
        )

    return LabelReader((column,), True, "several labels a picture, as a list", read)


def _build_flag_reader(shown: str, columns: tuple[str, ...], note: str) -> LabelReader:
    """One column a label, each 0 or 1; a row with all of them empty is unlabelled."""

    def read(row: Row) -> str | None:
        if all(row[column] in (None, "") for column in columns):
            return None
        return join_labels(column for column in columns if _parse_flag(shown, column, row[column]))

    return LabelReader(columns, True, f"several labels a picture, a column each{note}", read)


def _to_class_name(value: Any, names: list[str]) -> str | None:
    if value is None:
        return None
    if names and isinstance(value, int) and 0 <= value < len(names):
        return names[value]
    return str(value)


def _split_cell(value: str, separator: str) -> list[str]:
    return [part for one in value.split(separator) if (part := one.strip())]


def _parse_flag(shown: str, column: str, value: Any) -> bool:
    flag = _FLAG_VALUES.get(str(value).strip().lower())
    if flag is None:
        raise UserError(
            f"{shown}: the column '{column}' is read as a label's own and holds {value!r}; give 0 or 1 in every "
            "row, or nothing at all in the rows of pictures that nobody has labelled"
        )
    return flag


def _are_flags(values: set[Any]) -> bool:
    given = {str(value).strip().lower() for value in values if value not in (None, "")}
    return bool(given) and given <= set(_FLAG_VALUES)


def _describe_missing_column(shown: str, role: str, names: list[str]) -> str:
    return (
        f"{shown}: no column looks like the {role} (there are {', '.join(names)}); "
        f"say which: {shown}?{role}=COLUMN"
    )
