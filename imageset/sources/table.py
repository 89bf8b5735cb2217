"""Tables as a source: CSV, TSV, JSON lines or Parquet, Hugging Face's image Parquet included.

The columns are guessed by their names and can be given: `table.csv?path=file&label=breed&split=fold&group=dog`,
and `?label=tags&separator=;` or `?labels=cat,dog,cow` for multi-label images (imageset.sources.columns). An empty
name, as in `?split=`, means that there is no such column.

Only files below the table's own folder are read: no parent folder, no other path, and no URL, since the author of
the table could then choose what this machine requests. `?root=FOLDER`, relative to the table's folder, names
another folder, and `?ending=.png` an ending that the paths lack. Paths of other systems and machines are repaired
if exactly one file below the folder fits (imageset.sources.tables.image_paths). The same holds for a table behind
a URL: its images are below it (imageset.sources.remote.source).
"""

from __future__ import annotations

import os
import posixpath
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qsl

import pyarrow as pa
import pyarrow.parquet as pq

from imageset.exceptions import UserError
from imageset.labels import count_labels
from imageset.rejections import Rejected
from imageset.sources.base import SourceImage, describe_source, slugify
from imageset.sources.columns import (
    UNLABELLED,
    choose_columns,
    choose_label_reader,
)
from imageset.sources.files import IMAGE_EXTENSIONS
from imageset.sources.layouts.split_names import guess_split_from_path
from imageset.sources.tables.cell_types import check_cell_type, holds_images, list_distinct
from imageset.sources.tables.image_paths import ImageFolder, ImagePaths, LocalFolder, PathSurvey
from imageset.sources.tables.splits import choose_split_column, parse_split
from imageset.sources.tables.text_format import TextTable, read_text_table
from imageset.utils.text import format_count
from imageset.utils.timestamps import parse_time
from imageset.utils.url_credentials import MASK, mask_url

TABLE_EXTENSIONS = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")
_ROWS_AT_ONCE, _IMAGE_ROWS_AT_ONCE = 4096, 64  # rows of Parquet may hold whole images


def is_table(spec: str) -> bool:
    """Return whether a source is a table, perhaps with its columns after a question mark."""
    return _split_off_columns(spec) is not None


def _split_off_columns(spec: str) -> tuple[str, str] | None:
    """Return (file, query) of a table; None if it is another source. A folder's name may hold a question mark."""
    ends = [position for position, character in enumerate(spec) if character == "?"]
    for end in [*ends, len(spec)]:
        path = Path(spec[:end]).expanduser()
        if path.name.lower().endswith(TABLE_EXTENSIONS) and path.is_file():
            return spec[:end], spec[end + 1 :]
    return None


def open_table(spec: str, *, require_classes: bool = True) -> TableSource:
    """Open "table.csv" or "table.csv?label=breed&..." as a source."""
    text, query = _split_off_columns(spec) or (spec, "")
    path = Path(text).expanduser()
    return TableSource([path], label=text, name=slugify(path.stem), query=query, require_classes=require_classes)


class _Folder(NamedTuple):
    """The images of a table, and what their uris begin with."""

    paths: ImagePaths
    inside: str


class TableSource:
    """Tables with the same columns whose rows are images: paths below the table's folder, or the bytes themselves.

    Args:
        files: one table or several. If there is no column of splits, the split is taken from the name of the file
            (train-00000-of-00002.parquet).
        label: name of the source in messages.
        name: slug that becomes the dataset's name.
        query: roles of columns, as in a URL's query.
        require_classes: raise UserError if nothing can be learned from the source.
        open_images: opens a folder of images by its path relative to `folders`, or to the folder that holds all
            tables; None: opens a folder of this machine.
        folders: the folder of the images of each table, relative to the source; None: the table's own.
        title: name of the source in its description; None: `label`.
        note: a clause about the tables for the description.
        num_images: number of images in the source, if those that no row names are to be counted.
        find_split: returns the split of an image by its uri, if no column and no name of a table gives one.
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
        open_images: Callable[[str], ImageFolder] | None = None,
        folders: Mapping[Path, str] | None = None,
        title: str | None = None,
        note: str = "",
        num_images: int | None = None,
        find_split: Callable[[str], str | None] | None = None,
    ) -> None:
        self.label, self.name, self._title, self._note = label, name, title or label, note
        self._files, self._find_image_split = list(files), find_split
        self._text_tables: dict[Path, TextTable] = {}  # while the source is opened
        self._parquet_metadata: dict[Path, pq.FileMetaData] = {}
        self.passed_over: Counter[str] = Counter()
        schema = self._read_common_schema()
        roles = dict(parse_qsl(query, keep_blank_values=True))
        self._columns = choose_columns(label, schema.names, roles)
        self._folders = self._open_folders(roles, open_images, folders)
        try:
            self._labels, self.problem = (
                choose_label_reader(
                    *(label, schema, self._columns, roles, self._collect_distinct, self._collect_distinct_rows),
                    self._iter_all_batches,
                ),
                None,
            )
        except UserError as error:
            if require_classes:
                raise
            self._labels, self.problem = UNLABELLED, str(error)
        self.multi_label = self._labels.multi_label
        if self._columns["split"]:
            check_cell_type(label, "split", self._columns["split"], schema)
        split = choose_split_column(
            label, self._columns["split"], "split" in roles, self._collect_distinct(self._columns["split"])
        )
        self._columns["split"], self._split_note = split.column, split.note
        self._count_rows()
        has_texts = _is_text(schema.field(self._columns["path"]).type)
        self._survey = PathSurvey(self._iter_paths) if has_texts else None
        if num_images is not None:
            self._count_unnamed(num_images)
        self.problem = self.problem or split.problem or self._find_problem()
        if require_classes and self.problem:
            raise UserError(self.problem)
        self._text_tables.clear()

    def _count_rows(self) -> None:
        """Count the labels and the splits."""
        labels: Counter[str | None] = Counter()
        self.splits: Counter[str] = Counter()
        roles_read = (
            ("split",) if self._labels.columns and not self._find_image_split else ("path", "split")
        )  # with no column at all there are no rows
        for file, batch in self._iter_batches(*roles_read, labels=True):
            labels.update(self._labels.read_batch(batch))
            self.splits.update(self._count_splits(batch, file))
        self._num, self._num_unlabelled = labels.total(), labels[None]
        self._num_kinds = len(labels.keys() - {None})
        self.classes = count_labels(labels.elements(), self.multi_label)

    def _count_splits(self, batch: pa.RecordBatch, file: Path) -> Counter[str]:
        """Count the splits of some rows; a column of splits has few values."""
        column = self._columns["split"]
        splits: Iterable[tuple[str | None, int]]
        if column is not None:
            values = Counter(batch.column(column).to_pylist())
            splits = ((parse_split(value, column), num) for value, num in values.items())
        elif self._find_image_split:
            splits = ((self._find_split(row, file), 1) for row in batch.to_pylist())
        else:
            splits = [(self._find_split({}, file), batch.num_rows)]
        counts: Counter[str] = Counter()
        for split, num in splits:
            if split is not None:
                counts[split] += num
        return counts

    def _count_unnamed(self, num_images: int) -> None:
        """Count the images of the source that no row names."""
        found = ((paths, paths.find(name)) for paths, name in self._iter_paths())
        named = {
            (id(paths), path.name)
            for paths, path in found
            if path and Path(path.name).suffix.lower() in IMAGE_EXTENSIONS
        }
        if num := max(0, num_images - len(named)):
            self.passed_over["pictures that no row names"] = num

    def __iter__(self) -> Iterator[SourceImage]:
        numbers: Counter[Path] = Counter()  # of rows, in each file
        for file, batch in self._iter_batches("path", "split", "group", "time", labels=True):
            first = numbers[file]
            numbers[file] += batch.num_rows
            labels = self._labels.read_batch(batch)
            rows = batch.select(self._list_columns("path", "split", "group", "time")).to_pylist()
            for number, (row, label) in enumerate(zip(rows, labels, strict=True), start=first):
                uri, read = self._build_reader(row, number, file)
                value = row.get(self._columns["group"] or "")
                group = None if value is None else str(value)
                time = parse_time(row.get(self._columns["time"] or ""))
                yield SourceImage(uri, label, group, self._find_split(row, file), read, time)

    def __len__(self) -> int:
        return self._num

    def describe(self) -> str:
        """Return one line that describes the source as it was understood."""
        columns = ", ".join(f"{role}: {column}" for role, column in self._columns.items() if column)
        notes = [self._note, *self._text_notes, f"columns {columns}", self._labels.note, self._split_note]
        if self._num_unlabelled and self._labels.columns:
            notes.append(
                f"{format_count(self._num_unlabelled, 'row has', 'rows have')} no label: the cell is empty"
            )
        notes.append(self._survey.describe() if self._survey else "")
        return describe_source(self, self._title, "; ".join(filter(None, notes)))

    def _list_columns(self, *roles: str) -> list[str]:
        """Return the columns of these roles, each once."""
        return list(dict.fromkeys(name for role in roles if (name := self._columns[role])))

    def _iter_batches(self, *roles: str, labels: bool) -> Iterator[tuple[Path, pa.RecordBatch]]:
        """Yield a file and some of its rows, with the columns of these roles and, if `labels`, of the labels."""
        names = [*self._list_columns(*roles), *(self._labels.columns if labels else ())]
        for file in self._files:
            for batch in self._iter_table_batches(file, list(dict.fromkeys(names))):
                yield file, batch

    def _iter_table_batches(self, path: Path, columns: list[str]) -> Iterator[pa.RecordBatch]:
        try:
            if _is_parquet(path):
                file = pq.ParquetFile(path, metadata=self._parquet_metadata.get(path))
                self._parquet_metadata[path] = file.metadata
                hold_images = any(holds_images(file.schema_arrow.field(name).type) for name in columns)
                num_rows = _IMAGE_ROWS_AT_ONCE if hold_images else _ROWS_AT_ONCE
                yield from file.iter_batches(num_rows, columns=columns)
            else:
                content = self._text_tables.get(path) or read_text_table(path)
                yield from content.table.select(columns).to_batches(_ROWS_AT_ONCE)
        except (OSError, pa.ArrowException) as error:
            raise UserError(f"{path}: damaged: {error}") from None

    def _iter_paths(self) -> Iterator[tuple[ImagePaths, str]]:
        column = self._columns["path"] or ""
        for file, batch in self._iter_batches("path", labels=False):
            paths = self._folders[file].paths
            yield from ((paths, path) for path in batch.column(column).to_pylist() if path)

    def _collect_distinct(self, column: str | None) -> set[Any]:
        """Return the distinct values of a column, those in lists one by one."""
        values: set[Any] = set()
        for file in self._files if column is not None else ():
            for batch in self._iter_table_batches(file, [column or ""]):
                cells = batch.column(0)
                is_list = pa.types.is_list(cells.type) or pa.types.is_large_list(cells.type)
                values.update(list_distinct(cells.flatten() if is_list else cells))
        return values

    def _iter_all_batches(self, columns: list[str]) -> Iterator[pa.RecordBatch]:
        for file in self._files:
            yield from self._iter_table_batches(file, columns)

    def _collect_distinct_rows(self, columns: tuple[str, ...]) -> set[tuple[Any, ...]]:
        rows: set[tuple[Any, ...]] = set()
        for file in self._files:
            for batch in self._iter_table_batches(file, list(columns)):
                rows.update(zip(*(column.to_pylist() for column in batch.columns), strict=True))
        return rows

    def _open_folders(
        self,
        roles: Mapping[str, str],
        open_images: Callable[[str], ImageFolder] | None,
        folders: Mapping[Path, str] | None,
    ) -> dict[Path, _Folder]:
        """Return the folder of the images of each table."""
        root, ending = roles.get("root", ""), roles.get("ending", "").strip()
        ending = f".{ending}" if ending and not ending.startswith(".") else ending
        places = self._locate_folders(root, is_local=open_images is None) if folders is None else folders
        if open_images is None:
            open_images = _open_local_folder
        opened = {
            place: ImagePaths(open_images(place), ending, is_root_given=bool(root))
            for place in dict.fromkeys(places.values())
        }
        top = "" if folders is not None else os.path.commonpath(opened) if len(opened) > 1 else None
        return {
            file: _Folder(opened[place], "" if top is None else posixpath.relpath(place or ".", top or "."))
            for file, place in places.items()
        }

    def _locate_folders(self, root: str, *, is_local: bool) -> dict[Path, str]:
        """Return the folder that the paths of each table are relative to, relative to all tables if not local."""
        parents = {file: file.parent for file in self._files}
        if not is_local:
            top = os.path.commonpath(parents.values())
            return {
                file: posixpath.normpath(posixpath.join(parent.relative_to(top).as_posix(), root.strip("/")))
                for file, parent in parents.items()
            }
        for parent in parents.values():
            if not (parent / Path(root).expanduser()).is_dir():
                raise UserError(
                    f"{self.label}: ?root={root}: no such folder in {parent}; root is a folder relative to the "
                    "table's own, or an absolute path"
                )
        return {file: os.path.abspath(parent / Path(root).expanduser()) for file, parent in parents.items()}

    def _read_common_schema(self) -> pa.Schema:
        """Read the schema of every table, and the content of text tables."""
        notes: dict[str, None] = {}
        schema: pa.Schema | None = None
        for file in self._files:
            if _is_parquet(file):
                file_schema = _read_parquet_schema(file)
            else:
                content = self._text_tables[file] = read_text_table(file)
                file_schema = content.table.schema
                notes |= dict.fromkeys(content.notes)
                if content.num_empty:
                    self.passed_over["empty rows"] += content.num_empty
            schema = schema or file_schema
            if file_schema.names != schema.names:
                raise UserError(
                    f"{file}: has the columns {', '.join(file_schema.names)}, but {self._files[0].name} has "
                    f"{', '.join(schema.names)}; give tables of one kind"
                )
        assert schema is not None
        self._text_notes = tuple(notes)
        return schema

    def _find_split(self, row: Mapping[str, Any], file: Path) -> str | None:
        column = self._columns["split"]
        if column is None and self._find_image_split:
            return self._find_image_split(self._build_reader(row, 0, file)[0])
        if column is None:
            is_shard = len(self._files) > 1 or "-of-" in file.stem
            return (
                guess_split_from_path(file.name) or guess_split_from_path(file.parent.name) if is_shard else None
            )
        return parse_split(row[column], column)

    def _build_reader(self, row: Mapping[str, Any], number: int, file: Path) -> tuple[str, Callable[[], bytes]]:
        value = row[self._columns["path"] or ""]
        row_name = f"{number:08d}" if len(self._files) == 1 else f"{file.stem}/{number:08d}"
        if isinstance(value, dict):  # Hugging Face: {"bytes", "path"}
            data, name = value.get("bytes"), value.get("path")
            if data is not None:
                return f"{row_name}/{name or 'picture'}", partial(_check_bytes, data)
            value = name
        if isinstance(value, bytes):
            return f"{row_name}/picture", partial(bytes, value)
        if not value or not str(value).strip():
            return f"{row_name}/picture", _raise_no_file
        paths, inside = self._folders[file]
        found = paths.find(str(value))
        if found is None:
            return _display_path(str(value)), partial(_raise_missing, paths, str(value))
        name = _display_path(found.name)
        return posixpath.normpath(posixpath.join(inside, name)) if inside and "://" not in name else name, partial(
            paths.read, found.name
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


def _display_path(name: str) -> str:
    """Return a row's path; a URL, which is rejected later, without its credentials."""
    try:
        return mask_url(name)
    except UserError:
        return MASK


def _check_bytes(data: Any) -> bytes:
    if not isinstance(data, bytes):
        raise Rejected("unreadable", "the row holds no bytes of a picture")
    return data


def _raise_no_file() -> bytes:
    raise Rejected("unreadable", "the row names no file")


def _raise_missing(paths: ImagePaths, name: str) -> bytes:
    raise Rejected("unreadable", paths.explain(name))


def _open_local_folder(place: str) -> ImageFolder:
    return LocalFolder(Path(place))


def _is_parquet(path: Path) -> bool:
    return path.suffix.lower() == ".parquet"


def _is_text(type: pa.DataType) -> bool:
    return pa.types.is_string(type) or pa.types.is_large_string(type)


def _read_parquet_schema(path: Path) -> pa.Schema:
    try:
        return pq.read_schema(path)
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{path}: not readable as Parquet: {error}") from None
