"""The roles of a table's columns, guessed from their names or given, and the ways to read labels from them.

An image's labels are in one column (one label per cell, several per cell between separators, or a list), or each
label has a column of its own that holds 0 or 1.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from imageset.class_names import are_integers, normalize_class_name, strip_zero_fraction
from imageset.exceptions import UserError
from imageset.labels import join_labels
from imageset.rejections import escape_control_characters
from imageset.sources.files import IMAGE_EXTENSIONS
from imageset.sources.tables.cell_types import check_cell_type, list_names
from imageset.sources.tables.flags import (
    SET,
    are_flags,
    classify_flags,
    is_one_hot,
    is_set,
    list_set_columns,
    parse_flag,
)
from imageset.utils.text import format_count, suggest_name, unescape_cell


class UnknownColumnError(UserError):
    """No column of a table is named as one of paths, or of labels."""


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
        "image_name",
        "image_file",
        "image_filename",
    ),
    "label": (
        "label",
        "labels",
        "class",
        "class_name",
        "category",
        "target",
        "label_name",
        "y",
        "cls",
        "tags",
        "class_label",
    ),
    "split": ("split", "subset", "partition", "fold", "set", "is_valid", "is_val"),
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
_OTHER_USES = frozenset({"tags", "y"})  # free keywords, and a coordinate, beside a column of labels
_OPTIONAL_ROLES = ("split", "group", "time")  # an empty name, as in ?split=, is no column
_FILE_KEYS = ("root", "ending")  # of paths; imageset.sources.tables.image_paths
# The keys that are allowed after the question mark.
QUERY_KEYS = (*COLUMN_NAMES_BY_ROLE, "separator", "labels", *_FILE_KEYS)
CELL_SEPARATORS = ("|", ";", ",")

Row = Mapping[str, Any]
DistinctValues = Callable[[str], set[Any]]  # column -> its distinct values, those in lists one by one
DistinctRows = Callable[[tuple[str, ...]], set[tuple[Any, ...]]]  # columns -> the distinct rows of them
Batches = Callable[[list[str]], Iterable[pa.RecordBatch]]  # columns -> all rows of them


@dataclass(frozen=True, slots=True)
class LabelReader:
    """A way to read the label of a row.

    Attributes:
        columns: the columns that the label is read from.
        multi_label: whether an image may have several labels, or none.
        note: what was understood, and how to change it; for the description of the source.
        read: returns the one string of imageset.labels for a row, or None if the row is unlabelled.
        read_flags: does the same for all rows of a batch, if each label has a column of its own; else None.
    """

    columns: tuple[str, ...]
    multi_label: bool
    note: str
    read: Callable[[Row], str | None]
    read_flags: Callable[[pa.RecordBatch], list[str | None]] | None = None

    def read_batch(self, batch: pa.RecordBatch) -> list[str | None]:
        """Return the label of each row; with a column for each label, much faster than row by row."""
        if self.read_flags is not None:
            return self.read_flags(batch)
        if not self.columns:
            return [None] * batch.num_rows
        return list(map(self.read, batch.select(list(self.columns)).to_pylist()))


UNLABELLED = LabelReader((), False, "no labels", lambda row: None)


def choose_columns(
    label: str, names: list[str], query: Mapping[str, str], *, requires_path: bool = True
) -> dict[str, str | None]:
    """Return the column of each role, given or guessed; None for a role without a column.

    Args:
        label: name of the source in messages.
        names: the columns of the table.
        query: column by role, as in a URL's query.
        requires_path: raise UserError if no column holds the images.

    Raises:
        UserError: a role or a column does not exist, or no column holds the images.
    """
    given: dict[str, str | None] = {}
    for role, column in query.items():
        if role not in QUERY_KEYS:
            raise UserError(f"{label}: '{role}' is not a role of a column; {suggest_name(role, QUERY_KEYS)}")
        if role in COLUMN_NAMES_BY_ROLE:
            is_none = role in _OPTIONAL_ROLES and not column
            given[role] = None if is_none else find_column(label, column, names)
    by_guess = {fold_column(name): name for name in reversed(names)}
    taken = (
        {find_column(label, name, names) for name in query["labels"].split(",")} if "labels" in query else set()
    )
    chosen = given | {
        role: next(
            (by_guess[guess] for guess in guesses if guess in by_guess and by_guess[guess] not in taken), None
        )
        for role, guesses in COLUMN_NAMES_BY_ROLE.items()
        if role not in given
    }
    chosen = {role: chosen[role] for role in COLUMN_NAMES_BY_ROLE}
    if chosen["path"] is None and requires_path:
        check_header(label, names)
        raise UnknownColumnError(
            f"{label}: no column looks like the path (columns: {list_names(names)}); "
            f"name the column with {label}?path=COLUMN"
        )
    _check_unique(label, names, {str(name) for name in {*chosen.values(), *taken} - {None}})
    return chosen


def _check_unique(label: str, names: list[str], used: Iterable[str]) -> None:
    for name in used:
        if (num := names.count(name)) > 1:
            raise UserError(f"{label}: {num} columns are called '{name}'; rename all but one")


def find_column(label: str, name: str, names: list[str]) -> str:
    """Return the column of a name, which may be written in another case or with blanks around it.

    Raises:
        UserError: there is none.
    """
    if name in names:
        return name
    similar = [other for other in dict.fromkeys(names) if fold_column(other) == fold_column(name)]
    if len(similar) == 1:
        return similar[0]
    raise UserError(f"{label}: no column '{name}'; {suggest_name(name, names)}")


def fold_column(name: str) -> str:
    """Return the name of a column in lower case, with "_" for blanks and dashes."""
    return re.sub(r"[\s_-]+", "_", normalize_class_name(name).casefold())


def choose_label_reader(
    label: str,
    schema: pa.Schema,
    columns: Mapping[str, str | None],
    query: Mapping[str, str],
    distinct_values: DistinctValues,
    distinct_rows: DistinctRows,
    iter_batches: Batches,
) -> LabelReader:
    """Return the way to read labels, given or guessed.

    Args:
        label: name of the source in messages.
        schema: the schema of the table.
        columns: the column of each role, from `choose_columns`.
        query: column by role, as in a URL's query.
        distinct_values: returns the distinct values of a column.
        distinct_rows: returns the distinct rows of some columns.
        iter_batches: returns all rows of some columns.

    Raises:
        UserError: no column looks like labels, or the query contradicts itself or the table.
    """
    if "labels" in query:
        if "label" in query or "separator" in query:
            raise UserError(
                f"{label}: give either labels=A,B,C (one column per label) or label= and separator=, not both"
            )
        given = [find_column(label, name, schema.names) for name in query["labels"].split(",")]
        return _build_flag_reader(label, tuple(given), "")
    column = columns["label"]
    if column is None:
        others = tuple(name for name in schema.names if name and name not in columns.values())
        _check_unique(label, schema.names, others)
        if len(others) < 2 or not all(are_flags(distinct_values(name)) for name in others):
            raise UnknownColumnError(
                f"{label}: no column looks like the label (columns: {list_names(schema.names)}); "
                f"name the column with {label}?label=COLUMN, or, with one column per label, {label}?labels=A,B,C"
            )
        if is_one_hot(iter_batches(list(others))):
            return _build_one_hot_reader(label, others)
        return _build_flag_reader(label, others, f" (guessed; to change it, give {label}?label=COLUMN)")
    rivals = [] if "label" in query else _find_other_labels(column, columns, schema.names)
    note = _compare_label_columns(label, column, rivals, distinct_rows)
    check_cell_type(label, "label", column, schema)
    if pa.types.is_list(schema.field(column).type) or pa.types.is_large_list(schema.field(column).type):
        return _build_list_reader(column, read_class_names(schema, column), distinct_values)
    reader = _build_column_reader(label, column, read_class_names(schema, column), query, distinct_values)
    return replace(reader, note=_join_notes(reader.note, [note]))


def _find_other_labels(column: str, columns: Mapping[str, str | None], names: list[str]) -> list[str]:
    """Return the other columns that are called like labels."""
    return [
        name
        for name in names
        if name != column
        and name not in columns.values()
        and fold_column(name) in COLUMN_NAMES_BY_ROLE["label"]
        and fold_column(name) not in _OTHER_USES
    ]


def _compare_label_columns(label: str, column: str, others: list[str], distinct_rows: DistinctRows) -> str:
    """Return a clause about columns that hold the same classes under other names.

    Raises:
        UserError: another column that looks like labels holds other classes.
    """
    clauses = []
    for other in others:
        rows = distinct_rows((column, other))
        if all(str(first) == str(second) for first, second in rows):
            continue
        sizes = {len(rows), len({first for first, _ in rows}), len({second for _, second in rows})}
        if len(sizes) > 1:
            raise UserError(
                f"{label}: the columns '{column}' and '{other}' both look like the label and hold different "
                f"classes; choose one with {label}?label={column} or {label}?label={other}"
            )
        clauses.append(f"the column '{other}' holds the same classes by other names (?label={other} takes it)")
    return "; ".join(clauses)


def read_class_names(schema: pa.Schema, column: str) -> list[str]:
    """Return the class names that Hugging Face's datasets library stores in the schema, also those of a list."""
    try:
        feature = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"][column]
        feature = feature[0] if isinstance(feature, list) else feature.get("feature", feature)
        return [normalize_class_name(str(name)) for name in feature["names"]]
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
    separator, note, values = query.get("separator"), "", distinct_values(column)
    if separator is None and not names:
        separator, unsure = guess_separator(value for value in values if isinstance(value, str))
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
        texts = {value: _to_class_name(value, names) for value in values}
        class_names, repairs = _clean_names({text for text in texts.values() if text is not None})
        labels = {value: class_names.get(text or "") or None for value, text in texts.items()}
        return LabelReader((column,), False, _join_notes(note, repairs), lambda row: labels.get(row[column]))
    cells = {value: _split_cell(str(value), separator) for value in values if value is not None}
    class_names, repairs = _clean_names({part for parts in cells.values() for part in parts})

    def read(row: Row) -> str | None:
        return None if row[column] is None else join_labels(class_names[part] for part in cells[row[column]])

    return LabelReader(
        (column,), True, _join_notes(f"multi-label, separated by '{separator}'{note}", repairs), read
    )


def _build_list_reader(column: str, names: list[str], distinct_values: DistinctValues) -> LabelReader:
    texts = {value: _to_class_name(value, names) or "" for value in distinct_values(column)}
    class_names, repairs = _clean_names(set(texts.values()))

    def read(row: Row) -> str | None:
        return (
            None
            if row[column] is None
            else join_labels(name for value in row[column] if (name := class_names[texts[value]]))
        )

    return LabelReader((column,), True, _join_notes("multi-label, as a list", repairs), read)


def _clean_names(texts: set[str]) -> tuple[dict[str, str], list[str]]:
    """Return (class name by text, clauses about what was changed).

    Class names have no blanks around them and are in Unicode NFC. If all are integers, some of which a program
    exported as floats ("3.0"), they are integers.
    """
    names = {text: normalize_class_name(unescape_cell(text.strip())) for text in texts}
    repairs = []
    if escaped := sorted(text for text in texts if unescape_cell(text.strip()) != text.strip()):
        repairs.append(f"the apostrophe left out that keeps spreadsheets from running {_quote(escaped[0])}")
    if stripped := sorted(text for text in texts if text != text.strip()):
        repairs.append(f"blanks around labels removed, as in {_quote(stripped[0])}")
    if recoded := sorted(text for text, name in names.items() if unescape_cell(text.strip()) != name):
        repairs.append(f"labels in Unicode NFC, as {_quote(names[recoded[0]])}")
    if are_integers(name for name in names.values() if name):
        floats = sorted(name for name in names.values() if strip_zero_fraction(name) != name)
        if floats:
            repairs.append(f"numbers with a fraction of zeros read as integers, as '{floats[0]}'")
            names = {text: strip_zero_fraction(name) for text, name in names.items()}
    return names, repairs


def _quote(text: str) -> str:
    return f"'{escape_control_characters(text)}'"


def _join_notes(note: str, others: list[str]) -> str:
    return "; ".join(filter(None, [note, *others]))


def _build_one_hot_reader(label: str, columns: tuple[str, ...]) -> LabelReader:
    """Read one column per class, of which exactly one is 1 in each row."""
    names = [(column, normalize_class_name(column)) for column in columns]

    def read(row: Row) -> str | None:
        return next((name for column, name in names if is_set(row[column])), None)

    def read_flags(batch: pa.RecordBatch) -> list[str | None]:
        flags = classify_flags(batch.select(list(columns))) == SET
        numbers, is_labelled = flags.argmax(axis=1).tolist(), flags.any(axis=1).tolist()
        return [names[number][1] if known else None for number, known in zip(numbers, is_labelled, strict=True)]

    note = (
        f"one label a picture, as exactly one of {format_count(len(columns), 'column')} is 1 in each row "
        f"(guessed; for multi-label, give {label}?labels={','.join(columns)})"
    )
    return LabelReader(columns, False, note, read, read_flags)


def _build_flag_reader(label: str, columns: tuple[str, ...], note: str) -> LabelReader:
    """Read one column per label, each 0 or 1; a row with all of them empty is unlabelled."""
    names = {column: normalize_class_name(column) for column in columns}

    def read(row: Row) -> str | None:
        if all(row[column] in (None, "") for column in columns):
            return None
        return join_labels(names[column] for column in columns if parse_flag(label, column, row[column]))

    def read_flags(batch: pa.RecordBatch) -> list[str | None]:
        numbers = list_set_columns(label, batch.select(list(columns)))
        return [
            None if found is None else join_labels(names[columns[number]] for number in found) for found in numbers
        ]

    return LabelReader(columns, True, f"multi-label, one column per label{note}", read, read_flags)


def _to_class_name(value: Any, names: list[str]) -> str | None:
    if value is None or value != value:  # NaN, as pandas writes a missing label
        return None
    if names and isinstance(value, int) and 0 <= value < len(names):
        return names[value]
    return str(value)


def _split_cell(value: str, separator: str) -> list[str]:
    return [part for text in value.split(separator) if (part := text.strip())]


def have_flags(table: pa.Table) -> bool:
    """Return whether all columns of a table hold nothing but 0 and 1."""
    return all(are_flags(set(column.unique().to_pylist())) for column in table.columns)


def check_header(label: str, names: list[str]) -> None:
    """Raise UserError if the first line of a table is that of an image, and not its header."""
    if any(name.strip().lower().endswith(tuple(IMAGE_EXTENSIONS)) for name in names):
        raise UserError(
            f"{label}: its first line is that of a picture ({list_names(names)}) and does not name the columns; "
            "write a line before it, such as: path,label"
        )
