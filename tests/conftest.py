import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SHARED = ROOT.parent / "shared"


@pytest.fixture(scope="session")
def empty_mlflow_db(tmp_path_factory) -> Path:
    """A fresh MLflow database; its tables take seconds to make, so tests copy it."""
    from lightning_modules.tracking import connect

    folder = tmp_path_factory.mktemp("mlflow")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        connect(folder)
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


@dataclass(frozen=True)
class Served:
    """A project in which `convoy run` was called once, and what that printed."""

    folder: Path
    pictures: Path
    output: str


def convoy(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Call the real command; stdout and stderr together in `.stdout`."""
    env = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    return subprocess.run(
        [sys.executable, "-m", "flows", *arguments], cwd=folder, env={**env, **environment}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=600, check=False,
    )  # fmt: skip


def make_project(folder: Path) -> Path:
    """A project like a fresh clone: our files, git with one commit, DVC."""
    for name in ("dvc.yaml", "params.yaml", "prefect.yaml", "pyproject.toml", ".gitignore", ".dvcignore"):
        shutil.copy(ROOT / name, folder)
    for name in ("imageset", "lightning_modules", "flows"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    commands = (
        "git init -q",
        f"{sys.executable} -m dvc init -q",
        "git add .",
        "git -c user.name=Test -c user.email=test@localhost commit -q -m all",
    )
    for command in commands:
        subprocess.run(command.split(), cwd=folder, check=True, env={**os.environ, "DVC_NO_ANALYTICS": "1"})
    return folder


def write_pictures(folder: Path, classes: str = "012", num_each: int = 50) -> Path:
    """Handwritten digits as PNG files, one folder a class."""
    from imageset.digits import digit_pictures
    from imageset.png import encode_png

    pixels, labels = digit_pictures()
    for label in classes:
        (folder / label).mkdir(parents=True)
        for number in (labels == int(label)).nonzero()[0][:num_each]:
            (folder / label / f"{number:04d}.png").write_bytes(encode_png(pixels[number]))
    return folder


def write_label_sets(folder: Path, num: int = 700) -> Path:
    """Pictures of 16 x 16 that show none, one or two of the digits 0 to 3 side by side, or a 5, which is no label;
    returns a table whose columns say 0 or 1 of each label."""
    import numpy as np

    from imageset.digits import digit_pictures
    from imageset.png import encode_png

    pixels, labels = digit_pictures()
    draws, names = np.random.default_rng(0), ("zero", "one", "two", "three")
    folder.mkdir(parents=True)
    lines = [f"file,{','.join(names)}"]
    for number in range(num):
        canvas, shown = np.zeros((16, 16), np.uint8), set()
        for left in (0, 8)[: draws.integers(0, 3) or 2]:
            digit = int(draws.choice([0, 1, 2, 3, 5], p=[0.3, 0.2, 0.2, 0.1, 0.2]))
            canvas[4:12, left : left + 8] = pixels[draws.choice(np.flatnonzero(labels == digit))]
            shown.add(digit)
        canvas += draws.integers(0, 8, canvas.shape, np.uint8) * (canvas < 200)  # no two are the same
        (folder / f"{number:04d}.png").write_bytes(encode_png(canvas))
        lines.append(f"{number:04d}.png,{','.join('01'[digit in shown] for digit in range(4))}")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    return folder / "labels.csv"


@pytest.fixture(scope="session")
def served_labels(tmp_path_factory, prefect_server, empty_mlflow_db) -> Served:
    """As `served`, with pictures that bear several labels: a table, `convoy run`, all of it."""
    folder = make_project(tmp_path_factory.mktemp("labels"))
    shutil.copy(empty_mlflow_db, folder / "mlflow.db")
    params = (folder / "params.yaml").read_text()
    changes = {"max_epochs: 15": "max_epochs: 10", "near_duplicate_bits: 4": "near_duplicate_bits: null",
               "size_px: auto": "size_px: 16", "batch_size: 64": "batch_size: 32",
               "resamples: 1000": "resamples: 200", "steps: 48": "steps: 8"}  # fmt: skip
    for one, other in changes.items():
        params = params.replace(one, other)
    (folder / "params.yaml").write_text(params)
    table = write_label_sets(tmp_path_factory.mktemp("source") / "pairs")
    done = convoy(folder, "run", f"{table}?labels=zero,one,two,three", PREFECT_API_URL=prefect_server)
    assert done.returncode == 0, done.stdout
    return Served(folder, table.parent, done.stdout)


@pytest.fixture(scope="session")
def served(tmp_path_factory, prefect_server, empty_mlflow_db) -> Served:
    """A project that has ingested, trained and promoted; tests copy it or only read it."""
    folder = make_project(tmp_path_factory.mktemp("served"))
    shutil.copy(empty_mlflow_db, folder / "mlflow.db")
    params = (folder / "params.yaml").read_text()
    (folder / "params.yaml").write_text(params.replace("max_epochs: 15", "max_epochs: 3"))
    pictures = write_pictures(tmp_path_factory.mktemp("source") / "digits-few")
    done = convoy(folder, "run", str(pictures), PREFECT_API_URL=prefect_server)
    assert done.returncode == 0, done.stdout
    return Served(folder, pictures, done.stdout)
