"""The registered model where nothing else of us is: MLflow's own commands, and a process of its own."""

import base64
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from lightning_modules.bundle import Bundle
from lightning_modules.inference.stream import score_stream

SCRIPTS = Path(sys.executable).parent

# Refuses every module that no requirement of the model brings, and everything of this tree.
FENCE = """
import importlib.metadata as metadata, sys
from importlib.machinery import PathFinder
from packaging.requirements import Requirement

root, model, *requirements = sys.argv[1:]
sys.path[:] = [entry for entry in sys.path if not entry.startswith(root)] + [
    entry for entry in sys.path if "site-packages" in entry]
sys.meta_path[:] = [finder for finder in sys.meta_path if "editable" not in str(finder)]

def name_of(text): return text.lower().replace("_", "-")

brought, waiting = set(), [Requirement(line) for line in requirements]
while waiting:
    one = waiting.pop()
    if name_of(one.name) in brought or (one.marker and not one.marker.evaluate({"extra": ""})):
        continue
    brought.add(name_of(one.name))
    try:
        waiting += [Requirement(line) for line in metadata.requires(one.name) or ()]
    except metadata.PackageNotFoundError:
        pass
owners = metadata.packages_distributions()

def is_brought(name):
    top = name.partition(".")[0]
    ours = top in ("imageset", "lightning_modules") or top not in owners
    return ours or bool(brought & {name_of(owner) for owner in owners[top]})

class Fence(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return super().find_spec(name, path, target) if is_brought(name) else None

def distribution(name, found=metadata.distribution):
    if name_of(name) not in brought:
        raise metadata.PackageNotFoundError(name)
    return found(name)

metadata.distribution = distribution
sys.meta_path[:] = [Fence if finder is PathFinder else finder for finder in sys.meta_path]
"""
PREDICTS = """
import json, pandas as pd, mlflow
rows = mlflow.pyfunc.load_model(model).predict(pd.read_pickle("input.pickle"))
import imageset, lightning_modules
assert not is_brought("prefect") and "prefect" not in sys.modules
print(json.dumps([imageset.__file__, lightning_modules.__file__]))
print(rows.to_json(orient="records"))
"""


@pytest.fixture(scope="module")
def registry(trained, tmp_path_factory) -> str:
    """The URI of an MLflow store in which the trained model is `digits@champion`."""
    import mlflow

    database = shutil.copy(trained / "mlflow.db", tmp_path_factory.mktemp("registry"))
    uri = f"sqlite:///{database}"
    note = json.loads((trained / "data/models/classifier/run.json").read_text())
    model_id = note["model_uri"].removeprefix("models:/")
    client = mlflow.MlflowClient(uri, uri)
    client.create_registered_model("digits")
    source = client.get_logged_model(model_id).artifact_location
    client.create_model_version("digits", source, note["run_id"], model_id=model_id)
    client.set_registered_model_alias("digits", "champion", "1")
    return uri


@pytest.fixture(scope="module")
def pictures(trained) -> list[Path]:
    return sorted((trained / "data/inbox").iterdir())[:3]


@pytest.fixture(scope="module")
def expected(trained, pictures) -> list[tuple[str, float]]:
    """Return the predictions of our own scoring."""
    bundle = Bundle.load(trained / "data/models/classifier")
    items = ((path, path.read_bytes()) for path in pictures)
    scored = [one.probabilities for one in score_stream(bundle, items, batch_size=8, num_workers=1)]
    return [(bundle.info.classes[row.argmax()], float(row.max())) for row in scored]


def said(rows: list[dict]) -> list[tuple[str, float]]:
    assert [row["error"] for row in rows] == [None] * len(rows)
    return [(row["label"], pytest.approx(row["probability"], abs=1e-5)) for row in rows]


def as_json(column: str, values: list) -> dict:
    return {"dataframe_split": {"columns": [column], "data": [[value] for value in values]}}


def base64_of(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


def environment(uri: str, **more: str) -> dict[str, str]:
    path = f"{SCRIPTS}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "MLFLOW_TRACKING_URI": uri, "MLFLOW_DISABLE_TELEMETRY": "true", "PATH": path, **more}


def test_the_model_needs_nothing_but_its_requirements_and_its_own_code(
    registry, trained, pictures, expected, tmp_path
):
    from tests.helpers.project import ROOT

    note = json.loads((trained / "data/models/classifier/run.json").read_text())
    (folder,) = trained.glob(f"mlartifacts/*/models/{note['model_uri'].removeprefix('models:/')}/artifacts")
    requirements = (folder / "requirements.txt").read_text().split()
    pd.DataFrame({"image": [path.read_bytes() for path in pictures]}).to_pickle(tmp_path / "input.pickle")
    done = subprocess.run(
        [sys.executable, "-I", "-c", FENCE + PREDICTS, str(ROOT), "models:/digits@champion", *requirements],
        cwd=tmp_path, env=environment(registry), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    code, rows = (json.loads(line) for line in done.stdout.splitlines()[-2:])
    assert all(Path(path).is_relative_to(folder) for path in code), code
    assert said(rows) == expected


def test_mlflow_models_predict_takes_picture_bytes(registry, pictures, expected, tmp_path):
    (tmp_path / "in.json").write_text(json.dumps(as_json("image", [base64_of(path) for path in pictures])))
    done = subprocess.run(
        [str(SCRIPTS / "mlflow"), "models", "predict", "-m", "models:/digits@champion", "--env-manager", "local",
         "-i", "in.json", "-o", "out.json", "-t", "json"],
        cwd=tmp_path, env=environment(registry), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert said(json.loads((tmp_path / "out.json").read_text())["predictions"]) == expected


@pytest.fixture(scope="module")
def server(registry, pictures, tmp_path_factory):
    """`mlflow models serve`, allowed to read the inbox; yields a function that posts to it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = tmp_path_factory.mktemp("server") / "log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [str(SCRIPTS / "mlflow"), "models", "serve", "-m", "models:/digits@champion", "--env-manager", "local",
             "--host", "127.0.0.1", "--port", str(port), "--workers", "1"],
            cwd=log.parent, env=environment(registry, CONVOY_PICTURES=str(pictures[0].parent)),
            stdout=file, stderr=file, start_new_session=True,
        )  # fmt: skip
    url = f"http://127.0.0.1:{port}"

    def post(body: dict) -> list[dict]:
        request = urllib.request.Request(
            f"{url}/invocations", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as response:
            return list(json.load(response)["predictions"])

    def ready() -> bool:
        assert process.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(f"{url}/ping", timeout=5) as response:
                return bool(response.status == 200)
        except OSError:
            return False

    try:
        deadline = time.monotonic() + 300
        while not ready():
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)
        yield post
    finally:
        os.killpg(process.pid, 15)
        process.wait(30)


def test_the_server_takes_picture_bytes(server, pictures, expected):
    assert said(server(as_json("image", [base64_of(path) for path in pictures]))) == expected


def test_the_server_takes_arrays(server, pictures, expected):
    pixels = [np.asarray(Image.open(path)).tolist() for path in pictures]
    assert said(server(as_json("pixels", pixels))) == expected
    assert said(server({"inputs": {"pixels": pixels}})) == expected


def test_the_server_reads_paths_only_below_the_folder_it_was_given(server, pictures, expected):
    secret = pictures[0].parent / ".." / ".." / "params.yaml"
    assert said(server(as_json("path", [str(path) for path in pictures]))) == expected
    for path in (str(secret), "/etc/passwd"):
        (row,) = server(as_json("path", [path]))
        assert row["label"] is None and row["error"] == (
            "unreadable: only paths below the folder that CONVOY_PICTURES names are read"
        )


@pytest.fixture
def model(trained):
    import mlflow

    from lightning_modules.tracking.client import connect_to_mlflow

    connect_to_mlflow(trained)
    return mlflow.pyfunc.load_model(
        json.loads((trained / "data/models/classifier/run.json").read_text())["model_uri"]
    )


def test_a_server_that_was_given_no_folder_reads_no_path(model, pictures, monkeypatch):
    monkeypatch.setenv("__pyfunc_model_path__", "set by mlflow models serve")
    (row,) = model.predict(pd.DataFrame({"path": [str(pictures[0])]})).to_dict("records")
    assert row["status"] == "error" and "this server reads no paths" in row["error"]


def test_ones_own_process_reads_any_path(model, pictures, expected):
    rows = model.predict(pd.DataFrame({"path": [str(path) for path in pictures]}))
    assert list(zip(rows["label"], rows["probability"].round(5), strict=True)) == [
        (label, round(probability, 5)) for label, probability in expected
    ]


@pytest.mark.parametrize(
    ("pixels", "said"),
    [
        ([[1, 2], [3]], "differ in length"),
        ([["a", "b"]], "whole numbers from 0 to 255"),
        ([[0, 256]], "whole numbers from 0 to 255"),
        ([[0.5, 1.0]], "whole numbers from 0 to 255"),
        ([1, 2, 3], r"shape \(3,\)"),
        ([], r"shape \(0,\)"),
    ],
)
def test_an_array_that_is_no_picture_is_a_row_with_the_reason(model, pixels, said):
    (row,) = model.predict(pd.DataFrame({"pixels": [pixels]})).to_dict("records")
    assert row["status"] == "error" and row["label"] is None
    assert re.search(said, row["error"])


def test_where_the_model_is_not_sure_enough_it_gives_no_label(trained, pictures, tmp_path):
    from dataclasses import replace
    from types import SimpleNamespace

    from lightning_modules.bundle import save_bundle
    from lightning_modules.inference.pyfunc_model import ServedClassifier

    bundle = Bundle.load(trained / "data/models/classifier")
    save_bundle(tmp_path, replace(bundle.info, abstain_below=1.01), bundle.network)
    served = ServedClassifier()
    served.load_context(SimpleNamespace(artifacts={"bundle": str(tmp_path)}))
    (row,) = served.predict(None, pd.DataFrame({"image": [pictures[0].read_bytes()]})).to_dict("records")
    assert (row["status"], row["label"]) == ("abstained", None) and row["probability"] > 0
