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
from typing import Any

from flows.project.paths import CACHE
from flows.project.project import Project
from lightning_modules.tracking.local_store.location import find_shared_folder

TIMEOUT_S = 5.0  # while another process writes

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
_CHAMPIONS = "SELECT name, version FROM registered_model_aliases WHERE alias = 'champion' ORDER BY name"
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


def read_champions(path: Path) -> dict[str, int]:
    """Read which version of each registered model has the alias `champion` from an MLflow database.

    Raises:
        sqlite3.Error: the file is not an MLflow database, or is locked for longer than TIMEOUT_S.
    """
    return {name: int(version) for name, version in _query(path, _CHAMPIONS)} if path.exists() else {}


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
