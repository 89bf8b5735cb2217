import shutil
from pathlib import Path

import pytest

from tests.helpers.images import write_digit_images
from tests.helpers.project import copy_params, run_stage, set_params


@pytest.fixture
def one_thread():
    """On a busy machine two threads wait for each other longer than they compute."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def digits_project(tmp_path_factory, empty_mlflow_db) -> Path:
    """A project whose normalized dataset is the handwritten digits; nothing is trained."""
    from imageset.raw.ingestion import ingest_source
    from imageset.sources.benchmark_sets.digits import write_digits
    from imageset.sources.factory import open_source

    project = tmp_path_factory.mktemp("digits")
    copy_params(project)
    shutil.copy(empty_mlflow_db, project / "mlflow.db")
    write_digits(project / "data" / "digits", project / "data" / "inbox")
    ingest_source(open_source(str(project / "data" / "digits")), project / "data" / "raw")
    set_params(project, train__trainer__max_epochs=3, normalize__size_px=16)
    code, output = run_stage(project, "normalize", "imageset")
    assert code == 0, output
    return project


@pytest.fixture(scope="session")
def few_digits_project(tmp_path_factory, empty_mlflow_db) -> Path:
    """As `digits_project`, with 80 digits of each of three classes."""
    from imageset.raw.ingestion import ingest_source
    from imageset.sources.factory import open_source

    project = tmp_path_factory.mktemp("few")
    copy_params(project)
    shutil.copy(empty_mlflow_db, project / "mlflow.db")
    pictures = write_digit_images(project / "digits", num_each=80)
    ingest_source(open_source(str(pictures)), project / "data" / "raw")
    set_params(project, train__trainer__max_epochs=3, normalize__size_px=16)
    code, output = run_stage(project, "normalize", "imageset")
    assert code == 0, output
    return project


@pytest.fixture
def fresh(digits_project, tmp_path) -> Path:
    """A copy of the digits project, to train in."""
    return Path(shutil.copytree(digits_project, tmp_path / "project"))


@pytest.fixture(scope="session")
def trained(digits_project, tmp_path_factory) -> Path:
    """A copy of the digits project that was trained and evaluated once; tests only read it."""
    project = Path(shutil.copytree(digits_project, tmp_path_factory.mktemp("trained") / "project"))
    for name in ("fit", "test"):
        code, output = run_stage(project, name)
        assert code == 0, output
    return project
