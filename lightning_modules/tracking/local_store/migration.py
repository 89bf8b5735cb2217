"""Create the tables of MLflow's SQLite file, and migrate a file of an earlier MLflow: completely or not at all.

MLflow does both in place. A process that was killed meanwhile left a file without which nothing works ("table
secrets already exists"). Here both happen to another file, which then takes the place of the first. A file that
such a kill left, or an earlier Convoy, is made anew if it holds nothing, and kept under another name.
"""

import importlib.util
import os
import re
import sqlite3
import sys
import time
from pathlib import Path

import psutil

from imageset.exceptions import UserError
from imageset.utils.file_lock import file_lock
from lightning_modules.tracking.local_store.database_file import (
    TIMEOUT_S,
    copy_database,
    list_tables,
    query,
    replace_database,
)
from lightning_modules.tracking.local_store.location import SQLITE

# Of loggers that MLflow sets to INFO; that of the database logs errors with a traceback, and raises them as well.
LOG_LEVELS = {
    "alembic": "WARNING",
    "mlflow.store.db.utils": "CRITICAL",
    "mlflow.pyfunc": "WARNING",
    "mlflow.store.model_registry": "WARNING",
}
VERSION_TABLE = "alembic_version"
# Tables with what users would lose; every new file has the experiment `Default`.
CONTENTS = ("runs", "registered_models", "logged_models", "trace_info")
OWN_EXPERIMENTS = "SELECT 1 FROM experiments WHERE name != 'Default' LIMIT 1"
REVISION = re.compile(r"^(down_)?revision\b[^=\n]*= *[\"'](\w+)[\"']", re.MULTILINE)  # in a migration of MLflow


def prepare_database(database: Path) -> None:
    """Let MLflow's file have all tables of the MLflow that is installed, before MLflow opens it.

    A file that has them costs a few milliseconds. Any number of processes may call this at once.

    Raises:
        UserError: the file cannot be made, is not a database, or cannot be migrated.
    """
    database = database.resolve()  # a link stays one
    try:
        if is_current(database):
            return
        lock = database.parent / ".cache" / "mlflow.lock"
        lock.parent.mkdir(parents=True, exist_ok=True)
        with file_lock(lock):
            if list_tables(database):
                _await_users(database)
            if not is_current(database):  # another process has been faster
                _make_current(database)
    except (OSError, sqlite3.Error) as error:
        raise UserError(_describe_failure(database, error)) from error


def is_current(database: Path) -> bool:
    """Return whether a file has all tables of the MLflow that is installed.

    Raises:
        sqlite3.Error: the file is not a database, or is locked.
    """
    head, _ = find_revisions()
    return read_revision(database) == head


def read_revision(database: Path) -> str | None:
    """Return the revision of MLflow's tables; None if they are missing or were never completed.

    Raises:
        sqlite3.Error: the file is not a database, or is locked.
    """
    if VERSION_TABLE not in list_tables(database):
        return None
    rows = query(database, f"SELECT version_num FROM {VERSION_TABLE}")
    return str(rows[0][0]) if rows else None


def find_revisions() -> tuple[str, set[str]]:
    """Return the latest revision of the tables of the MLflow that is installed, and all that it knows.

    They are read from the text of its migrations: importing them takes a second.
    """
    spec = importlib.util.find_spec("mlflow")
    assert spec is not None and spec.submodule_search_locations is not None
    folder = Path(next(iter(spec.submodule_search_locations))) / "store" / "db_migrations" / "versions"
    found = [match for path in folder.glob("*.py") for match in REVISION.findall(path.read_text(encoding="utf-8"))]
    revisions = {revision for is_down, revision in found if not is_down}
    (head,) = revisions - {revision for is_down, revision in found if is_down}
    return head, revisions


def holds_contents(database: Path) -> bool:
    """Return whether a file holds a run, a model, a trace, or an experiment that somebody made.

    Raises:
        sqlite3.Error: the file is not a database, or is locked.
    """
    tables = list_tables(database)
    queries = [f"SELECT 1 FROM {table} LIMIT 1" for table in CONTENTS if table in tables]
    queries += [OWN_EXPERIMENTS] if "experiments" in tables else []
    return any(query(database, each) for each in queries)


def _await_users(database: Path) -> None:
    """Wait while other processes have a file open that is not complete: they may be making it.

    What they write while another file takes its place would be lost.

    Raises:
        UserError: they have it open for TIMEOUT_S.
    """
    deadline = time.monotonic() + TIMEOUT_S
    while not is_current(database) and (users := _find_users(database)):
        if time.monotonic() > deadline:
            raise UserError(
                f"{database}: is incomplete or of another MLflow, and {', '.join(users)} uses it; end that "
                "process, and type the command again"
            )
        time.sleep(0.5)


def _find_users(database: Path) -> list[str]:
    """Return the other processes of this user that have a file open."""
    users = []
    for process in psutil.process_iter(["name"]):
        try:
            if process.pid != os.getpid() and any(each.path == str(database) for each in process.open_files()):
                users.append(f"{process.info['name']} (process {process.pid})")
        except psutil.Error:  # another user's, or it has ended
            continue
    return users


def _make_current(database: Path) -> None:
    tables, kept = list_tables(database), None
    if tables - {VERSION_TABLE} and not tables & {"experiments", "runs"}:
        raise UserError(f"{database}: is the file of another program; set MLFLOW_TRACKING_URI to another store")
    if holds_contents(database):
        _migrate_copy(database)
        return
    with replace_database(database) as temporary:
        _run_migrations(temporary)
        if tables:
            kept = _keep(database, "incomplete")
    if kept is not None:
        line = f"mlflow: {database} was incomplete and held no runs and no models; it is made anew"
        print(f"{line}, and the former file is {kept.name}", file=sys.stderr, flush=True)


def _migrate_copy(database: Path) -> None:
    """Migrate a copy of a file that holds something, and put it in its place; the former file is kept."""
    revision, (head, known) = read_revision(database), find_revisions()
    if revision is not None and revision not in known:
        raise UserError(
            f"{database}: is of a later MLflow than the installed one; install the Convoy that wrote it, or set "
            "MLFLOW_TRACKING_URI to another store"
        )
    with replace_database(database) as temporary:
        copy_database(database, temporary)
        try:
            _run_migrations(temporary)
        except sqlite3.DatabaseError as error:
            if _is_of_disk(str(error)):
                raise
            raise UserError(
                f"{database}: holds runs or models, and cannot be migrated to the installed MLflow ({error}), "
                f"since a process was killed while it did that; {_advise_moving(database)}; nothing was changed"
            ) from error
        kept = _keep(database, f"before-{head}")
    line = f"mlflow: {database} is migrated to the tables of the installed MLflow; the former file is {kept.name}"
    print(line, file=sys.stderr, flush=True)


def _run_migrations(file: Path) -> None:
    """Create the tables of a new file, or migrate those of an earlier MLflow.

    Raises:
        sqlite3.DatabaseError: a migration failed.
    """
    import logging

    from mlflow.db import upgrade
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    for name, level in LOG_LEVELS.items():
        logging.getLogger(name).setLevel(level)
    try:
        assert upgrade.callback is not None
        upgrade.callback(f"{SQLITE}{file}")
    except (SQLAlchemyError, MlflowException) as error:
        reason = " ".join(str(getattr(error, "orig", None) or error).split())[:200]
        raise sqlite3.DatabaseError(reason) from error


def _keep(database: Path, suffix: str) -> Path:
    """Copy a file to a name that says why it is kept; return that name."""
    names = [f"{database.name}.{suffix}", *(f"{database.name}.{suffix}-{number}" for number in range(2, 1000))]
    kept = next(path for name in names if not (path := database.with_name(name)).exists())
    with replace_database(kept) as temporary:
        copy_database(database, temporary)
    return kept


def _describe_failure(database: Path, error: OSError | sqlite3.Error) -> str:
    reason = str(getattr(error, "strerror", None) or error)
    if isinstance(error, OSError) or _is_of_disk(reason):
        return f"{database}: cannot be made ({reason}); free some space, or make its folder writable"
    if "locked" in reason:
        return f"{database}: another process has locked it for {TIMEOUT_S:.0f} s; end it, and try again"
    return f"{database}: is damaged ({reason}); {_advise_moving(database)}"


def _is_of_disk(reason: str) -> bool:
    return any(words in reason for words in ("disk", "readonly", "unable to open"))


def _advise_moving(database: Path) -> str:
    earlier = sorted(path.name for path in database.parent.glob(f"{database.name}.before-*"))
    backup = earlier[-1] if earlier else "a backup"
    return (
        f"restore it from {backup}, or move it away (`mv {database} {database}.damaged`): the next command makes "
        "a new one, and restores from DVC the models that serve"
    )
