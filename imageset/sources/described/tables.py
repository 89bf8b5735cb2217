"""Tables beside pictures: the columns and the folder with which they describe them, or why they do not."""

from __future__ import annotations

import os
import posixpath
import re
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlencode

import pyarrow as pa
import pyarrow.parquet as pq

from imageset.exceptions import UserError
from imageset.sources.base import Source
from imageset.sources.columns import check_header, choose_columns, have_flags
from imageset.sources.described.contents import Contents, Description, format_spec, join_names, join_patterns
from imageset.sources.layouts.split_names import group_by_split
from imageset.sources.table import TABLE_EXTENSIONS, TableSource
from imageset.sources.tables.image_paths import (
    are_splits,
    choose_folder,
    guess_split_of_folder,
    guess_split_of_image,
)
from imageset.sources.tables.text_format import read_text_table
from imageset.utils.text import format_count

_MAX_TABLES = 50
_NUM_PATHS_COMPARED = 200
_SUBMISSION = re.compile(r"submission", re.IGNORECASE)  # of Kaggle: the form of an answer, not labels
_INDEX_COLUMNS = ("", "Unnamed: 0")


class _Table(NamedTuple):
    """A table whose rows name pictures of the source.

    Attributes:
        name: its path relative to the source.
        folder: the folder that its paths are relative to.
        roles: the columns that are not guessed by their names, by role.
        columns: all columns.
        found: the pictures that it names, relative to the source.
    """

    name: str
    folder: str
    roles: Mapping[str, str]
    columns: tuple[str, ...]
    found: frozenset[str]


def find_tables(contents: Contents, problems: list[str]) -> list[Description]:
    """Return the tables that describe the pictures; those that differ by their split are one.

    Args:
        contents: the files of the source.
        problems: collects why the others are not used.
    """
    names = [name for name in contents.documents if name.lower().endswith(TABLE_EXTENSIONS)]
    tables: dict[str, _Table] = {}
    unused: list[str] = []
    for name in sorted(names, key=lambda name: (name.count("/"), name))[:_MAX_TABLES]:
        try:
            tables[name] = _inspect_table(contents, name)
        except UserError as error:
            unused.append(str(error))
    problems += unused
    groups = [[tables[name] for name in group] for group in group_by_split(sorted(tables))]
    by_columns = [
        [table for table in group if table.columns == columns]
        for group in groups
        for columns in dict.fromkeys(table.columns for table in group)
    ]
    not_used = [name for name in names if name not in tables]
    described = []
    for group in by_columns:
        if problem := _find_gap(contents, group):
            problems.append(problem)
        else:
            described.append(_describe_tables(contents, group, not_used))
    return described


def _inspect_table(contents: Contents, name: str) -> _Table:
    """Find the columns of a table, and the folder of its pictures.

    Raises:
        UserError: it does not describe the pictures.
    """
    path = f"{contents.label}/{name}"
    if _SUBMISSION.search(posixpath.basename(name)):
        raise UserError(f"{path} is not used: by its name it is the form of a submission")
    table = _read_columns(contents.documents[name])
    if not table.num_rows:
        raise UserError(f"{path} is not used: it holds no rows")
    check_header(path, table.column_names)
    column, folder = _find_path_column(contents, name, table)
    chosen = choose_columns(path, table.column_names, {"path": column})
    roles = {} if _guess_path_column(table.column_names) == column else {"path": column}
    label = chosen["label"] or _find_label_column(path, table, chosen, roles)
    if label and not any(value not in (None, "") for value in table[label].unique().to_pylist()):
        raise UserError(f"{path} is not used: its column '{label}' is empty")
    if label and not chosen["label"]:
        roles["label"] = label
    found = frozenset(_find_images(contents, table[column], folder))
    return _Table(name, folder, roles, tuple(table.column_names), found)


def _read_columns(path: Path) -> pa.Table:
    """Read the columns of a table that may be paths or labels."""
    if path.suffix.lower() != ".parquet":
        return read_text_table(path).table
    try:
        schema = pq.read_schema(path)
        plain = [
            item.name for item in schema if not pa.types.is_nested(item.type) and not pa.types.is_binary(item.type)
        ]
        return pq.read_table(path, columns=plain)
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{path}: not readable as Parquet: {error}") from None


def _find_path_column(contents: Contents, name: str, table: pa.Table) -> tuple[str, str]:
    """Return the column whose values are names of pictures, and the folder that they are relative to."""
    guess = _guess_path_column(table.column_names)
    rates: dict[str, tuple[float, str]] = {}
    single = [column for column, num in Counter(table.column_names).items() if num == 1]
    for column in sorted(single, key=lambda column: column != guess):
        values = [str(value) for value in table[column].unique().to_pylist() if value not in (None, "")]
        sample = values[:: max(1, len(values) // _NUM_PATHS_COMPARED)]
        if not sample:
            continue
        split = guess_split_of_folder(os.path.splitext(name)[0])
        folder = choose_folder(contents.images, sample, posixpath.dirname(name), split)
        paths = contents.list_images(folder)
        rate = sum(paths.find(value) is not None for value in sample) / len(sample)
        if column == guess and rate >= 0.5:
            return column, folder
        rates[column] = rate, folder
    best = max(rates, key=lambda column: rates[column][0], default="")
    if not best or rates[best][0] < 0.5:
        columns = ", ".join(table.column_names)
        raise UserError(f"{contents.label}/{name} is not used: none of its columns ({columns}) names the pictures")
    if sum(rate == rates[best][0] for rate, _ in rates.values()) > 1:
        raise UserError(f"{contents.label}/{name} is not used: several of its columns name pictures; say which: "
                        f"{shlex.quote(f'{contents.label}/{name}?path={best}')}")  # fmt: skip
    return best, rates[best][1]


def _guess_path_column(names: list[str]) -> str | None:
    try:
        return choose_columns("", names, {})["path"]
    except UserError:
        return None


def _find_images(contents: Contents, values: pa.ChunkedArray, folder: str) -> set[str]:
    """Return the pictures that the values of a column name, relative to the source."""
    paths = contents.list_images(folder)
    texts = (str(value) for value in values.unique().to_pylist() if value not in (None, ""))
    return {posixpath.join(folder, image.name) for text in texts if (image := paths.find(text))}


def _find_gap(contents: Contents, group: Sequence[_Table]) -> str | None:
    """Return the problem of tables that name less than half of the pictures in the folders of those pictures."""
    found = {name for table in group for name in table.found}
    folders = {name.rpartition("/")[0] for name in found}
    total = sum(name.rpartition("/")[0] in folders for name in contents.images)
    if 2 * len(found) >= total:
        return None
    names = join_names([table.name for table in group])
    spec = f"{contents.label}/{join_patterns([table.name for table in group])}"
    return (
        f"{names} names only {len(found):,} of {format_count(total, 'picture')}, and is not used; if the others "
        f"are to be left out, give it itself: {shlex.quote(format_spec(spec, group[0].roles))}"
    )


def _find_label_column(
    path: str, table: pa.Table, chosen: Mapping[str, str | None], roles: Mapping[str, str]
) -> str | None:
    """Return the column of labels, which no name tells; None if all columns are labels of 0 and 1.

    Raises:
        UserError: no column, or more than one, may be it.
    """
    used = {*chosen.values(), *_INDEX_COLUMNS}
    others = [name for name in table.column_names if name not in used]
    if not others:
        raise UserError(f"{path} is not used: it holds no column of labels")
    if len(others) == 1:
        values = table[others[0]].drop_null()
        if 2 * len(values.unique()) <= max(len(values), 4):
            return others[0]
    if len(others) > 1 and have_flags(table.select(others)):
        return None
    spec = shlex.quote(format_spec(path, {**roles, "label": others[0]}))
    raise UserError(
        f"{path} is not used: which column is the label is not clear ({', '.join(others)}); "
        f"name it, for example {spec}"
    )


def _describe_tables(contents: Contents, group: Sequence[_Table], not_used: Sequence[str]) -> Description:
    names = tuple(table.name for table in group)
    first = group[0]
    roles = dict(first.roles)
    own = posixpath.dirname(first.name)
    if first.folder != own and len({table.folder for table in group}) == 1:
        roles["root"] = posixpath.relpath(first.folder or ".", own or ".")
    pattern = f"{contents.label}/{join_patterns(names)}"
    splits = {guess_split_of_image(name) for table in group for name in table.found}
    files = [contents.documents[name] for name in names]
    others = f"; {join_names(not_used)} not used" if not_used else ""

    def open_tables() -> Source:
        return TableSource(
            files,
            label=pattern,
            name=contents.name,
            query=urlencode(first.roles),
            require_classes=False,
            open_images=contents.open_images,
            folders={file: table.folder for file, table in zip(files, group, strict=True)},
            title=contents.label,
            note=f"labels from {join_names(names)}{others}",
            num_images=len(contents.images),
            find_split=guess_split_of_image if len(group) == 1 and are_splits(splits) else None,
        )

    return Description(names, format_spec(pattern, roles), open_tables)
