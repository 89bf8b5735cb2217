"""Text tables as programs write them: CSV, TSV and JSON lines in several encodings and with several delimiters.

The encoding and the delimiter are detected from the first kilobytes. Rows that do not fit the header are only
looked at if pyarrow cannot read the table.
"""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.json

from imageset.exceptions import UserError
from imageset.sources.tables.json_rows import read_json_rows
from imageset.utils.text import format_count

HEAD_BYTES = 1 << 16
NUM_LINES_COMPARED = 50
_MAX_BLOCK_BYTES = 2**30
DELIMITER_NAMES = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "'|'"}
JSON_EXTENSIONS = (".jsonl", ".ndjson")
_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_ENCODING_NAMES = {"utf-16": "UTF-16", "utf-16-le": "UTF-16", "utf-16-be": "UTF-16", "utf-32": "UTF-32"}
_SEPARATOR_LINE = re.compile(r"^\"?sep=(.)\"?[ ;,\t]*\r?\n", re.I)  # Excel's own first line


@dataclass(frozen=True, slots=True)
class TextTable:
    """The content of a text table.

    Attributes:
        table: the rows; cells of CSV and TSV are text.
        notes: properties of the file that are not those of its kind, one clause each.
        num_empty: number of wholly empty rows, which are left out of `table`.
    """

    table: pa.Table
    notes: tuple[str, ...]
    num_empty: int


@dataclass(frozen=True, slots=True)
class _Format:
    encoding: str
    delimiter: str
    num_skipped: int  # lines above the header


def read_text_table(path: Path) -> TextTable:
    """Read CSV, TSV or JSON lines; cells of CSV and TSV stay text, so that class 007 stays 007.

    Raises:
        UserError: the file cannot be read as a table.
    """
    try:
        if path.suffix.lower() in JSON_EXTENSIONS:
            return _read_json_lines(path)
        return _read_delimited(path)
    except UnicodeDecodeError:
        raise UserError(f"{path}: its characters are neither UTF-8 nor Windows-1252; save it as UTF-8") from None
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{path}: not readable as a table: {' '.join(str(error).split())}") from None


def _read_json_lines(path: Path) -> TextTable:
    encoding = _detect_encoding(_read_head(path))
    notes = _describe_encoding(encoding)
    try:
        if encoding == "utf-8":
            return TextTable(pa.json.read_json(path), notes, 0)
        return TextTable(pa.json.read_json(io.BytesIO(path.read_bytes().decode(encoding).encode())), notes, 0)
    except pa.ArrowException:
        rows = read_json_rows(path.read_bytes().decode(encoding))
        if rows is None:
            raise
        return TextTable(rows.table, (*notes, *rows.notes), 0)


def _read_delimited(path: Path) -> TextTable:
    head = _read_head(path)
    format = _detect_format(head, _detect_encoding(head), path.suffix.lower())
    notes: tuple[str, ...] = ()
    try:
        try:
            table = _parse(path, format)
        except pa.ArrowException as error:
            if "UTF8" not in str(error) or format.encoding != "utf-8":
                raise
            format = _Format("cp1252", format.delimiter, format.num_skipped)  # a byte behind the head
            table = _parse(path, format)
    except pa.ArrowException as error:
        if "columns, got" not in str(error):
            raise
        table, note = _parse_ragged(path, format)
        notes = (note,)
    usual = "\t" if path.suffix.lower() == ".tsv" else ","
    if format.delimiter != usual:
        notes = (f"separated by {DELIMITER_NAMES.get(format.delimiter, repr(format.delimiter))}", *notes)
    table = _clean_names(table)
    is_empty = _find_empty_rows(table)
    num_empty = 0
    if is_empty is not None:
        num_empty = pc.sum(is_empty).as_py() or 0  # type: ignore[attr-defined]
        table = table.filter(pc.invert(is_empty))  # type: ignore[attr-defined]
    return TextTable(table, _describe_encoding(format.encoding) + notes, num_empty)


def _parse(source: Path | io.BytesIO, format: _Format) -> pa.Table:
    encoding = "utf-8" if format.encoding == "utf-8-sig" else format.encoding  # pyarrow skips the mark itself
    read = pa.csv.ReadOptions(encoding=encoding, skip_rows=format.num_skipped)
    parse = pa.csv.ParseOptions(delimiter=format.delimiter, newlines_in_values=True)
    try:
        header = pa.csv.open_csv(source, read_options=read, parse_options=parse).schema.names
    except pa.ArrowException as error:
        if "straddl" not in str(error):
            raise
        read.block_size = 1 + min(_MAX_BLOCK_BYTES, _measure(source))  # a row is longer than a block
        header = pa.csv.open_csv(source, read_options=read, parse_options=parse).schema.names
    if isinstance(source, io.BytesIO):
        source.seek(0)
    convert = pa.csv.ConvertOptions(
        column_types={name: pa.string() for name in header},
        strings_can_be_null=True,  # an empty cell is null, "" in quotes is an empty text
        null_values=[""],
        quoted_strings_can_be_null=False,
    )
    try:
        return pa.csv.read_csv(source, read_options=read, parse_options=parse, convert_options=convert)
    except pa.ArrowException as error:
        if "straddl" not in str(error):
            raise
    read.block_size = 1 + min(_MAX_BLOCK_BYTES, _measure(source))
    return pa.csv.read_csv(source, read_options=read, parse_options=parse, convert_options=convert)


def _measure(source: Path | io.BytesIO) -> int:
    """Return the length in bytes, from the beginning, to which a file in memory is set back."""
    if isinstance(source, io.BytesIO):
        source.seek(0)
        return source.getbuffer().nbytes
    return source.stat().st_size


# ---- encoding and delimiter ------------------------------------------------------------------------------------


def _read_head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(HEAD_BYTES)


def _detect_encoding(head: bytes) -> str:
    """Return the codec of a text by its first bytes: by its byte order mark, its zeros, or as valid UTF-8."""
    for mark, encoding in _BYTE_ORDER_MARKS:
        if head.startswith(mark):
            return encoding
    for encoding, high_bytes in (("utf-16-le", head[1:64:2]), ("utf-16-be", head[:64:2])):
        if high_bytes.count(0) > len(high_bytes) / 2:
            return encoding
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return "cp1252"
    return "utf-8"


def _describe_encoding(encoding: str) -> tuple[str, ...]:
    if encoding == "cp1252":
        return ("read as Windows-1252 since it is not UTF-8",)
    return (f"in {_ENCODING_NAMES[encoding]}",) if encoding in _ENCODING_NAMES else ()


def _detect_format(head: bytes, encoding: str, suffix: str) -> _Format:
    text = codecs.getincrementaldecoder(encoding)(errors="replace").decode(head)
    usual = "\t" if suffix == ".tsv" else ","
    if match := _SEPARATOR_LINE.match(text):
        return _Format(encoding, match[1], 1)
    candidates = [usual, *(delimiter for delimiter in DELIMITER_NAMES if delimiter != usual)]
    return _Format(encoding, max(candidates, key=lambda delimiter: _rate_delimiter(text, delimiter)), 0)


def _rate_delimiter(text: str, delimiter: str) -> float:
    """Return how many of the first rows have as many cells as the header; 0 if the header is one cell."""
    rows = [row for _, row in zip(range(NUM_LINES_COMPARED), _iter_cells(text, delimiter), strict=False) if row]
    if not rows or len(rows[0]) < 2:
        return 0
    if len(rows) == 1:
        return 1
    return sum(len(_strip_end(row)) <= len(rows[0]) and len(row) >= len(rows[0]) for row in rows[1:]) / len(rows)


def _iter_cells(text: str, delimiter: str) -> Iterator[list[str]]:
    try:
        yield from csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    except csv.Error:  # a cell that is far too long
        return


def _strip_end(row: list[str]) -> list[str]:
    """Return a row without the empty cells at its end."""
    end = len(row)
    while end and not row[end - 1].strip():
        end -= 1
    return row[:end]


# ---- rows and headers ------------------------------------------------------------------------------------------


def _parse_ragged(path: Path, format: _Format) -> tuple[pa.Table, str]:
    """Parse a table in which some rows have another number of cells than the header.

    Returns:
        (the table, a clause about these rows).

    Raises:
        UserError: a row has more cells than the header, and they are not empty.
    """
    text = path.read_bytes().decode(format.encoding)
    records = _split_records(text, format.num_skipped)
    num_columns = len(next(_iter_cells(records[0][1], format.delimiter)))
    num_longer = num_shorter = 0
    lines = []
    for number, record in records:
        cells = next(_iter_cells(record, format.delimiter), [])
        if record and len(cells) < num_columns and cells:
            num_shorter += 1
            record += format.delimiter * (num_columns - len(cells))
        elif len(cells) > num_columns:
            if len(_strip_end(cells)) > num_columns:
                raise UserError(
                    f"{path}: line {number} has {len(cells)} cells and the header {num_columns}: "
                    f"{_shorten(record)}; put a cell that holds '{format.delimiter}' in quotes"
                )
            num_longer += 1
            while len(cells) > num_columns:  # the surplus cells are empty or blank
                record, cells = record[: record.rindex(format.delimiter)], cells[:-1]
        lines.append(record)
    content = io.BytesIO("\n".join(lines).encode())
    causes = [(num_longer, "with empty cells at the end"), (num_shorter, "filled up with empty cells")]
    note = " and ".join(f"{format_count(num, 'row')} {cause}" for num, cause in causes if num)
    return _parse(content, _Format("utf-8", format.delimiter, 0)), note


def _split_records(text: str, num_skipped: int) -> list[tuple[int, str]]:
    """Return (number of its first line, text) of each record; a cell in quotes may hold line breaks."""
    records: list[tuple[int, str]] = []
    pending, start = "", 0
    for number, line in enumerate(text.removeprefix("\ufeff").replace("\r\n", "\n").split("\n"), start=1):
        if number <= num_skipped:
            continue
        start = start if pending else number
        pending = f"{pending}\n{line}" if pending else line
        if pending.count('"') % 2 == 0:
            records.append((start, pending))
            pending = ""
    return [*records, (start, pending)] if pending else records


def _clean_names(table: pa.Table) -> pa.Table:
    """Remove blanks around the names of columns, and columns that have neither a name nor a value."""
    names = [name.strip() for name in table.column_names]
    kept = [
        number for number, name in enumerate(names) if name or table.column(number).null_count < table.num_rows
    ]
    return table.rename_columns(names).select(kept or list(range(len(names))))


def _find_empty_rows(table: pa.Table) -> pa.ChunkedArray | None:
    """Return which rows hold nothing but blanks, or None if none does; an unnamed column, an index, is ignored."""
    is_empty = None
    for number, name in enumerate(table.column_names):
        if name == "" and table.num_columns > 1:
            continue
        column = table.column(number)
        blank = pc.fill_null(pc.equal(pc.utf8_trim_whitespace(column), ""), True)  # type: ignore[attr-defined]
        is_empty = blank if is_empty is None else pc.and_(is_empty, blank)  # type: ignore[attr-defined]
        if not pc.any(is_empty).as_py():  # type: ignore[attr-defined]
            return None
    return is_empty


def _shorten(text: str, length: int = 60) -> str:
    line = " ".join(text.split())
    return line if len(line) <= length else line[: length - 3] + "..."
