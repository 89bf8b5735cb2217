"""Opening of sources: decide which kind of source a path, a URL or a name is. No other module knows all kinds."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import unquote

from imageset.exceptions import UserError
from imageset.sources.base import Source
from imageset.sources.files import find_images
from imageset.sources.folder import open_folder
from imageset.sources.label_table import LabelTable, open_local_label_table
from imageset.utils.progress import Progress


def open_source(
    spec: str | os.PathLike[str], *, require_classes: bool = True, progress: Progress | None = None
) -> Source:
    """Open a source by its path, its URL, or its name ("sklearn://digits", "torchvision://FashionMNIST").

    Args:
        spec: the path, URL or name.
        require_classes: raise UserError if nothing can be learned from the source, such as a single class; False
            opens it all the same, with the reason in `problem`.
        progress: reports downloads.

    Raises:
        UserError: the source does not exist, or nothing can be learned from it.
        ConnectionError: a remote source does not answer, or every attempt to read it failed.
    """
    text = os.fspath(spec)
    if "://" in text:
        return _open_url(text, require_classes, progress)
    from imageset.sources.table import is_table, open_table

    if is_table(text):
        return open_table(text, require_classes=require_classes)
    path = Path(text).expanduser()
    if not path.exists():
        if with_options := split_off_options(text):
            return open_path(*with_options, require_classes=require_classes)
        from imageset.sources.sharded import is_pattern, open_pattern

        if is_pattern(text):
            return open_pattern(text, require_classes=require_classes)
        place = "" if path.is_absolute() else f" in {Path.cwd()}"
        raise UserError(f"{text}: no such folder{place}; {_describe_expected(require_classes)}")
    return open_path(path, require_classes=require_classes)


def open_label_table(spec: str, *, progress: Progress | None = None) -> LabelTable | None:
    """Open a table of labels that people gave to images of a dataset; None if it is none (label_table).

    Raises:
        UserError: the table is damaged, holds predictions, or its columns cannot be used.
        ConnectionError: a remote table cannot be read.
    """
    from imageset.sources.remote.url import is_remote

    if not is_remote(spec):
        return open_local_label_table(spec)
    if spec.startswith("torchvision://"):
        return None
    from imageset.sources.remote.source import open_remote_label_table

    return open_remote_label_table(spec, progress=progress)


def split_off_options(text: str) -> tuple[Path, str] | None:
    """Return (path, query) of a local folder or file with options; None if it is another kind of source."""
    before, mark, query = text.partition("?")
    path = Path(before).expanduser()
    is_split = mark and before and path.exists() and not Path(text).expanduser().exists()
    return (path, query) if is_split else None


def _describe_expected(require_classes: bool) -> str:
    return "give a folder " + ("that holds one sub-folder per class" if require_classes else "of pictures")


def _open_url(text: str, require_classes: bool, progress: Progress | None) -> Source:
    if text.startswith("sklearn://"):
        from imageset.sources.benchmark_sets.digits import open_digits

        return open_digits(text)
    if text.startswith("torchvision://"):
        from imageset.sources.benchmark_sets.torchvision_sets import open_torchvision_set

        return open_torchvision_set(text)
    if text.startswith("file://"):
        path, _, query = text.removeprefix("file://").removeprefix("localhost").partition("?")
        if not path.startswith("/"):
            raise UserError(f"{text}: names another machine; the URL of a local file is file:///folder/name")
        return open_source(unquote(path) + (f"?{query}" if query else ""), require_classes=require_classes)
    from imageset.sources.remote.source import open_remote

    return open_remote(text, open_path, require_classes=require_classes, progress=progress)


def check_url(url: str) -> None:
    """Check that a URL can be a source, without downloading the data behind it.

    Raises:
        UserError: it cannot.
    """
    if url.startswith("torchvision://"):
        from imageset.sources.benchmark_sets.torchvision_sets import check_torchvision_set

        check_torchvision_set(url)
        return
    from imageset.sources.remote.source import check_remote

    check_remote(url)


# Files that hold pictures or labels in a form that is not read: what they are, and the way out.
_WITH_HEADER = " with a first line such as `path,label`"
_TO_CSV = f"; write a CSV file{_WITH_HEADER} and a line for each picture"
FOREIGN_FORMATS = {
    ".xlsx": f"an Excel workbook is not read; save the sheet as CSV UTF-8{_WITH_HEADER}",
    ".xls": f"an Excel workbook is not read; save the sheet as CSV UTF-8{_WITH_HEADER}",
    ".ods": f"a spreadsheet of LibreOffice is not read; save the sheet as CSV{_WITH_HEADER}",
    ".txt": f"a text file is not read as a table{_TO_CSV}",
    ".lst": f"a list of files is not read as a table{_TO_CSV}",
    ".json": "a JSON file is not read as a table; write one object a line, as in `pandas.read_json(FILE).to_json"
    "('labels.jsonl', orient='records', lines=True)`",
    ".tfrecord": "TFRecord files are not read; write their pictures as files, one sub-folder per class",
    ".npz": "NumPy arrays are not read; write them as PNG files, one sub-folder per class",
    ".npy": "NumPy arrays are not read; write them as PNG files, one sub-folder per class",
    ".h5": "HDF5 files are not read; write their pictures as PNG files, one sub-folder per class",
    ".mat": "files of MATLAB are not read; write their pictures as PNG files, one sub-folder per class",
    ".7z": "a 7z archive is not read; unpack it with `7z x`, or pack it as zip or tar",
    ".rar": "a RAR archive is not read; unpack it with `unrar x`, or pack it as zip or tar",
}


def open_path(path: Path, query: str = "", *, require_classes: bool = True) -> Source:
    """Open a local folder, or a local file that is not a table, as a source.

    Args:
        path: the folder or file.
        query: options of a folder or an archive (imageset.sources.layouts.options).
        require_classes: raise UserError if nothing can be learned from the source.

    Raises:
        UserError: it is not a source, it has no options, or nothing can be learned from it.
    """
    from imageset.sources.archive import is_archive, open_archive
    from imageset.sources.benchmark_sets.cifar import find_cifar
    from imageset.sources.benchmark_sets.idx import IdxSource, is_idx
    from imageset.sources.layouts.options import parse_folder_options
    from imageset.sources.sharded import open_sharded_folder

    if is_idx(path):
        return _without_options(IdxSource(path), path, query)
    if cifar := find_cifar(path):
        return _without_options(cifar, path, query)
    if is_archive(path):
        return open_archive(path, require_classes=require_classes, options=parse_folder_options(str(path), query))
    if not path.is_dir():
        if hint := FOREIGN_FORMATS.get(path.suffix.lower()):
            raise UserError(f"{path}: {hint}")
        raise UserError(
            f"{path}: not a folder; {_describe_expected(require_classes)}, a zip or tar archive, "
            "a table (CSV, TSV, JSON lines, Parquet), or IDX or CIFAR files"
        )
    if not any(find_images(path)):
        sharded = open_sharded_folder(path, query, require_classes=require_classes)
        if sharded:
            return sharded
    return open_folder(path, require_classes=require_classes, options=parse_folder_options(str(path), query))


def _without_options(source: Source, path: Path, query: str) -> Source:
    if query:
        raise UserError(f"{path}: files of this kind have no options; leave out ?{query}")
    return source
