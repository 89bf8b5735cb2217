"""Several files that are one dataset: WebDataset's shards, Hugging Face's Parquet; by folder or by pattern."""

from __future__ import annotations

import glob
import itertools
import re
from collections.abc import Sequence
from pathlib import Path

from imageset.exceptions import UserError
from imageset.sources.archive import ARCHIVE_EXTENSIONS as ARCHIVES
from imageset.sources.archive import ArchiveSource
from imageset.sources.base import Source, slugify
from imageset.sources.files import find_images
from imageset.sources.table import TABLE_EXTENSIONS as TABLES
from imageset.sources.table import TableSource
from imageset.utils.text import format_count

_SHARD_EXTENSIONS = frozenset({".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".parquet"})
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"^(\d+)\.\.(\d+)$")


def is_pattern(spec: str) -> bool:
    """Whether this names several files: {000..003}, {a,b}, * or [0-9]."""
    return any(sign in spec.partition("?")[0] for sign in "*[{")


def open_pattern(spec: str, *, require_classes: bool = True) -> Source:
    """The archives or tables that a pattern names, e.g. shards/train-{000..003}.tar.

    Raises:
        UserError: a file that the braces name is missing, nothing matches, or the files are not of one kind.
    """
    text, _, said = spec.partition("?")
    files: list[Path] = []
    for one in expand_braces(str(Path(text).expanduser())):
        found = sorted(glob.glob(one)) if any(sign in one for sign in "*[") else [one]
        missing = [name for name in found or [one] if not Path(name).is_file()]
        if missing:
            raise UserError(f"{text}: no such file: {missing[0]}")
        files += map(Path, found)
    folder = Path(text.partition("{")[0].partition("*")[0].partition("[")[0])
    name = slugify(re.sub(r"\{[^}]*\}|\[[^]]*\]|\*", "", Path(text).name).split(".")[0] or folder.name)
    return open_shards([(file.name, file) for file in files], text, name, said, require_classes=require_classes)


def open_sharded_folder(folder: Path, *, require_classes: bool = True) -> Source | None:
    """The archives or Parquet files below a folder that holds no pictures; None where there are none."""
    found = [(one.uri, one.path) for one in find_images(folder, extensions=_SHARD_EXTENSIONS)]
    files = [(name, path) for name, path in found if name.lower().endswith((*ARCHIVES, ".parquet"))]
    return (
        open_shards(files, str(folder), slugify(folder.resolve().name), "", require_classes=require_classes) if files else None
    )


def open_shards(
    files: Sequence[tuple[str, Path]], label: str, name: str, query: str, *, require_classes: bool = True
) -> Source:
    """(name, where it lies) of archives or of tables -> one source.

    Raises:
        UserError: they are of both kinds, or of neither.
    """
    tables = [path for one, path in files if one.lower().endswith(TABLES)]
    archives = [path for one, path in files if one.lower().endswith(ARCHIVES)]
    if len(tables) == len(files):
        return TableSource(tables, label=label, name=name, query=query, require_classes=require_classes)
    if len(archives) == len(files):
        return ArchiveSource(files, label=label, name=name, require_classes=require_classes)
    kinds = f"{format_count(len(archives), 'archive')} and {format_count(len(tables), 'table')}"
    raise UserError(f"{label}: holds {kinds} of {format_count(len(files), 'file')}; give files of one kind")


def expand_braces(pattern: str) -> list[str]:
    """ "a-{00..02}.tar" -> a-00.tar, a-01.tar, a-02.tar; "{train,val}.tar" -> train.tar, val.tar.

    Raises:
        UserError: more than 100,000 names.
    """
    parts = _BRACES.split(pattern)  # text, inside, text, inside, text
    choices = [_expand_choice(part) if number % 2 else [part] for number, part in enumerate(parts)]
    num = 1
    for one in choices:
        num *= len(one)
    if num > 100_000:
        raise UserError(f"{pattern}: names {num:,} files; at most 100,000 are taken")
    return ["".join(one) for one in itertools.product(*choices)]


def _expand_choice(inside: str) -> Sequence[str]:
    if match := _RANGE.match(inside):
        first, last = match.groups()
        if int(last) - int(first) >= 100_000:
            raise UserError(f"{{{inside}}}: names too many files; at most 100,000 are taken")
        return [f"{number:0{len(first)}d}" for number in range(int(first), int(last) + 1)]
    return inside.split(",")
