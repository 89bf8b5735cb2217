"""Queries on the SQLite files of Prefect and MLflow, for commands that must not wait for either library to import.

These tables belong to the libraries. They were read in Prefect 3.8.8 and MLflow 3.17.2; tests run each query on
files that these libraries created. With a tracking server or a Prefect server, their APIs are used instead.
"""

from __future__ import annotations

import sqlite3
import urllib.parse
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

from flows.project.paths import CACHE
from flows.project.project import Project
from lightning_modules.bundle import list_missing_files
from lightning_modules.tracking.local_store.location import find_shared_folder

TIMEOUT_S = 5.0  # while another process writes


class RegisteredModel(NamedTuple):
    """The aliases of a registered model with their versions, and its tags."""

    aliases: dict[str, int]
    tags: dict[str, str]


# flow, run, state, start, end, message, tags as JSON; the oldest run first
FlowRunRow = tuple[str, str, str, str, str | None, str | None, str | None]
_FLOW_RUNS = """
SELECT flow.name, flow_run.name, flow_run.state_type, coalesce(flow_run.start_time, flow_run.expected_start_time),
       flow_run.end_time, flow_run_state.message, flow_run.tags
FROM flow_run JOIN flow ON flow.id = flow_run.flow_id
LEFT JOIN flow_run_state ON flow_run_state.id = flow_run.state_id
WHERE flow_run.parent_task_run_id IS NULL
ORDER BY 4
"""
_ALIASES = "SELECT name, alias, version FROM registered_model_aliases ORDER BY name"
_MODEL_TAGS = "SELECT name, key, value FROM registered_model_tags"
_VERSION_SOURCES = "SELECT source FROM model_versions WHERE name = ? AND version = ?"
_NUM_RUNNING = "SELECT count(*) FROM runs WHERE status = 'RUNNING' AND run_uuid IN ({})"


def find_prefect_database(project: Project) -> Path:
    """Return the file of Prefect's database, which all projects of a git repository share."""
    return find_shared_folder(project.folder) / CACHE / "prefect.db"


def read_flow_runs(path: Path) -> list[FlowRunRow]:
    """Read all flow runs of a Prefect database, without those that a task started, the oldest first.

    Raises:
        sqlite3.Error: the file is not a Prefect database, or is locked for longer than TIMEOUT_S.
    """
    return [tuple(row) for row in _query(path, _FLOW_RUNS)] if path.exists() else []


def read_registered_models(path: Path) -> dict[str, RegisteredModel]:
    """Read the aliases and the tags of each registered model that has aliases, from an MLflow database.

    Raises:
        sqlite3.Error: the file is not an MLflow database, or is locked for longer than TIMEOUT_S.
    """
    models: dict[str, RegisteredModel] = {}
    if not path.exists():
        return models
    for name, alias, version in _query(path, _ALIASES):
        models.setdefault(name, RegisteredModel({}, {})).aliases[alias] = int(version)
    for name, key, value in _query(path, _MODEL_TAGS):
        if name in models:
            models[name].tags[key] = value
    return models


def find_version_folder(path: Path, model: str, version: int) -> Path | None:
    """Return the folder of a model's version, from an MLflow database; None if its files are not in a folder.

    Raises:
        sqlite3.Error: the file is not an MLflow database, or is locked for longer than TIMEOUT_S.
    """
    rows = _query(path, _VERSION_SOURCES, (model, str(version))) if path.exists() else []
    source = str(rows[0][0]) if rows else ""
    if not source.startswith("file:///"):
        return None
    return Path(urllib.parse.unquote(urllib.parse.urlsplit(source).path))


def list_lost_files(path: Path, model: str, version: int) -> list[Path]:
    """Return the files of a version's bundle that are missing where an MLflow database says that they are.

    Raises:
        sqlite3.Error: the file is not an MLflow database, or is locked for longer than TIMEOUT_S.
    """
    folder = find_version_folder(path, model, version)
    return [] if folder is None else list_missing_files(folder / "artifacts" / "bundle")


def has_running_run(path: Path, run_ids: Sequence[str]) -> bool:
    """Return whether one of these runs is RUNNING in an MLflow database.

    Raises:
        sqlite3.Error: the file is not an MLflow database, or is locked for longer than TIMEOUT_S.
    """
    if not path.exists():
        return False
    query = _NUM_RUNNING.format(", ".join("?" * len(run_ids)))
    return bool(_query(path, query, run_ids)[0][0])


def _query(path: Path, query: str, values: Sequence[str] = ()) -> list[tuple[Any, ...]]:
    """Run a query on a file that other processes may be writing to.

    Nothing is written, except that SQLite rolls back a transaction whose process died. A read-only connection
    would fail there.
    """
    uri = f"file:{urllib.parse.quote(str(path))}?mode=rw"
    with closing(sqlite3.connect(uri, uri=True, timeout=TIMEOUT_S)) as connection:
        return connection.execute(query, values).fetchall()
