"""Mend the MLflow store of a project that was moved or copied.

MLflow's SQLite file holds the absolute place of every artifact. After `mv` they name a folder that is gone, and
after `cp` the original, which a copy must not write to. Connecting to the store compares the places of the
experiments with the present one, and puts all of them right in one transaction. Places that are not in a folder
`mlartifacts` of another root (a bucket, another disk) stay as they are.
"""

import json
import os
import shutil
import sqlite3
import sys
import urllib.parse
import uuid
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from imageset.exceptions import UserError
from imageset.utils.file_lock import file_lock
from imageset.utils.text import format_count
from lightning_modules.tracking.local_store.location import ARTIFACTS, DATABASE

# Columns of MLflow 3.17.2 that hold a place; a file of another version may lack some.
PLACES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
    ("trace_tags", "value"),
    ("tags", "value"),  # mlflow.source.name, mlflow.source.git.repoURL
    ("logged_model_tags", "value"),
)
TIMEOUT_S = 60.0  # while another process writes


def relocate_store(folder: Path) -> None:
    """Let the store in `folder` name the artifacts in `folder`, and print a line if it named others before.

    What lies only at the former place, because a copy left it out or a training wrote there after a move, is
    copied first; the former place is only read.

    Raises:
        UserError: the file cannot be written.
    """
    if not (folder / DATABASE).exists() or not _find_former_roots(folder):
        return
    try:
        (folder / ".cache").mkdir(exist_ok=True)
        with file_lock(folder / ".cache" / "relocation.lock"):
            for root in _find_former_roots(folder):  # unless another process has been faster
                num_copied = _copy_missing_artifacts(folder, root)
                _rewrite_places(folder, root)
                _report(folder, root, num_copied)
    except (OSError, sqlite3.Error) as error:
        raise UserError(f"{folder / DATABASE}: names another folder, and cannot be mended: {error}") from error


def _report(folder: Path, root: Path, num_copied: int) -> None:
    copied = f"; {format_count(num_copied, 'folder')} of artifacts copied from there" if num_copied else ""
    line = f"mlflow: {folder} was {root}; its runs and models are found here now{copied}"
    print(line, file=sys.stderr, flush=True)


def _find_former_roots(folder: Path) -> list[Path]:
    """Return the other folders whose `mlartifacts` experiments name; almost always none."""
    try:
        places = [place for (place,) in _query(folder, "SELECT artifact_location FROM experiments")]
    except sqlite3.Error:  # empty, or not a database: MLflow itself says so
        return []
    paths = [path for place in places if (path := _parse_file_uri(place)) and path.parent.name == ARTIFACTS]
    return sorted({path.parent.parent for path in paths if _is_former(path, folder)})


def _parse_file_uri(uri: str | None) -> Path | None:
    """Return the path of `file:///PATH`, or None for a place that is no file."""
    is_file = uri is not None and uri.startswith("file:///")
    return Path(urllib.parse.unquote(urllib.parse.urlsplit(uri).path)) if is_file else None


def _is_former(place: Path, folder: Path) -> bool:
    """Return whether `ROOT/mlartifacts/NAME` was the place of an experiment of this store.

    If it exists in a folder without a store, while here there is nothing, somebody has put it on another disk.
    """
    root, name = place.parent.parent, place.name
    if _is_same_folder(root, folder):
        return False
    return not place.exists() or (root / DATABASE).exists() or (folder / ARTIFACTS / name).exists()


def _is_same_folder(root: Path, folder: Path) -> bool:
    """Return whether two names are of one folder, e.g. because of a mount; then both names are right."""
    try:
        return root == folder or os.path.samefile(root, folder)
    except OSError:
        return False


def _query(folder: Path, query: str) -> list[tuple[str, ...]]:
    uri = f"file:{urllib.parse.quote(str(folder / DATABASE))}?mode=rw"
    with closing(sqlite3.connect(uri, uri=True, timeout=TIMEOUT_S)) as connection:
        return connection.execute(query).fetchall()


# ---- the places in the database ----------------------------------------------------------------------


def _rewrite_places(folder: Path, root: Path) -> None:
    with closing(sqlite3.connect(folder / DATABASE, timeout=TIMEOUT_S, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        for table, column in PLACES:
            if column in {row[1] for row in connection.execute(f"PRAGMA table_info({table})")}:
                _rewrite_column(connection, table, column, root, folder)
        _rewrite_datasets(connection, root, folder)
        connection.execute("COMMIT")


def _rewrite_column(connection: sqlite3.Connection, table: str, column: str, root: Path, folder: Path) -> None:
    for former, present in ((root.as_uri(), folder.as_uri()), (str(root), str(folder))):
        is_former = f"({column} = :former OR substr({column}, 1, length(:former) + 1) = :former || '/')"
        if folder.is_relative_to(root):  # it was moved down: the present place begins like the former one
            is_former += f" AND substr({column} || '/', 1, length(:present) + 1) != :present || '/'"
        connection.execute(
            f"UPDATE {table} SET {column} = :present || substr({column}, length(:former) + 1) WHERE {is_former}",
            {"former": former, "present": present},
        )


def _rewrite_datasets(connection: sqlite3.Connection, root: Path, folder: Path) -> None:
    """Rewrite the place in `{"uri": "/ROOT/data/normalized"}` of each dataset."""
    for dataset, source in connection.execute("SELECT dataset_uuid, dataset_source FROM datasets").fetchall():
        try:
            document = json.loads(source)
            place = Path(document["uri"])
        except (ValueError, KeyError, TypeError):
            continue
        if _is_below(place, root, folder):
            document["uri"] = str(folder / place.relative_to(root))
            connection.execute(
                "UPDATE datasets SET dataset_source = ? WHERE dataset_uuid = ?", (json.dumps(document), dataset)
            )


def _is_below(place: Path, root: Path, folder: Path) -> bool:
    """Return whether a place is in the former root and not in the present one, which may lie in it."""
    is_present = folder.is_relative_to(root) and place.is_relative_to(folder)
    return place.is_relative_to(root) and not is_present


# ---- the files ---------------------------------------------------------------------------------------


def _copy_missing_artifacts(folder: Path, root: Path) -> int:
    """Copy the artifacts that lie only below `root`; return the number of folders."""
    num_copied = 0
    for former in _list_artifact_folders(folder, root):
        present = folder / former.relative_to(root)
        if former.is_dir() and not present.exists():
            _copy_folder(former, present)
            num_copied += 1
    return num_copied


def _list_artifact_folders(folder: Path, root: Path) -> Iterator[Path]:
    """Yield the folders below `root` that runs and models name."""
    query = "SELECT artifact_uri FROM runs UNION SELECT artifact_location FROM logged_models"
    for (uri,) in _query(folder, query):
        place = _parse_file_uri(uri)
        if place is not None and _is_below(place, root, folder):
            yield place


def _copy_folder(former: Path, present: Path) -> None:
    present.parent.mkdir(parents=True, exist_ok=True)
    temporary = present.with_name(f"{present.name}.{uuid.uuid4().hex}")
    try:
        shutil.copytree(former, temporary)
        os.replace(temporary, present)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
