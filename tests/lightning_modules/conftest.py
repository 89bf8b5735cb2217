import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent.parent


def set_params(project: Path, **changes) -> None:
    """Change params.yaml; a name's double underscores stand for dots."""
    path = project / "params.yaml"
    params = yaml.safe_load(path.read_text())
    for dotted, value in changes.items():
        *outer, last = dotted.split("__")
        section = params
        for key in outer:
            section = section[key]
        section[last] = value
    path.write_text(yaml.safe_dump(params, sort_keys=False))


def stage(project: Path, module: str, name: str, **popen) -> subprocess.Popen:
    """Start a stage as DVC does."""
    env = {k: v for k, v in os.environ.items() if k != "MLFLOW_TRACKING_URI"}
    return subprocess.Popen(
        [sys.executable, "-m", module, name], cwd=project, env=env, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **popen,
    )  # fmt: skip


def run_stage(project: Path, name: str, module: str = "lightning_modules") -> tuple[int, str]:
    """Run a stage to its end; returns its exit status and all it printed."""
    process = stage(project, module, name)
    output, _ = process.communicate(timeout=900)
    return process.returncode, output


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
    from imageset.digits import write_digits
    from imageset.raw import ingest
    from imageset.sources import open_source

    project = tmp_path_factory.mktemp("digits")
    shutil.copy(ROOT / "params.yaml", project)
    shutil.copy(empty_mlflow_db, project / "mlflow.db")
    write_digits(project / "data" / "digits", project / "data" / "inbox")
    ingest(open_source(str(project / "data" / "digits")), project / "data" / "raw")
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
