"""Label tables: labels that people gave to images, by image_id (SHA-256 of the bytes) or by path.

Such a table extends and corrects a dataset and is no source of its own. It has a column `image_id` with 64
hexadecimal digits and a column of labels: a table that `convoy predict --review` or the stage `evaluate` wrote, or
one of a person. An empty label means that the image is still to be labelled; in a multi-label dataset a cell that
holds only the separator, "|", means none of the labels.

Columns that are read where they are there: `annotator` (or `labeled_by`), `labeled_at`, the path and the `uri` of
the image; its split, group and time, for new images; the prediction that the person saw (`guess`, `probability`,
`model`). Roles of columns are given as for a table that is a source (imageset.sources.table).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import parse_qsl, unquote

import pyarrow as pa
import pyarrow.parquet as pq

from imageset.exceptions import UserError
from imageset.labels import LABEL_SEPARATOR, parse_labels
from imageset.rejections import Rejected
from imageset.sources.annotations.reader import is_document_name, read_annotations
from imageset.sources.columns import (
    LabelReader,
    choose_columns,
    choose_label_reader,
    fold_column,
)
from imageset.sources.table import TABLE_EXTENSIONS
from imageset.sources.tables.cell_types import check_cell_type, holds_images, list_distinct
from imageset.sources.tables.image_paths import ImageFolder, ImagePaths, LocalFolder
from imageset.sources.tables.splits import choose_split_column, parse_split
from imageset.sources.tables.text_format import read_text_table
from imageset.utils.text import unescape_cell
from imageset.utils.timestamps import parse_time

ID_COLUMN = "image_id"
ANNOTATOR_COLUMNS = ("annotator", "labeled_by", "labelled_by", "annotated_by")
LABELED_AT_COLUMNS = ("labeled_at", "labelled_at", "annotated_at")
PREDICTION_COLUMNS = frozenset({"model_name", "model_version", "status", "top_k"})
_IMAGE_ID = re.compile(r"[0-9a-fA-F]{64}")
_PART_OF_ID = re.compile(
    r"(?=.*[a-fA-F])(?=.*\d)[0-9a-fA-F]{7,64}"
)  # the numbers of other programs' pictures are none


@dataclass(frozen=True, slots=True)
class LabelRow:
    """One row of a label table, or one annotation of another tool's file.

    Attributes:
        name: the image, in messages.
        labels: its label or labels; None if it is still to be labelled.
        image_id: SHA-256 of its bytes, or None.
        read: returns its bytes, or raises Rejected if there is no such file; None if the row names no file.
        uri: what it is called in the dataset if it is new.
        annotator: the person who gave the label, or None.
        labeled_at: when, or None.
        is_statement: whether a person gave the label even if it is the one that the dataset has already. A whole
            table with a few corrected cells states nothing about its other rows.
        group: for a new image, as in SourceImage; so are split and time.
        split: see above.
        time: see above.
        guess: the label of the prediction that the person saw, or None.
        probability: of the guess, or None.
        model: that predicted, or None.
    """

    name: str
    labels: tuple[str, ...] | None
    image_id: str | None = None
    read: Callable[[], bytes] | None = None
    uri: str = ""
    annotator: str | None = None
    labeled_at: datetime | None = None
    is_statement: bool = False
    group: str | None = None
    split: str | None = None
    time: datetime | None = None
    guess: str | None = None
    probability: float | None = None
    model: str | None = None


Annotation = tuple[str | None, str | None, Iterable[str], str | None, datetime | None]


def iter_annotation_rows(annotations: Iterable[Annotation], folder: Path) -> Iterator[LabelRow]:
    """Yield the rows of annotations that were read from the file of another tool.

    Args:
        annotations: for each one (path of the image or None, image_id or None, labels, annotator or None, time or
            None). Without labels, annotator and time the image is still to be labelled.
        folder: the folder that the paths are relative to.
    """
    paths = ImagePaths(LocalFolder(folder))
    for path, image_id, labels, annotator, time in annotations:
        given = tuple(labels)
        yield LabelRow(
            name=str(path or image_id),
            labels=given if given or annotator or time else None,
            image_id=image_id.lower() if image_id else None,
            read=partial(_read_found, paths, path) if path else None,
            uri=path or "",
            annotator=annotator,
            labeled_at=parse_time(time),
            is_statement=True,
        )


def open_local_label_table(spec: str) -> LabelSource | None:
    """Open a local table, or the export of a labelling tool, if it is a label table.

    The roles of the columns of a table may follow a question mark.

    Raises:
        UserError: the table is damaged, holds predictions, or its columns cannot be used.
    """
    if spec.startswith("file://"):
        url_path, mark, query = spec.removeprefix("file://").removeprefix("localhost").partition("?")
        spec = unquote(url_path) + mark + query
    text, _, query = spec.partition("?")
    path = Path(text).expanduser()
    if is_document_name(path.name) and path.is_file():
        return LabelDocument.open(path, text, query)
    if not path.name.lower().endswith(TABLE_EXTENSIONS) or not path.is_file():
        return None
    return LabelTable.open(path, text, query)


class LabelSource(Protocol):
    """The interface of labels that people gave to images: a label table, or the export of a labelling tool.

    Attributes:
        label: the source in messages.
    """

    label: str

    def iter_rows(self, multi_label: bool) -> Iterator[LabelRow]:
        """Yield the rows; `multi_label`: whether the images of the dataset may have several labels."""
        ...


class LabelDocument:
    """A labelling tool's export in which each image has its image_id.

    Args:
        label: the document in messages.
        rows: its rows.
    """

    def __init__(self, label: str, rows: Sequence[LabelRow]) -> None:
        self.label, self._rows = label, rows

    @classmethod
    def open(cls, path: Path, label: str, query: str = "") -> LabelDocument | None:
        """Open the document at `path` if it names an image by its image_id.

        Args:
            path: the document.
            label: the document in messages.
            query: root= and label=, as of other documents of annotations.

        Raises:
            UserError: the document is of no known format or damaged, or has no such options.
        """
        options = dict(parse_qsl(query, keep_blank_values=True))
        if unknown := sorted(options.keys() - {"root", "label"}):
            raise UserError(f"{label}: ?{unknown[0]}= is no option of an export with image_ids; leave it out")
        root = path.parent / Path(options.get("root", "")).expanduser()
        rows = list(iter_annotation_rows(read_annotations(path, options.get("label")), root))
        return cls(label, rows) if any(row.image_id for row in rows) else None

    def iter_rows(self, multi_label: bool) -> Iterator[LabelRow]:
        """Yield the rows; what several labels of an image mean does not depend on `multi_label`."""
        yield from self._rows


class LabelTable:
    """A label table.

    Args:
        label: the table in messages.
        table: its rows.
        roles: roles of columns, as in a URL's query.
        folder: the folder that its paths are relative to.
        keep: kept as long as the table, such as a temporary folder.
    """

    def __init__(
        self, label: str, table: pa.Table, roles: Mapping[str, str], folder: ImageFolder, keep: object = None
    ) -> None:
        self.label, self._table, self._roles, self._keep = label, table, roles, keep
        self._columns = choose_columns(label, table.column_names, roles, requires_path=False)
        ending = roles.get("ending", "").strip().lstrip(".")
        self._paths = ImagePaths(folder, f".{ending}" if ending else "", is_root_given=bool(roles.get("root")))
        if self._columns["split"]:
            check_cell_type(label, "split", self._columns["split"], table.schema)
        split = choose_split_column(label, self._columns["split"], "split" in roles, self._collect_splits())
        if split.problem:
            raise UserError(split.problem)
        self._columns["split"] = split.column

    @classmethod
    def open(
        cls, path: Path, label: str, query: str, folder: ImageFolder | None = None, keep: object = None
    ) -> LabelTable | None:
        """Open the table at `path` if it is a label table.

        Args:
            path: the table.
            label: the table in messages.
            query: roles of columns.
            folder: the folder that its paths are relative to; None: its own, or the one of `?root=`.
            keep: kept as long as the table.
        """
        table = _read_id_table(path)
        if table is None:
            return None
        if set(table.column_names) >= PREDICTION_COLUMNS:
            raise UserError(
                f"{label}: holds predictions of a model, not labels of people; `convoy predict SOURCE --review N` "
                "writes a table to fill in"
            )
        roles = dict(parse_qsl(query, keep_blank_values=True))
        root = path.parent / Path(roles.get("root", "")).expanduser()
        if folder is None and not root.is_dir():
            raise UserError(f"{label}: ?root={roles['root']}: no such folder in {path.parent}")
        return cls(label, table, roles, folder or LocalFolder(root), keep)

    def iter_rows(self, multi_label: bool) -> Iterator[LabelRow]:
        """Yield the rows.

        Args:
            multi_label: whether the images of the dataset may have several labels.

        Raises:
            UserError: no column looks like labels, or an image_id is not one.
        """
        reader = self._choose_label_reader(multi_label)
        names = {fold_column(name): name for name in reversed(self._table.column_names)}
        annotator = next((names[name] for name in ANNOTATOR_COLUMNS if name in names), None)
        labeled_at = next((names[name] for name in LABELED_AT_COLUMNS if name in names), None)
        for number, row in enumerate(self._iter_dicts(), start=1):
            path, uri = (_read_text(row, column) for column in (self._columns["path"], names.get("uri")))
            image_id = _read_text(row, names[ID_COLUMN])
            name = f"row {number} ({path or uri or (image_id or 'without a name')[:14]})"
            if image_id and not _IMAGE_ID.fullmatch(image_id):
                raise UserError(
                    f"{self.label}: {name}: the image_id {image_id!r} is not the SHA-256 of a picture, 64 "
                    "hexadecimal digits; copy it whole from the table that the picture comes from"
                )
            given = _read_text(row, annotator)
            yield LabelRow(
                name=name,
                labels=_read_labels(reader, row),
                image_id=image_id.lower() if image_id else None,
                read=partial(_read_found, self._paths, path) if path else None,
                uri=uri or path or "",
                annotator=given,
                labeled_at=parse_time(row.get(labeled_at or "")),
                is_statement=given is not None or "guess" in names,
                group=_read_text(row, self._columns["group"]),
                split=parse_split(row.get(self._columns["split"] or "")),
                time=parse_time(row.get(self._columns["time"] or "")),
                guess=_read_text(row, names.get("guess")),
                probability=_read_number(row, names.get("probability")) if "guess" in names else None,
                model=_read_text(row, names.get("model")),
            )

    def _choose_label_reader(self, multi_label: bool) -> LabelReader:
        """Return the way to read labels: a cell of a multi-label dataset holds several between "|"."""
        roles = dict(self._roles)
        if "separator" not in roles and "labels" not in roles:
            roles["separator"] = LABEL_SEPARATOR if multi_label else ""
        if self._columns["label"] is None and "labels" not in roles:
            raise UserError(
                f"{self.label}: no column looks like the label (columns: {', '.join(self._table.column_names)}); "
                f"name the column with {self.label}?label=COLUMN"
            )
        return choose_label_reader(
            *(self.label, self._table.schema, self._columns, roles, self._collect_distinct, self._collect_rows),
            lambda columns: self._table.select(columns).to_batches(),
        )

    def _collect_distinct(self, column: str) -> set[Any]:
        cells = self._table[column]
        is_list = pa.types.is_list(cells.type) or pa.types.is_large_list(cells.type)
        values = cells.combine_chunks().flatten() if is_list else cells
        return set(list_distinct(values))

    def _collect_rows(self, columns: tuple[str, ...]) -> set[tuple[Any, ...]]:
        return set(zip(*(self._table[column].to_pylist() for column in columns), strict=True))

    def _collect_splits(self) -> set[Any]:
        column = self._columns["split"]
        return self._collect_distinct(column) if column else set()

    def _iter_dicts(self) -> Iterator[dict[str, Any]]:
        for batch in self._table.to_batches():
            yield from batch.to_pylist()


def _read_id_table(path: Path) -> pa.Table | None:
    """Read a table, without columns of whole images, if its column image_id holds hashes, or parts of them."""
    if path.suffix.lower() != ".parquet":
        table = read_text_table(path).table
    else:
        try:
            schema = pq.read_schema(path)
            if ID_COLUMN not in map(fold_column, schema.names):
                return None
            names = [field.name for field in schema if not holds_images(field.type)]
            table = pq.read_table(path, columns=names)
        except (OSError, pa.ArrowException) as error:
            raise UserError(f"{path}: not readable as Parquet: {error}") from None
    column = next((name for name in table.column_names if fold_column(name) == ID_COLUMN), None)
    if column is None or not any(_PART_OF_ID.fullmatch(str(value).strip()) for value in table[column].to_pylist()):
        return None
    return table


def _read_labels(reader: LabelReader, row: Mapping[str, Any]) -> tuple[str, ...] | None:
    """Return the labels of a row; None if its cells are empty."""
    if all(value is None or not str(value).strip() for value in (row[column] for column in reader.columns)):
        return None
    label = reader.read(row)
    if label is None:
        return None
    return tuple(parse_labels(label)) if reader.multi_label else (label,)


def _read_text(row: Mapping[str, Any], column: str | None) -> str | None:
    """Return the text of a cell; None if it is empty, or there is no such column."""
    value = row.get(column or "")
    text = "" if value is None or value != value else unescape_cell(str(value).strip())  # NaN: no value
    return text or None


def _read_number(row: Mapping[str, Any], column: str | None) -> float | None:
    try:
        return float(_read_text(row, column) or "")
    except ValueError:
        return None


def _read_found(paths: ImagePaths, path: str) -> bytes:
    """Read an image; the folder is searched only for images that the dataset does not know."""
    found = paths.find(path)
    if found is None:
        raise Rejected("unreadable", paths.explain(path))
    return paths.read(found.name)
