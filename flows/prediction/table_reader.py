"""Read a table that `convoy predict` wrote, row by row."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flows.prediction.table_writer import CELLS_OF_USERS, TABLE_SUFFIXES
from imageset.exceptions import UserError
from imageset.utils.text import unescape_cell

REQUIRED_COLUMNS = {"uri", "image_id", "probability", "top_k", "status", "model_name", "model_version"}
ROWS_PER_BATCH = 4096  # rows
Row = dict[str, Any]


def is_prediction_table(source: str) -> bool:
    """Return whether a source is a table of predictions, not a table of images."""
    path = Path(source)
    if "://" in source or path.suffix.lower() not in TABLE_SUFFIXES or not path.is_file():
        return False
    try:
        first = next(iter(read_prediction_rows(path)), None)
        return path.suffix.lower() == ".parquet" or (first is not None and first.keys() >= REQUIRED_COLUMNS)
    except UserError:
        return False


def read_prediction_rows(path: Path) -> Iterator[Row]:
    """Yield the rows of a table; some thousand at a time are held in memory.

    Raises:
        UserError: the file cannot be read, or is not a table of predictions.
    """
    read_rows = {".parquet": _read_parquet, ".csv": _read_csv, ".jsonl": _read_jsonl}[path.suffix.lower()]
    try:
        yield from read_rows(path)
    except (OSError, ValueError, KeyError, TypeError) as error:  # Arrow's errors are ValueErrors and OSErrors
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path}: not a table that `convoy predict` wrote ({reason})") from None


def read_model_version(path: Path) -> tuple[str, int] | None:
    """Return the model and its version that a table is from; None if it has no rows."""
    first = next(iter(read_prediction_rows(path)), None)
    return None if first is None else (first["model_name"], int(first["model_version"]))


def _read_parquet(path: Path) -> Iterator[Row]:
    import pyarrow.parquet as pq

    for batch in pq.ParquetFile(path).iter_batches(ROWS_PER_BATCH, columns=sorted(REQUIRED_COLUMNS)):
        if set(batch.schema.names) != REQUIRED_COLUMNS:
            raise KeyError("columns are missing")
        yield from batch.to_pylist()


def _read_csv(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            numbers = {
                "top_k": json.loads(row["top_k"] or "null"),
                "probability": float(row["probability"] or "nan"),
            }
            texts = {name: unescape_cell(row[name]) for name in CELLS_OF_USERS if row.get(name)}
            yield {**row, **texts, **numbers, "image_id": row["image_id"] or None}


def _read_jsonl(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8") as file:
        for line in file:
            row = json.loads(line)
            if not isinstance(row, dict):
                raise TypeError("a line is not an object")
            yield row
