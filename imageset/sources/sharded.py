"""Several files that are one dataset, by folder or pattern: WebDataset's shards, Hugging Face's Parquet."""

from __future__ import annotations

import glob
import itertools
import re
from collections.abc import Sequence
from pathlib import Path

from imageset.exceptions import UserError
from imageset.sources.annotated import open_documents
from imageset.sources.annotations.reader import is_document_name
from imageset.sources.archive import ARCHIVE_EXTENSIONS, ArchiveSource
from imageset.sources.base import Source, slugify
from imageset.sources.files import find_images
from imageset.sources.layouts.options import parse_folder_options
from imageset.sources.table import TABLE_EXTENSIONS, TableSource
from imageset.utils.text import format_count

_SHARD_EXTENSIONS = frozenset({".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".parquet"})
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"^(\d+)\.\.(\d+)$")


def is_pattern(spec: str) -> bool:
    """Return whether a path names several files: {000..003}, {a,b}, * or [0-9]."""
    return any(sign in spec.partition("?")[0] for sign in "*[{")


def open_pattern(spec: str, *, require_classes: bool = True) -> Source:
    """Open the archives or tables of a pattern as one source, e.g. shards/train-{000..003}.tar.

    Raises:
        UserError: a file that the braces name is missing, no file matches, or the files are not of one kind.
    """
    text, _, query = spec.partition("?")
    files: list[Path] = []
    for pattern in expand_braces(str(Path(text).expanduser())):
        paths = sorted(glob.glob(pattern)) if any(sign in pattern for sign in "*[") else [pattern]
        missing = [path for path in paths or [pattern] if not Path(path).is_file()]
        if missing:
            raise UserError(f"{text}: no such file: {missing[0]}")
        files += map(Path, paths)
    folder = Path(text.partition("{")[0].partition("*")[0].partition("[")[0])
    name = slugify(re.sub(r"\{[^}]*\}|\[[^]]*\]|\*", "", Path(text).name).split(".")[0] or folder.name)
    if files and all(is_document_name(file.name) for file in files):
        return open_documents(files, label=text, name=name, query=query, require_classes=require_classes)
    return open_shards([(file.name, file) for file in files], text, name, query, require_classes=require_classes)


def open_sharded_folder(folder: Path, query: str = "", *, require_classes: bool = True) -> Source | None:
    """Open the archives or Parquet files below a folder without images as one source; None if there are none."""
    shards = [(file.uri, file.path) for file in find_images(folder, extensions=_SHARD_EXTENSIONS)]
    files = [(name, path) for name, path in shards if name.lower().endswith((*ARCHIVE_EXTENSIONS, ".parquet"))]
    if not files:
        return None
    return open_shards(files, str(folder), slugify(folder.resolve().name), query, require_classes=require_classes)


def open_shards(
    files: Sequence[tuple[str, Path]], label: str, name: str, query: str, *, require_classes: bool = True
) -> Source:
    """Open archives or tables as one source.

    Args:
        files: (name, path) of each file.
        label: name of the source in messages.
        name: slug that becomes the dataset's name.
        query: roles of columns, or options of the folders in archives, as in a URL's query.
        require_classes: raise UserError if nothing can be learned from the source.

    Raises:
        UserError: the files are of both kinds, or of neither.
    """
    tables = [path for file_name, path in files if file_name.lower().endswith(TABLE_EXTENSIONS)]
    archives = [path for file_name, path in files if file_name.lower().endswith(ARCHIVE_EXTENSIONS)]
    if len(tables) == len(files):
        return TableSource(tables, label=label, name=name, query=query, require_classes=require_classes)
    if len(archives) == len(files):
        options = parse_folder_options(label, query)
        return ArchiveSource(files, label=label, name=name, options=options, require_classes=require_classes)
    kinds = f"{format_count(len(archives), 'archive')} and {format_count(len(tables), 'table')}"
    raise UserError(f"{label}: holds {kinds} of {format_count(len(files), 'file')}; give files of one kind")


def expand_braces(pattern: str) -> list[str]:
    """Expand the braces of a pattern.

    "a-{00..02}.tar" gives a-00.tar, a-01.tar, a-02.tar; "{train,val}.tar" gives train.tar, val.tar.

    Raises:
        UserError: the pattern names more than 100,000 files.
    """
    pieces = _BRACES.split(pattern)  # text, inside, text, inside, text
    choices = [_expand_choice(piece) if number % 2 else [piece] for number, piece in enumerate(pieces)]
    num = 1
    for choice in choices:
        num *= len(choice)
    if num > 100_000:
        raise UserError(f"{pattern}: names {num:,} files; at most 100,000 are allowed")
    return ["".join(strings) for strings in itertools.product(*choices)]


def _expand_choice(inside: str) -> Sequence[str]:
    if match := _RANGE.match(inside):
        first, last = match.groups()
        if int(last) - int(first) >= 100_000:
            raise UserError(f"{{{inside}}}: names too many files; at most 100,000 are allowed")
        return [f"{number:0{len(first)}d}" for number in range(int(first), int(last) + 1)]
    return inside.split(",")
