"""A project whose network, and a callback, are its own code: trained, served, edited, verified.

The project is one of an installed Convoy, and it has folders of its own called `flows` and `imageset`.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from flows.cli.init import init_project
from flows.versioning.git_repo import run_git
from imageset.distribution import get_version
from tests.helpers.images import write_digit_images
from tests.helpers.project import ROOT, ServedProject, copy_params, set_params

pytestmark = pytest.mark.long  # `make projects`

NET = """\
from torch import nn
from blocks.convolution import make_convolution

class Tiny(nn.Module):
    def __init__(self, in_channels: int, num_classes: int, width: int = 4):
        super().__init__()
        self.convolution = make_convolution(in_channels, width)
        self.head = nn.Linear(width, num_classes)

    def forward(self, images):
        from torch.nn import functional as F
        return self.head(F.relu(self.convolution(images)).mean((2, 3)))
"""
CONVOLUTION = """\
from torch import nn

def make_convolution(in_channels, width):
    return nn.Conv2d(in_channels, width, 3, padding=1)
"""
CALLBACK = "from pytorch_lightning.callbacks import Callback\nclass Quiet(Callback): ...\n"
SHADOW = "raise RuntimeError('a folder of the user')\n"
FILES = {"mynet.py": NET, "blocks/convolution.py": CONVOLUTION, "watch.py": CALLBACK, "unrelated.py": "",
         "flows/__init__.py": SHADOW, "imageset/__init__.py": SHADOW}  # fmt: skip
OWN_LINES = [f"      - {name}  # class_path\n" for name in ("blocks/convolution.py", "mynet.py", "watch.py")]
LOAD = """\
import sys, mlflow, pandas
mlflow.set_tracking_uri(sys.argv[1])
model = mlflow.pyfunc.load_model("models:/digits-few/1")
images = pandas.DataFrame({"image": [open(path, "rb").read() for path in sys.argv[2:]]})
print(model.predict(images)["probability"].tolist())
"""


def run(folder: Path, *arguments: str, path: Path | None = ROOT, **environment: str):
    """Run Python without the current folder on its path, as the command `convoy` does."""
    env = {name: value for name, value in os.environ.items() if name not in ("MLFLOW_TRACKING_URI", "PYTHONPATH")}
    env |= {"PYTHONPATH": str(path)} if path else {}
    return subprocess.run(
        [sys.executable, "-P", *arguments], cwd=folder, env={**env, **environment}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=900, check=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def own(tmp_path_factory, prefect_server, empty_mlflow_db) -> ServedProject:
    """The project after `convoy run`; tests copy it or only read it."""
    folder = tmp_path_factory.mktemp("own")
    init_project(folder, "digits-few")
    copy_params(folder)
    set_params(
        folder, convoy={"version": get_version()}, train__trainer__max_epochs=2, normalize__size_px=16,
        train__trainer__callbacks=["watch.Quiet"], evaluate__bootstrap__resamples=200, explain__steps=4,
        train__model__network={"class_path": "mynet.Tiny", "init_args": {"width": 4}}, explain__budget_gmacs=10,
    )  # fmt: skip
    for name, text in FILES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    shutil.copy(empty_mlflow_db, folder / "mlflow.db")
    run_git(folder, "add", ".")
    run_git(folder, "-c", "user.name=Test", "-c", "user.email=test@localhost", "commit", "-q", "-m", "all")
    pictures = write_digit_images(tmp_path_factory.mktemp("source") / "digits-few")
    output = ""
    for command in (["run", str(pictures)], ["promote", "--override", "its code is tested, not its accuracy"]):
        done = run(folder, "-m", "flows", *command, PREFECT_API_URL=prefect_server)
        assert done.returncode == 0, done.stdout
        output += done.stdout
    return ServedProject(folder, pictures, output)


@pytest.fixture
def copy(own, tmp_path) -> Path:
    folder = tmp_path / "project"
    return Path(shutil.copytree(own.folder, folder, ignore=shutil.ignore_patterns("mlartifacts", ".cache")))


def dry_run(folder: Path) -> str:
    return run(folder, "-m", "dvc", "repro", "--dry", "train").stdout


SKIPPED, RUNS = "Stage 'train' didn't change, skipping", "Running stage 'train':"


def test_the_run_lists_the_modules_and_keeps_the_networks_in_the_bundle(own):
    assert "dvc.yaml: train now depends on blocks/convolution.py, mynet.py, watch.py" in own.output
    assert "digits-few version 1 serves" in own.output
    assert "".join(OWN_LINES) in (own.folder / "dvc.yaml").read_text()
    bundle = own.folder / "data/models/classifier"
    kept = {path.relative_to(bundle).as_posix() for path in bundle.rglob("*.py")}
    assert kept == {"code/mynet.py", "code/blocks/convolution.py"}


@pytest.mark.parametrize(
    ("name", "outcome"),
    [("mynet.py", RUNS), ("blocks/convolution.py", RUNS), ("watch.py", RUNS), ("unrelated.py", SKIPPED)],
)
def test_editing_a_module_that_the_training_needs_trains_again_and_no_other(copy, name, outcome):
    assert SKIPPED in dry_run(copy)
    with (copy / name).open("a") as file:
        file.write("x = 1\n")
    assert outcome in dry_run(copy)


def test_a_module_that_is_imported_since_is_listed_by_dvc_repro_too(copy):
    (copy / "mynet.py").write_text(f"import more\n{NET}")
    (copy / "more.py").write_text("")
    done = run(copy, "-m", "dvc", "repro", "train")
    assert "error: dvc.yaml: train now depends on more.py" in done.stdout and "Traceback" not in done.stdout
    assert done.returncode != 0
    assert "      - more.py  # class_path\n      - mynet.py  # class_path\n" in (copy / "dvc.yaml").read_text()


def test_the_champion_predicts_the_same_after_its_module_was_edited(own, prefect_server, tmp_path):
    module, table = own.folder / "mynet.py", tmp_path / "table.parquet"
    module.write_text(SHADOW)
    try:
        words = ("predict", str(own.pictures), "--out", str(table), "--engine", "pytorch")
        done = run(own.folder, "-m", "flows", *words, PREFECT_API_URL=prefect_server)
    finally:
        module.write_text(NET)
    assert done.returncode == 0, done.stdout
    rows = pq.read_table(table).select(["uri", "probability", "status"]).to_pylist()
    assert {row["status"] for row in rows} == {"ok"}

    paths = [str(own.pictures / row["uri"]) for row in rows[:3]]
    store = f"sqlite:///{own.folder / 'mlflow.db'}"
    loaded = run(tmp_path, "-c", LOAD, store, *paths, path=None)  # with the code in the model, nothing of ours
    assert loaded.returncode == 0, loaded.stdout
    probabilities = json.loads(loaded.stdout.splitlines()[-1])
    assert probabilities == pytest.approx([row["probability"] for row in rows[:3]], abs=1e-6)


def test_a_run_with_modules_of_the_project_is_reproduced(own):
    run_id = json.loads((own.folder / "data/models/classifier/run.json").read_text())["run_id"]
    done = run(own.folder, "-m", "flows", "verify", run_id)
    assert done.returncode == 0, done.stdout
    assert "metrics agree to the last digit, the same weights" in done.stdout
