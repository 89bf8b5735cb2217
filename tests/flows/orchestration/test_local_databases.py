"""The tables of Prefect and MLflow that are queried directly exist and have the columns that the queries use."""

import gzip
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from flows.orchestration import local_databases
from tests.helpers.project import ROOT

OLD_PREFECT = ROOT / "tests/data/before_rooms/cache/prefect.sql.gz"


@pytest.fixture
def mlflow_db(project) -> Path:
    """An MLflow database with a running and a finished run, and a model with a champion and a challenger."""
    from lightning_modules.tracking.client import connect_to_mlflow

    client = connect_to_mlflow(project)
    experiment = client.create_experiment("digits")
    running, finished = (client.create_run(experiment).info.run_id for _ in range(2))
    client.set_terminated(finished, "FINISHED")
    client.create_registered_model("digits")
    for alias in ("challenger", "champion"):
        version = client.create_model_version("digits", "/nowhere", running)
        client.set_registered_model_alias("digits", alias, version.version)
    client.set_tag(running, "name", "running")
    client.set_tag(finished, "name", "finished")
    return project / "mlflow.db"


def find_run(path: Path, name: str) -> str:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute("SELECT run_uuid FROM tags WHERE value = ?", [name]).fetchone()[0]


def make_prefect_db(path: Path) -> None:
    """Create the tables of the installed Prefect."""
    import sqlalchemy
    from prefect.server.database.orm_models import Base

    engine = sqlalchemy.create_engine(f"sqlite:///{path}")
    tables = [Base.metadata.tables[name] for name in ("flow", "flow_run", "flow_run_state")]
    Base.metadata.create_all(engine, tables=tables)
    engine.dispose()


def test_aliases_tags_and_folders_are_read_from_mlflows_tables(mlflow_db):
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{mlflow_db}")
    client.set_registered_model_tag("digits", "note", "ours")
    client.create_model_version("digits", "file:///a%20b/model", find_run(mlflow_db, "running"))
    models = local_databases.read_registered_models(mlflow_db)
    assert models == {"digits": ({"challenger": 1, "champion": 2}, {"note": "ours"})}
    assert local_databases.find_version_folder(mlflow_db, "digits", 3) == Path("/a b/model")
    assert local_databases.find_version_folder(mlflow_db, "digits", 1) is None
    assert local_databases.find_version_folder(mlflow_db, "digits", 9) is None


def test_a_running_run_is_found_in_mlflows_table_of_runs(mlflow_db):
    running, finished = find_run(mlflow_db, "running"), find_run(mlflow_db, "finished")
    assert local_databases.has_running_run(mlflow_db, [finished, running])
    assert not local_databases.has_running_run(mlflow_db, [finished, "unknown"])


def test_flow_runs_are_read_from_the_tables_of_the_installed_prefect(tmp_path):
    path = tmp_path / "prefect.db"
    make_prefect_db(path)
    assert local_databases.read_flow_runs(path) == []


def test_flow_runs_are_read_from_a_database_that_prefect_has_written(tmp_path):
    path = tmp_path / "prefect.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(gzip.decompress(OLD_PREFECT.read_bytes()).decode())
    runs = local_databases.read_flow_runs(path)
    assert {"pipeline", "predict"} <= {run[0] for run in runs}
    assert {"COMPLETED", "RUNNING"} <= {run[2] for run in runs}
    starts = [run[3] for run in runs]
    assert starts == sorted(starts) and all(starts)


def test_a_missing_database_is_empty(tmp_path):
    path = tmp_path / "none.db"
    assert local_databases.read_flow_runs(path) == []
    assert local_databases.read_registered_models(path) == {}
    assert not local_databases.has_running_run(path, ["any"])
    assert not path.exists()


def test_a_file_that_is_no_database_raises(tmp_path):
    path = tmp_path / "mlflow.db"
    path.write_text("not a database, although it is long enough to be looked at by SQLite " * 20)
    with pytest.raises(sqlite3.DatabaseError):
        local_databases.read_registered_models(path)
