import os
import resource
import shutil
import signal
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from multiprocessing import get_context
from pathlib import Path

import pytest

from imageset.exceptions import UserError
from lightning_modules.tracking.client import connect_to_mlflow, ensure_experiment
from lightning_modules.tracking.local_store import migration
from lightning_modules.tracking.local_store.migration import is_current, prepare_database

REFUSED = 3  # exit status of a child
KILLS = [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT]


def run_child(target: Callable[..., None], *arguments: object) -> int:
    child = get_context("fork").Process(target=target, args=arguments)
    child.start()
    child.join(120)
    return child.exitcode


def die_at(number: int, sign: int, function: Callable[..., None], *arguments: object) -> None:
    """Call a function in a process that is killed before its SQL statement of this number."""
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    count = 0

    @event.listens_for(Engine, "before_cursor_execute")
    def count_statements(*_: object) -> None:
        nonlocal count
        count += 1
        if count == number:
            os.kill(os.getpid(), sign)

    function(*arguments)


def make_tables_in_place(database: Path, revision: str = "heads") -> None:
    """Make the tables as MLflow does, up to a revision."""
    import mlflow
    from alembic import command
    from alembic.config import Config
    from mlflow.store.tracking.dbmodels.initial_models import Base
    from sqlalchemy import create_engine

    uri = f"sqlite:///{database}"
    engine = create_engine(uri)
    Base.metadata.create_all(engine)
    engine.dispose()
    config = Config()
    config.set_main_option("script_location", str(Path(mlflow.__file__).parent / "store" / "db_migrations"))
    config.set_main_option("sqlalchemy.url", uri)
    command.upgrade(config, revision)


def use(project: Path) -> None:
    client = connect_to_mlflow(project)
    client.create_run(ensure_experiment(client, "flowers", project))


def list_files(project: Path) -> list[str]:
    return sorted(path.name for path in project.iterdir() if path.name not in (".cache", "mlartifacts"))


def edit(database: Path, statement: str) -> None:
    with closing(sqlite3.connect(database)) as connection:
        connection.execute(statement)
        connection.commit()


@pytest.fixture(autouse=True)
def own_store(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


LONG = pytest.mark.long  # making the tables takes some seconds


@pytest.mark.parametrize(
    ("number", "sign"),
    [
        (90, signal.SIGKILL),
        *(pytest.param(3 + 60 * place, sign, marks=LONG) for place, sign in enumerate(4 * KILLS)),
    ],
)
def test_a_process_that_is_killed_while_it_makes_the_file_leaves_none_and_the_next_makes_it(
    tmp_path, number, sign
):
    run_child(die_at, number, sign, prepare_database, tmp_path / "mlflow.db")
    assert not (tmp_path / "mlflow.db").exists()
    use(tmp_path)
    assert list_files(tmp_path) == ["mlflow.db"] and is_current(tmp_path / "mlflow.db")


@pytest.mark.parametrize("number", [60, pytest.param(300, marks=LONG)])
def test_a_half_made_file_of_an_earlier_convoy_is_made_anew_and_kept(tmp_path, capsys, number):
    database = tmp_path / "mlflow.db"
    assert run_child(die_at, number, signal.SIGKILL, make_tables_in_place, database) == -signal.SIGKILL
    size = database.stat().st_size
    use(tmp_path)
    assert list_files(tmp_path) == ["mlflow.db", "mlflow.db.incomplete"]
    assert (tmp_path / "mlflow.db.incomplete").stat().st_size == size
    said = capsys.readouterr().err
    assert said.startswith(f"mlflow: {database} was incomplete and held no runs") and said.count("\n") == 1


def test_half_migrated_runs_are_left_as_they_are_and_the_line_says_what_to_do(project):
    run_child(use, project)  # MLflow keeps a file open that a process has used
    edit(project / "mlflow.db", "UPDATE alembic_version SET version_num = '451aebb31d03'")
    before = (project / "mlflow.db").read_bytes()
    with pytest.raises(UserError, match="holds runs or models, and cannot be migrated") as caught:
        connect_to_mlflow(project)
    assert (project / "mlflow.db").read_bytes() == before and list_files(project) == ["mlflow.db"]
    os.system(str(caught.value).split("`")[1])  # the command that the line gives
    use(project)
    assert list_files(project) == ["mlflow.db", "mlflow.db.damaged"]


def test_runs_of_an_earlier_mlflow_are_migrated_and_the_former_file_is_kept(tmp_path, capsys):
    database = tmp_path / "mlflow.db"
    make_tables_in_place(database, "451aebb31d03")
    edit(database, "INSERT INTO experiments (experiment_id, name, lifecycle_stage) VALUES (7, 'old', 'active')")
    client = connect_to_mlflow(tmp_path)
    assert client.get_experiment("7").name == "old"
    head, _ = migration.find_revisions()
    assert list_files(tmp_path) == ["mlflow.db", f"mlflow.db.before-{head}"]
    assert "the former file is mlflow.db.before-" in capsys.readouterr().err


def test_a_file_of_a_later_mlflow_and_one_that_is_damaged_are_one_line_each(project):
    run_child(use, project)
    edit(project / "mlflow.db", "UPDATE alembic_version SET version_num = 'f00'")
    with pytest.raises(UserError, match="is of a later MLflow than the installed one"):
        connect_to_mlflow(project)
    (project / "mlflow.db").write_bytes(b"no database" * 1000)
    with pytest.raises(UserError, match=r"is damaged \(file is not a database\); restore it from a backup"):
        connect_to_mlflow(project)


def test_a_file_of_another_program_is_left_as_it_is(tmp_path):
    edit(tmp_path / "mlflow.db", "CREATE TABLE customers (name)")
    before = (tmp_path / "mlflow.db").read_bytes()
    with pytest.raises(UserError, match="is the file of another program; set MLFLOW_TRACKING_URI"):
        connect_to_mlflow(tmp_path)
    assert (tmp_path / "mlflow.db").read_bytes() == before and list_files(tmp_path) == ["mlflow.db"]


def fill_disk(project: Path, num_bytes: int) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, num_bytes))
    try:
        prepare_database(project / "mlflow.db")
    except UserError as error:
        os._exit(REFUSED if "cannot be made (d" in str(error) else 1)


@pytest.mark.parametrize("num_bytes", [pytest.param(4096, marks=LONG), 300_000])
def test_a_full_disk_leaves_nothing_and_is_one_line(tmp_path, num_bytes):
    assert run_child(fill_disk, tmp_path, num_bytes) == REFUSED
    assert list_files(tmp_path) == []


@LONG
def test_processes_that_begin_at_once_make_one_file(tmp_path):
    children = [get_context("fork").Process(target=use, args=(tmp_path,)) for _ in range(3)]
    for child in children:
        child.start()
    for child in children:
        child.join(120)
    assert [child.exitcode for child in children] == [0, 0, 0]
    client = connect_to_mlflow(tmp_path)
    assert len(client.search_runs([ensure_experiment(client, "flowers", tmp_path)])) == 3


def test_the_journal_of_a_file_that_was_removed_is_not_applied_to_the_new_one(tmp_path, empty_mlflow_db):
    shutil.copy(empty_mlflow_db, tmp_path / "mlflow.db")
    code = "PRAGMA cache_size = 1; BEGIN; CREATE TABLE big AS SELECT randomblob(100000) FROM experiments;"
    child = get_context("fork").Process(target=_write_and_die, args=(tmp_path / "mlflow.db", code))
    child.start()
    child.join()
    assert (tmp_path / "mlflow.db-journal").stat().st_size > 0
    (tmp_path / "mlflow.db").unlink()
    use(tmp_path)
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def _write_and_die(database: Path, statements: str) -> None:
    connection = sqlite3.connect(database, isolation_level=None)
    for statement in statements.split(";"):
        connection.execute(statement)
    connection.executemany(
        "INSERT INTO tags VALUES (?, ?, ?)", [("k" * 200, "v" * 2000, str(n)) for n in range(99)]
    )
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_file_that_another_process_is_making_is_waited_for(tmp_path, monkeypatch):
    database = tmp_path / "mlflow.db"
    shutil.copy(_make_half(tmp_path), database)
    monkeypatch.setattr(migration, "TIMEOUT_S", 0.2)
    child = get_context("fork").Process(target=_hold_open, args=(database,))
    child.start()
    while not (tmp_path / "held").exists():
        time.sleep(0.01)
    with pytest.raises(UserError, match=rf"\(process {child.pid}\) uses it"):
        prepare_database(database)
    child.kill()
    child.join()
    prepare_database(database)
    assert is_current(database)


def _make_half(folder: Path) -> Path:
    half = folder / "half"
    make_tables_in_place(half, "451aebb31d03")
    return half


def _hold_open(database: Path) -> None:
    with database.open("rb"):
        (database.parent / "held").touch()
        time.sleep(600)
