import json
import re
import shutil

import numpy as np
import pytest
from torch import nn

from flows.cli.main import main
from imageset.decoding.spec import DecodeSpec
from lightning_modules.bundle import Bundle, BundleInfo
from lightning_modules.explain.params import ComputeBudget, ExplainParams
from lightning_modules.explain.stage import explain_image
from lightning_modules.networks.lenet import LeNet5
from lightning_modules.tracking.client import connect_to_mlflow
from tests.helpers.project import run_stage, set_params

SMALL = {
    "bundle": "b", "store": "s", "seed": 0, "layers": 12, "maps": 16, "filters": 2, "steps": 8, "answers": 2,
    "shifted": 4, "windows": 4, "budget_gmacs": 1000,
}  # fmt: skip


def test_a_large_network_gets_less_and_never_nothing():
    wanted = ComputeBudget.from_params(SMALL)
    assert wanted.fit_to_budget(10**6, 10**6, 1e12) == wanted
    assert wanted.example_windows == wanted.windows == 4 and wanted.searched == 512
    less = wanted.fit_to_budget(15 * 10**9, 3 * 10**9, 1e12)
    assert less.steps <= wanted.steps and less.filters >= 1 and less.windows >= 2 and less.shifted >= 1
    assert wanted.fit_to_budget(10**12, 10**12, 1e9).steps == 0


@pytest.mark.parametrize(("macs", "passes"), [(10**7, 1), (4 * 10**8, 2), (4 * 10**9, 1)])
def test_the_work_on_a_page_stays_within_its_budget(macs, passes):
    wanted = dict.fromkeys(("layers", "maps", "filters", "steps", "answers", "shifted", "windows"), 64)
    fitted = ComputeBudget.from_params({**SMALL, **wanted}).fit_to_budget(macs, macs // 5, 5e11, passes)
    work = 3 * 3 * fitted.filters * fitted.steps * (macs // 5)  # three layers; forward and back
    work += fitted.searched * macs
    work += passes * macs * 4 * 5 * fitted.shifted
    work += passes * macs * (fitted.windows**2 + 2 * fitted.answers * fitted.example_windows**2)
    assert 1e11 < work <= 5e11


@pytest.fixture(scope="session")
def explained(trained, tmp_path_factory):
    """A copy of the trained project with its page; what the stage printed."""
    project = shutil.copytree(trained, tmp_path_factory.mktemp("explained") / "project")
    set_params(project, explain__steps=8, explain__filters=2)
    code, output = run_stage(project, "explain")
    assert code == 0, output
    return project, output


def test_the_page_shows_every_part_and_loads_nothing_from_elsewhere(explained):
    project, output = explained
    html = (project / "data/models/report/what_the_network_sees.html").read_text()
    for part in ("A picture is numbers", "One convolution, worked out", "softmax",
                 "after ReLU (rectified): 32 maps of 16 x 16",
                 "after pooling (maximum): 32 maps of 8 x 8", "What excites a filter", "Grad-CAM", "occlusion",
                 "Translation", "right answers", "wrong answers", "How it learned",
                 "The layers of this network", "fully connected", "nine random patches"):  # fmt: skip
        assert part in html, part
    assert re.findall(r"(?:src|href)=\"(?!data:)", html) == [] and "<script" not in html and "url(" not in html
    assert 'name="viewport"' in html and "prefers-color-scheme:dark" in html
    assert "of the predictions stay the same" in output


def test_the_page_and_its_pictures_are_in_the_run(explained):
    project, _ = explained
    note = json.loads((project / "data/models/classifier/run.json").read_text())
    client = connect_to_mlflow(project)
    assert "report/what_the_network_sees.html" in [f.path for f in client.list_artifacts(note["run_id"], "report")]
    logged = {file.path.rpartition("/")[2] for file in client.list_artifacts(note["run_id"], "report/sees")}
    assert {"first_filters.png", "grad_cam.png", "occlusion.png", "shift.png", "shift.csv"} <= logged
    assert 0 < client.get_run(note["run_id"]).data.metrics["shift_consistency"] <= 1


def test_the_same_model_gives_the_same_page(trained):
    bundle = Bundle.load(trained / "data/models/classifier")
    image = np.random.default_rng(0).integers(0, 256, (16, 16, 1), dtype=np.uint8)
    first, second = (explain_image(bundle, image, "<u>.png", "a model", SMALL) for _ in range(2))
    assert b"&lt;u&gt;.png, seen by a model" in first[0] and b"<u>" not in first[0]
    assert first == second and set(SMALL) == set(ExplainParams.model_fields)


@pytest.mark.parametrize(
    ("network", "shown", "not_shown"),
    [
        (nn.Sequential(nn.Flatten(), nn.Linear(768, 3)), ["fixed size", "Occlusion"], ["Grad-CAM", "worked out"]),
        (nn.Sequential(nn.Conv2d(3, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)),
         ["no more weights", "Grad-CAM", "worked out"], ["filters of the first layer", "NaN", "nan"]),
        (nn.Sequential(nn.Conv2d(3, 4, 16, 16), nn.Flatten(), nn.Linear(4, 3)), ["fixed size"], ["in numbers"]),
        (LeNet5(3, 3), ["after activation (tanh)", "after pooling (subsampling)"], ["ReLU"]),
    ],
)  # fmt: skip
def test_any_network_has_a_page(network, shown, not_shown):
    spec = DecodeSpec(16, 3, "crop", "bilinear", 10**6)
    info = BundleInfo({"class_path": "mine.Network", "init_args": {}}, ("a", "b", "c"), spec.to_dict(),
                      (0.5,) * 3, (0.25,) * 3, {"name": "any"}, {}, 1.0, (0.5, 0.5, 0.5))  # fmt: skip
    image = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    html, (label, _) = explain_image(Bundle(info, network.eval(), ""), image, "x.png", "a model", SMALL)
    text = html[html.index(b"</style>") :].decode()
    words = re.sub(r"data:[^\"]*", "", text)
    assert all(word in words for word in shown) and not any(word in words for word in not_shown)
    assert "sigmoid" in words and set(label.split("|")) <= {"a", "b", "c", ""}


def test_a_project_that_was_not_evaluated_is_told_what_to_run(trained, tmp_path, monkeypatch, capsys):
    from lightning_modules.__main__ import main as stage

    project = shutil.copytree(trained, tmp_path / "project")
    (project / "data/models/report/predictions.csv").unlink()
    monkeypatch.chdir(project)
    assert stage(["explain"]) == 2
    assert re.search(
        r"error: .*predictions\.csv: No such file or directory; run `dvc repro`", capsys.readouterr().err
    )


def test_convoy_explains_one_picture(trained, tmp_path, monkeypatch, capsys):
    project = shutil.copytree(trained, tmp_path / "project")
    (project / "dvc.yaml").write_text("{}\n")
    set_params(project, explain__steps=8)
    monkeypatch.chdir(project)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    run_id = json.loads((project / "data/models/classifier/run.json").read_text())["run_id"]
    for arguments, model in (([], "the model in data/models/classifier"), (["--run", run_id], f"run {run_id}")):
        assert main(["explain", "data/digits/7/0007.png", "--out", "page.html", *arguments]) == 0
        assert capsys.readouterr().out.startswith(f"explain: {model} predicts 7 (")
        assert "Where it looked" in (project / "page.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere.png"], "nowhere.png: no such file"),
        (["params.yaml"], "params.yaml: not_an_image"),
        (["digit.png", "--out", "page.txt"], "page.txt: give a file name that ends in .html"),
        (["digit.png", "--out", "no/page.html"], "no: no such folder"),
        (["digit.png", "--run", "0" * 32], "MLflow has no run"),
        (["digit.png"], "data/models/classifier: no model yet; train one with `convoy run FOLDER`"),
    ],
)
def test_what_cannot_be_explained_is_one_line_and_nothing_is_written(
    project, trained, monkeypatch, arguments, said, capsys
):
    (project / "dvc.yaml").write_text("{}\n")
    shutil.copy(trained / "params.yaml", project)
    shutil.copy(trained / "data/digits/7/0007.png", project / "digit.png")
    monkeypatch.chdir(project)
    assert main(["explain", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ") and captured.err.count("\n") == 1 and said in captured.err
    assert list(project.rglob("*.html")) == []
