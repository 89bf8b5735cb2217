"""Pictures named by a table: CSV, TSV, JSON lines or Parquet, with Hugging Face's image Parquet among them.

The columns are guessed by their names and can be said: `table.csv?path=file&label=breed&split=fold&group=dog`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import pyarrow as pa
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet as pq

from imageset.errors import UserError
from imageset.params import nearest
from imageset.quality import Rejected
from imageset.sources import SPLIT_OF_FOLDER, SourcePicture, read_file, slug

ENDINGS = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")
_GUESSES: Mapping[str, tuple[str, ...]] = {
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
    "label": ("label", "labels", "class", "class_name", "category", "target", "label_name", "y", "cls"),
    "split": ("split", "subset", "partition", "fold", "set"),
    "group": ("group", "group_id", "patient", "patient_id", "subject", "subject_id", "sequence", "track"),
}
_ROWS_AT_ONCE = 64


def is_table(spec: str) -> bool:
    """Whether the source is a table (perhaps with its columns said after a question mark)."""
    return Path(spec.partition("?")[0]).name.lower().endswith(ENDINGS) and Path(spec.partition("?")[0]).is_file()


class TableSource:
    """A table whose rows are pictures: paths relative to its folder, or the bytes themselves."""

    kind = "table"

    def __init__(self, spec: str, *, to_learn: bool = True) -> None:
        text, _, said = spec.partition("?")
        self.path = Path(text)
        self.name = slug(self.path.stem)
        self.passed_over: Counter[str] = Counter()
        schema = _schema(self.path)
        self._columns = _choose(self.path, schema.names, dict(parse_qsl(said)))
        self._label_names = _label_names(schema, self._columns["label"])
        self.classes: Counter[str] = Counter()
        self.splits: Counter[str] = Counter()
        self._num = 0
        for batch in self._batches(("label", "split")):
            self._num += len(batch)
            self.classes.update(label for label in map(self._label, batch) if label is not None)
            self.splits.update(split for split in map(self._split, batch) if split is not None)
        self.problem = self._problem()
        if to_learn and self.problem:
            raise UserError(self.problem)

    def __iter__(self) -> Iterator[SourcePicture]:
        first = 0
        for batch in self._batches(("path", "label", "split", "group")):
            for number, row in enumerate(batch, first):
                uri, read = self._picture(row, number)
                group = row.get("group")
                yield SourcePicture(
                    uri, self._label(row), None if group is None else str(group), self._split(row), read
                )
            first += len(batch)

    def __len__(self) -> int:
        return self._num

    def describe(self) -> str:
        columns = ", ".join(f"{role}: {column}" for role, column in self._columns.items() if column)
        splits = ", ".join(f"{split} {num:,}" for split, num in sorted(self.splits.items()))
        return (
            f"{self.path}: {len(self):,} pictures in {len(self.classes)} classes"
            + (f" ({splits})" if splits else "")
            + f"; columns {columns}"
        )

    def _batches(self, roles: tuple[str, ...]) -> Iterator[list[dict[str, Any]]]:
        """Some rows at a time, their columns named by role."""
        chosen = {self._columns[role]: role for role in roles if self._columns[role]}
        for batch in _record_batches(self.path, [column for column in chosen if column]):
            yield [{chosen[column]: value for column, value in row.items()} for row in batch.to_pylist()]

    def _label(self, row: Mapping[str, Any]) -> str | None:
        value = row.get("label")
        if value is None or value == "":
            return None
        if self._label_names and isinstance(value, int) and 0 <= value < len(self._label_names):
            return self._label_names[value]
        return str(value)

    def _split(self, row: Mapping[str, Any]) -> str | None:
        return SPLIT_OF_FOLDER.get(str(row.get("split") or "").lower())

    def _picture(self, row: Mapping[str, Any], number: int) -> tuple[str, partial[bytes]]:
        value = row["path"]
        if isinstance(value, dict):  # Hugging Face: {"bytes", "path"}
            data, name = value.get("bytes"), value.get("path")
            if data is not None:
                return f"{number:08d}/{name or 'picture'}", partial(bytes, data)
            value = name
        if isinstance(value, bytes):
            return f"{number:08d}/picture", partial(bytes, value)
        return str(value), partial(_read_below, self.path.parent, str(value))

    def _problem(self) -> str | None:
        if not self._num:
            return f"{self.path}: holds no rows"
        if len(self.classes) < 2:
            return (
                f"{self.path}: {len(self.classes)} classes in the column '{self._columns['label']}'; "
                "at least two are needed to learn a difference"
            )
        return None


def _read_below(folder: Path, name: str) -> bytes:
    """Read a file that the table names, only below the table's own folder."""
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise Rejected("unreadable", "lies outside the table's folder")
    try:
        return read_file(path)
    except (FileNotFoundError, IsADirectoryError):
        raise Rejected("unreadable", "no such file") from None


def _choose(path: Path, names: list[str], said: Mapping[str, str]) -> dict[str, str | None]:
    """The column of each role, as said or guessed.

    Raises:
        UserError: a role or column that does not exist, or no column for the pictures or the labels.
    """
    for role, column in said.items():
        if role not in _GUESSES:
            raise UserError(f"{path}: '{role}' is no role of a column; {nearest(role, _GUESSES)}")
        if column not in names:
            raise UserError(f"{path}: no column '{column}'; {nearest(column, names)}")
    lower = {name.lower(): name for name in reversed(names)}
    chosen = {
        role: said.get(role) or next((lower[guess] for guess in guesses if guess in lower), None)
        for role, guesses in _GUESSES.items()
    }
    for role in ("path", "label"):
        if chosen[role] is None:
            raise UserError(
                f"{path}: no column looks like the {role} (there are {', '.join(names)}); "
                f"say which: {path}?{role}=COLUMN"
            )
    return chosen


def _schema(path: Path) -> pa.Schema:
    if path.suffix.lower() == ".parquet":
        try:
            return pq.read_schema(path)
        except (OSError, pa.ArrowException) as error:
            raise UserError(f"{path}: not readable as Parquet: {error}") from None
    return _text_table(path).schema


def _record_batches(path: Path, columns: list[str]) -> Iterator[pa.RecordBatch]:
    try:
        if path.suffix.lower() == ".parquet":
            yield from pq.ParquetFile(path).iter_batches(_ROWS_AT_ONCE, columns=columns)
        else:
            yield from _text_table(path).select(columns).to_batches(_ROWS_AT_ONCE)
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{path}: damaged: {error}") from None


def _text_table(path: Path) -> pa.Table:
    """CSV, TSV or JSON lines; every cell of the first two as text, so that class 007 stays 007."""
    try:
        if path.suffix.lower() in (".jsonl", ".ndjson"):
            return pa.json.read_json(path)
        parse = pa.csv.ParseOptions(delimiter="\t" if path.suffix.lower() == ".tsv" else ",")
        header = pa.csv.open_csv(path, parse_options=parse).schema.names
        convert = pa.csv.ConvertOptions(column_types={name: pa.string() for name in header})
        return pa.csv.read_csv(path, parse_options=parse, convert_options=convert)
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{path}: not readable as a table: {' '.join(str(error).split())}") from None


def _label_names(schema: pa.Schema, column: str | None) -> list[str]:
    """Class names that Hugging Face's datasets library keeps in the schema."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return [str(name) for name in features[column]["names"]]
    except (KeyError, ValueError, TypeError):
        return []
