"""The types of a table's cells, and the names of its columns, in messages."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from imageset.exceptions import UserError

_MAX_NAMES, _MAX_NAME_LENGTH = 12, 40  # of columns in a message


def holds_images(type: pa.DataType) -> bool:
    """Return whether the cells of a column of Parquet may be whole images."""
    return pa.types.is_struct(type) or pa.types.is_binary(type) or pa.types.is_large_binary(type)


def check_cell_type(label: str, role: str, column: str, schema: pa.Schema) -> None:
    """Check that the cells of a column are names or numbers; those of labels may be lists of them.

    Args:
        label: name of the source in messages.
        role: "label" or "split".
        column: the column.
        schema: the schema of the table.

    Raises:
        UserError: they are something else.
    """
    type = schema.field(column).type
    if role == "label" and (pa.types.is_list(type) or pa.types.is_large_list(type)):
        type = type.value_type
    if pa.types.is_nested(type) or pa.types.is_binary(type) or pa.types.is_large_binary(type):
        raise UserError(
            f"{label}: the column '{column}' holds {_describe_type(type)} in each cell, not a {role}; write the "
            f"names into a column of their own, and name it with {label}?{role}=COLUMN"
        )


def list_distinct(cells: pa.Array | pa.ChunkedArray) -> list[Any]:
    """Return the distinct values of cells that are no lists."""
    return (cells.cast(pa.float32()) if pa.types.is_float16(cells.type) else cells).unique().to_pylist()


def _describe_type(type: pa.DataType) -> str:
    if pa.types.is_struct(type):
        return f"several fields ({', '.join(field.name for field in type)})"
    return "a list" if pa.types.is_nested(type) else "bytes"


def list_names(names: list[str]) -> str:
    """Return the names of columns for a message, the first of many."""
    shown = [
        name if len(name) <= _MAX_NAME_LENGTH else f"{name[:_MAX_NAME_LENGTH]}..." for name in names[:_MAX_NAMES]
    ]
    return ", ".join(shown) + (f" and {len(names) - len(shown):,} more" if len(names) > len(shown) else "")
