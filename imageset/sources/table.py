"""Tables as a source: CSV, TSV, JSON lines or Parquet, Hugging Face's image Parquet included.

The columns are guessed by their names and can be given: `table.csv?path=file&label=breed&split=fold&group=dog`,
and `?label=tags&separator=;` or `?labels=cat,dog,cow` for multi-label images (imageset.sources.columns).

Only files below the table's own folder are read: no parent folder, no other path, and no URL, since the author of
the table could then choose what this machine requests. The same holds for a table behind a URL: its images are
below it (imageset.sources.remote.source).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import pyarrow as pa
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet as pq

from imageset.exceptions import UserError
from imageset.labels import count_labels
from imageset.rejections import Rejected
from imageset.sources.base import SourceImage, describe_source, slugify
from imageset.sources.columns import UNLABELLED, choose_columns, choose_label_reader
from imageset.sources.files import read_file
from imageset.sources.layouts.split_names import SPLIT_BY_FOLDER, guess_split_from_path
from imageset.utils.text import format_count
from imageset.utils.timestamps import parse_time
from imageset.utils.url_credentials import MASK, mask_url

TABLE_EXTENSIONS = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")
_ROWS_AT_ONCE = 64


def is_table(spec: str) -> bool:
    """Return whether a source is a table, perhaps with its columns after a question mark."""
    path = Path(spec.partition("?")[0]).expanduser()
    return path.name.lower().endswith(TABLE_EXTENSIONS) and path.is_file()


def open_table(spec: str, *, require_classes: bool = True) -> TableSource:
    """Open "table.csv" or "table.csv?label=breed&..." as a source."""
    text, _, query = spec.partition("?")
    path = Path(text).expanduser()
    return TableSource([path], label=text, name=slugify(path.stem), query=query, require_classes=require_classes)


class TableSource:
    """Tables with the same columns whose rows are images: paths below the table's folder, or the bytes themselves.

    Args:
        files: one table or several. If there is no column of splits, the split is taken from the name of the file
            (train-00000-of-00002.parquet).
        label: name of the source in messages.
        name: slug that becomes the dataset's name.
        query: roles of columns, as in a URL's query.
        require_classes: raise UserError if nothing can be learned from the source.
        read_image: reads an image by the path in the table; None: reads a file below the table's folder.
    """

    kind = "table"
    warnings: Sequence[str] = ()

    def __init__(
        self,
        files: Sequence[Path],
        *,
        label: str,
        name: str,
        query: str = "",
        require_classes: bool = True,
        read_image: Callable[[str], bytes] | None = None,
    ) -> None:
        self.label, self.name = label, name
        self._files, self._read_image = list(files), read_image
        self.passed_over: Counter[str] = Counter()
        schema = _read_common_schema(self._files)
        roles = dict(parse_qsl(query, keep_blank_values=True))
        self._columns = choose_columns(label, schema.names, roles)
        try:
            self._labels, self.problem = (
                choose_label_reader(label, schema, self._columns, roles, self._collect_distinct),
                None,
            )
        except UserError as error:
            if require_classes:
                raise
            self._labels, self.problem = UNLABELLED, str(error)
        self.multi_label = self._labels.multi_label
        labels: Counter[str | None] = Counter()
        self.splits: Counter[str] = Counter()
        roles_read = (
            ("split",) if self._labels.columns else ("path", "split")
        )  # with no column at all there are no rows
        for file, batch in self._iter_batches(*roles_read, labels=True):
            labels.update(map(self._labels.read, batch))
            self.splits.update(
                split for split in (self._find_split(row, file) for row in batch) if split is not None
            )
        self._num = labels.total()
        self._num_kinds = len(labels.keys() - {None})
        self.classes = count_labels(labels.elements(), self.multi_label)
        self.problem = self.problem or self._find_problem()
        if require_classes and self.problem:
            raise UserError(self.problem)

    def __iter__(self) -> Iterator[SourceImage]:
        numbers: Counter[Path] = Counter()  # of rows, in each file
        for file, batch in self._iter_batches("path", "split", "group", "time", labels=True):
            for row in batch:
                uri, read = self._build_reader(row, numbers[file], file)
                value = row.get(self._columns["group"] or "")
                group = None if value is None else str(value)
                time = parse_time(row.get(self._columns["time"] or ""))
                yield SourceImage(uri, self._labels.read(row), group, self._find_split(row, file), read, time)
                numbers[file] += 1

    def __len__(self) -> int:
        return self._num

    def describe(self) -> str:
        """Return one line that describes the source as it was understood."""
        columns = ", ".join(f"{role}: {column}" for role, column in self._columns.items() if column)
        note = f"columns {columns}" + (f"; {self._labels.note}" if self._labels.note else "")
        return describe_source(self, self.label, note)

    def _iter_batches(self, *roles: str, labels: bool) -> Iterator[tuple[Path, list[dict[str, Any]]]]:
        """Yield a file and some of its rows, with the columns of these roles and, if `labels`, of the labels."""
        names = [self._columns[role] for role in roles] + list(self._labels.columns if labels else ())
        for file in self._files:
            for batch in _iter_table_batches(file, list(dict.fromkeys(name for name in names if name))):
                yield file, batch.to_pylist()

    def _collect_distinct(self, column: str) -> set[Any]:
        values: set[Any] = set()
        for file in self._files:
            for batch in _iter_table_batches(file, [column]):
                values.update(batch.column(0).unique().to_pylist())
        return values

    def _find_split(self, row: Mapping[str, Any], file: Path) -> str | None:
        column = self._columns["split"]
        if column is None:
            is_shard = len(self._files) > 1 or "-of-" in file.stem
            return (
                guess_split_from_path(file.name) or guess_split_from_path(file.parent.name) if is_shard else None
            )
        return SPLIT_BY_FOLDER.get(str(row[column] or "").lower())

    def _build_reader(self, row: Mapping[str, Any], number: int, file: Path) -> tuple[str, Callable[[], bytes]]:
        value = row[self._columns["path"] or ""]
        row_name = f"{number:08d}" if len(self._files) == 1 else f"{file.stem}/{number:08d}"
        if isinstance(value, dict):  # Hugging Face: {"bytes", "path"}
            data, name = value.get("bytes"), value.get("path")
            if data is not None:
                return f"{row_name}/{name or 'picture'}", partial(bytes, data)
            value = name
        if isinstance(value, bytes):
            return f"{row_name}/picture", partial(bytes, value)
        if not value:
            return f"{row_name}/picture", _raise_no_file
        return _display_path(str(value)), partial(
            self._read_image or partial(_read_below_folder, file.parent), str(value)
        )

    def _find_problem(self) -> str | None:
        if not self._num:
            return f"{self.label}: holds no rows"
        if self._num_kinds < 2:
            column = ", ".join(self._labels.columns)
            labels = f"{format_count(len(self.classes), 'class', 'classes')} in the column '{column}'"
            if self.multi_label:
                labels = f"all pictures have the same labels ({', '.join(self.classes) or 'none'})"
            return f"{self.label}: {labels}; at least two are needed to learn a difference"
        return None


def _read_below_folder(folder: Path, name: str) -> bytes:
    """Read a file below the table's own folder.

    Raises:
        Rejected: the path is a URL, is outside the folder, or does not exist.
    """
    if "://" in name:
        raise Rejected("unreadable", "a URL: only files below the table's folder are read")
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise Rejected("unreadable", "is outside the table's folder")
    try:
        return read_file(path)
    except (FileNotFoundError, IsADirectoryError):
        raise Rejected("unreadable", "no such file") from None


def _display_path(name: str) -> str:
    """Return a row's path; a URL, which is rejected later, without its credentials."""
    try:
        return mask_url(name)
    except UserError:
        return MASK


def _raise_no_file() -> bytes:
    raise Rejected("unreadable", "the row names no file")


def _read_common_schema(files: Sequence[Path]) -> pa.Schema:
    schema = _read_schema(files[0])
    for file in files[1:]:
        file_schema = _read_schema(file)
        if file_schema.names != schema.names:
            raise UserError(
                f"{file}: has the columns {', '.join(file_schema.names)}, but {files[0].name} has "
                f"{', '.join(schema.names)}; give tables of one kind"
            )
    return schema


def _read_schema(path: Path) -> pa.Schema:
    if path.suffix.lower() == ".parquet":
        try:
            return pq.read_schema(path)
        except (OSError, pa.ArrowException) as error:
            raise UserError(f"{path}: not readable as Parquet: {error}") from None
    return _read_text_table(path).schema


def _iter_table_batches(path: Path, columns: list[str]) -> Iterator[pa.RecordBatch]:
    try:
        if path.suffix.lower() == ".parquet":
            yield from pq.ParquetFile(path).iter_batches(_ROWS_AT_ONCE, columns=columns)
        else:
            yield from _read_text_table(path).select(columns).to_batches(_ROWS_AT_ONCE)
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{path}: damaged: {error}") from None


def _read_text_table(path: Path) -> pa.Table:
    """Read CSV, TSV or JSON lines; cells of CSV and TSV stay text, so that class 007 stays 007."""
    try:
        if path.suffix.lower() in (".jsonl", ".ndjson"):
            return pa.json.read_json(path)
        parse = pa.csv.ParseOptions(delimiter="\t" if path.suffix.lower() == ".tsv" else ",")
        header = pa.csv.open_csv(path, parse_options=parse).schema.names
        convert = pa.csv.ConvertOptions(
            column_types={name: pa.string() for name in header},
            strings_can_be_null=True,  # an empty cell is null, "" in quotes is an empty text
            null_values=[""],
            quoted_strings_can_be_null=False,
        )
        return pa.csv.read_csv(path, parse_options=parse, convert_options=convert)
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{path}: not readable as a table: {' '.join(str(error).split())}") from None
