from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.register_assert_rewrite("tests.helpers")  # before the first of them is imported

from tests.helpers.images import write_digit_images, write_multilabel_images  # noqa: E402
from tests.helpers.project import ServedProject, make_project, run_convoy  # noqa: E402
from tests.helpers.servers import DASK_SETTINGS  # noqa: E402
from tests.helpers.skips import register_skip_reporter  # noqa: E402


def pytest_configure(config: pytest.Config) -> None:
    """Start MLflow's servers without their workers for jobs of generative AI: eight processes each."""
    os.environ.setdefault("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")
    register_skip_reporter(config)


@pytest.fixture(scope="session")
def empty_mlflow_db(tmp_path_factory) -> Path:
    """A fresh MLflow database; its tables take seconds to make, so tests copy it, and `make mutants` keeps it."""
    from lightning_modules.tracking.client import connect_to_mlflow

    kept = Path(os.environ.get("CONVOY_EMPTY_MLFLOW_DB", os.devnull))
    if kept.is_file():
        return kept
    folder = tmp_path_factory.mktemp("mlflow")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        connect_to_mlflow(folder)
    if kept.name != Path(os.devnull).name:
        shutil.copy(folder / "mlflow.db", kept)
    return folder / "mlflow.db"


@pytest.fixture
def project(tmp_path, monkeypatch, empty_mlflow_db) -> Path:
    """An empty project with an MLflow store of its own."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copy(empty_mlflow_db, tmp_path / "mlflow.db")
    return tmp_path


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[str]:
    """One Prefect server for all tests; yields the address of its API. Its start takes half a minute."""
    os.environ.update(
        DO_NOT_TRACK="1",
        PREFECT_SERVER_ANALYTICS_ENABLED="false",
        PREFECT_LOGGING_EXTRA_LOGGERS="flows",
        PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW="ignore",
    )
    from prefect.settings import PREFECT_API_URL
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=120):
        yield str(PREFECT_API_URL.value())


@pytest.fixture(scope="session")
def served_labels(tmp_path_factory, prefect_server, empty_mlflow_db) -> ServedProject:
    """As `served`, with pictures that bear several labels: a table, `convoy run`, all of it."""
    folder = make_project(tmp_path_factory.mktemp("labels"), "labels")
    shutil.copy(empty_mlflow_db, folder / "mlflow.db")
    params = (folder / "params.yaml").read_text()
    changes = {"max_epochs: 15": "max_epochs: 10", "near_duplicate_bits: 4": "near_duplicate_bits: null",
               "size_px: auto": "size_px: 16", "batch_size: 64": "batch_size: 32",
               "resamples: 1000": "resamples: 200", "steps: 48": "steps: 8"}  # fmt: skip
    for one, other in changes.items():
        params = params.replace(one, other)
    (folder / "params.yaml").write_text(params)
    table = write_multilabel_images(tmp_path_factory.mktemp("source") / "pairs")
    done = run_convoy(folder, "run", f"{table}?labels=zero,one,two,three", PREFECT_API_URL=prefect_server)
    assert done.returncode == 0, done.stdout
    return ServedProject(folder, table.parent, done.stdout)


@pytest.fixture(scope="session")
def served(tmp_path_factory, prefect_server, empty_mlflow_db) -> ServedProject:
    """A project that has ingested, trained and promoted; tests copy it or only read it."""
    folder = make_project(tmp_path_factory.mktemp("served"))
    shutil.copy(empty_mlflow_db, folder / "mlflow.db")
    params = (folder / "params.yaml").read_text()
    (folder / "params.yaml").write_text(params.replace("max_epochs: 15", "max_epochs: 3"))
    pictures = write_digit_images(tmp_path_factory.mktemp("source") / "digits-few")
    done = run_convoy(folder, "run", str(pictures), PREFECT_API_URL=prefect_server)
    assert done.returncode == 0, done.stdout
    return ServedProject(folder, pictures, done.stdout)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """HOST:PORT of a scheduler with two workers, each with a nanny that starts it again."""
    folder = tmp_path_factory.mktemp("dask")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    module, port = [sys.executable, "-m"], address.rpartition(":")[2]
    scheduler = [*module, "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", port]
    worker = [*module, "distributed.cli.dask_worker", f"tcp://{address}", "--nworkers", "1", "--nthreads", "1"]
    commands = [[*command, "--no-dashboard"] for command in (scheduler, worker, worker)]
    log = (folder / "log.txt").open("wb")
    processes = [
        subprocess.Popen(
            command,
            env={**os.environ, **DASK_SETTINGS},
            cwd=folder,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        for command in commands
    ]
    try:
        yield address
    finally:
        for process in reversed(processes):
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        log.close()
