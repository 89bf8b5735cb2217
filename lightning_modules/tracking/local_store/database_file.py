"""Write a SQLite database beside its place, and rename it into it when it is complete.

MLflow creates its tables in place, in many transactions, and refuses for ever what a process that was killed in
between has left. Prefect and Optuna go on where they were killed, so their databases are made in place.
"""

import os
import sqlite3
import urllib.parse
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from imageset.utils.atomic_write import sync_file

SIDE_SUFFIXES = ("-journal", "-wal", "-shm")  # of the files that SQLite keeps beside a database
PARTIAL = ".partial"
TIMEOUT_S = 60.0  # while another process writes


@contextmanager
def replace_database(path: Path) -> Iterator[Path]:
    """Yield a name beside `path` for a database; rename it to `path` on success, remove it after an exception.

    The caller holds a lock, so that what is left of a process that was killed can be removed first.
    """
    for leftover in path.parent.glob(f"{path.name}.*{PARTIAL}*"):
        leftover.unlink()
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}{PARTIAL}")
    try:
        yield temporary
        query(temporary, "PRAGMA wal_checkpoint(TRUNCATE)")  # what a library left in NAME-wal goes into the file
        sync_file(temporary)
        for suffix in SIDE_SUFFIXES:  # SQLite would apply those of the former file to this one
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        os.replace(temporary, path)
        sync_file(path.parent)
    finally:
        for suffix in ("", *SIDE_SUFFIXES):
            temporary.with_name(temporary.name + suffix).unlink(missing_ok=True)


def query(path: Path, statement: str, values: tuple[str, ...] = ()) -> list[tuple[object, ...]]:
    """Run a statement on a database that exists; SQLite first rolls back a transaction whose process died.

    Raises:
        sqlite3.Error: the file is missing, is not a database, or is locked for longer than TIMEOUT_S.
    """
    uri = f"file:{urllib.parse.quote(str(path))}?mode=rw"
    with closing(sqlite3.connect(uri, uri=True, timeout=TIMEOUT_S)) as connection:
        return connection.execute(statement, values).fetchall()


def list_tables(path: Path) -> set[str]:
    """Return the names of a database's tables; of a file that is missing or empty, none.

    Raises:
        sqlite3.Error: the file is not a database.
    """
    if not path.exists():
        return set()
    return {str(name) for (name,) in query(path, "SELECT name FROM sqlite_master WHERE type = 'table'")}


def copy_database(path: Path, target: Path) -> None:
    """Copy a database as it is between two transactions of the processes that use it."""
    with closing(sqlite3.connect(path, timeout=TIMEOUT_S)) as source, closing(sqlite3.connect(target)) as copy:
        source.backup(copy)
    sync_file(target)
