"""JSON lines that pyarrow cannot read as one table, line by line: a line that is damaged costs one row."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from imageset.utils.text import format_count

_SIMPLE = (str, int, float, bool)


@dataclass(frozen=True, slots=True)
class JsonRows:
    """The rows of a file of JSON lines.

    Attributes:
        table: the rows; cells are text, or lists of texts. A line that is damaged is a row of empty cells.
        notes: what was understood, one clause each.
    """

    table: pa.Table
    notes: tuple[str, ...]


def read_json_rows(text: str) -> JsonRows | None:
    """Read JSON lines; return None if no line is an object."""
    lines = [(number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
    rows = [_read_object(line) for _, line in lines]
    damaged = [number for (number, _), row in zip(lines, rows, strict=True) if row is None]
    names = list(dict.fromkeys(name for row in rows if row for name in row))
    if not names:
        return None
    columns = {name: _to_cells([(row or {}).get(name) for row in rows]) for name in names}
    notes = (
        (f"{format_count(len(damaged), 'line is', 'lines are')} no JSON objects, the first is line {damaged[0]}",)
        if damaged
        else ()
    )
    return JsonRows(pa.table(columns), notes)


def _read_object(line: str) -> Mapping[str, Any] | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return {_to_text(name): value for name, value in row.items()} if isinstance(row, dict) else None


def _to_cells(values: Sequence[Any]) -> pa.Array:
    """Return a column of texts, or of lists of texts if each value is a list; other values are empty cells."""
    given = [value for value in values if value is not None]
    if given and all(isinstance(value, list) for value in given):
        lists = [
            None if value is None else [_to_text(item) for item in value if isinstance(item, _SIMPLE)]
            for value in values
        ]
        return pa.array(lists, pa.list_(pa.string()))
    return pa.array([_to_text(value) if isinstance(value, _SIMPLE) else None for value in values], pa.string())


def _to_text(value: Any) -> str:
    """Return a text, number or truth value as text; half of a surrogate pair is written as an escape."""
    text = json.dumps(value) if isinstance(value, bool) else str(value)
    return text.encode("utf-8", "backslashreplace").decode()
