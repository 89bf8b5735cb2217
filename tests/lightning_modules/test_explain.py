import json
import re
import shutil

import numpy as np
import pytest
import torch
from torch import nn

from flows.__main__ import main
from lightning_modules import layers
from lightning_modules.attribution import distances, grad_cam, occlusion, shift_curve, shifted
from lightning_modules.bundle import Bundle
from lightning_modules.classifier import Normalize
from lightning_modules.excite import excite
from lightning_modules.explain import KNOWN, Effort, Eye, explain_picture
from lightning_modules.networks import ConvNet, LeNet5, TorchvisionNet
from lightning_modules.tracking import connect
from tests.lightning_modules.conftest import run_stage, set_params

CONVNET = {
    "filters": [4, 8], "kernel_size": 3, "stride": 1, "padding": 1, "pool": "max", "pool_window": 2, "grid": 4,
    "hidden": [], "dropout": 0.0, "batch_norm": True,
}  # fmt: skip
SMALL = {
    "bundle": "b", "store": "s", "seed": 0, "layers": 12, "maps": 16, "filters": 2, "steps": 8, "answers": 2,
    "shifted": 4, "windows": 4, "budget_gmacs": 1000,
}  # fmt: skip


class TopLeft(nn.Module):
    """A network that must look at one corner: class 1 where the top left quarter is bright, else class 0."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 3, padding=1)
        nn.init.constant_(self.conv.weight, 1 / 9)
        nn.init.zeros_(self.conv.bias)

    def forward(self, x):
        corner = torch.relu(self.conv(x))[:, :, :8, :8].mean(dim=(1, 2, 3))
        return torch.stack([torch.zeros_like(corner), 10 * corner - 2], dim=1)


@pytest.fixture
def bright():
    """A picture 1 x 1 x 16 x 16 that is bright all over."""
    return torch.ones(1, 1, 16, 16)


class Stripes(nn.Module):
    """Class 0: standing stripes, class 1: lying stripes, wherever they are."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3, padding=1, bias=False, padding_mode="replicate")
        standing = torch.tensor([[-1.0, 0, 1], [-1, 0, 1], [-1, 0, 1]])
        self.conv.weight.data = torch.stack([standing, standing.T])[:, None]

    def forward(self, x):
        return torch.relu(self.conv(x)).mean(dim=(2, 3))


@pytest.mark.parametrize(("target", "rows"), [(0, slice(0, 8)), (1, slice(8, 16))])
def test_grad_cam_finds_the_half_that_the_network_must_look_at(target, rows):
    picture = torch.zeros(1, 1, 16, 16)
    picture[..., :8, 0::4] = picture[..., :8, 1::4] = 1  # standing stripes above
    picture[..., 8::4, :] = picture[..., 9::4, :] = 1  # lying ones below
    network = Stripes().eval()
    (heat,) = grad_cam(network, network.conv, picture, torch.tensor([target]))
    assert heat.shape == (16, 16) and heat.max() == 1
    assert heat[rows].sum() > 0.8 * heat.sum()


def test_occlusion_finds_the_corner_too(bright):
    network = TopLeft().eval()
    with torch.no_grad():
        lost = occlusion(lambda x: network(x).softmax(1), bright, 1, windows=4, at_once=8)
    assert lost.shape == (16, 16)
    assert lost[:8, :8].min() > 0.01
    assert max(abs(lost[12:]).max(), abs(lost[:, 12:]).max()) < 0.02 * lost.max()


def test_a_filter_for_vertical_edges_is_excited_by_vertical_stripes():
    network = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1))
    network[0].weight.data = torch.tensor([[[[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]]]])
    (image,) = excite(network, network[0], [0], (1, 16, 16), Normalize([0.5], [0.25]), 40, 0)
    pixels = image[2:-2, 2:-2, 0].astype(float)
    assert pixels.std(axis=1).mean() > 1.5 * pixels.std(axis=0).mean()


def test_what_excites_a_filter_is_the_same_each_time():
    network = ConvNet(1, 3, **CONVNET).eval()
    first, second, other = (
        excite(network, network.features[4], [0, 5], (1, 16, 16), Normalize([0.5], [0.25]), 5, seed)
        for seed in (0, 0, 1)
    )
    assert (first == second).all() and (first != other).any()


def test_moved_pictures_keep_their_edge():
    image = np.arange(9, dtype=np.uint8).reshape(1, 3, 3, 1)
    assert shifted(image, 0, 1)[0, ..., 0].tolist() == [[0, 0, 1], [3, 3, 4], [6, 6, 7]]
    assert shifted(image, -1, 0)[0, ..., 0].tolist() == [[3, 4, 5], [6, 7, 8], [6, 7, 8]]


def test_a_network_that_only_counts_light_keeps_all_of_its_probability():
    images = np.zeros((2, 20, 20, 1), np.uint8)
    images[:, 8:12, 8:12] = 255

    def by_light(x):
        share = x.mean(axis=(1, 2, 3)) / 255
        return np.stack([share, 1 - share], axis=1)

    def by_place(x):
        share = 0.4 + 0.6 * (x[:, 9:11, 9:11].mean(axis=(1, 2, 3)) / 255)
        return np.stack([share, 1 - share], axis=1)

    assert shift_curve(by_light, images, distances(20, 4)).kept == pytest.approx(1)
    assert shift_curve(by_place, images, distances(20, 4)).kept < 0.95


def test_the_steps_of_a_convnet_are_convolution_relu_pooling_with_their_sizes():
    traced = layers.trace(ConvNet(1, 3, **CONVNET).eval(), torch.randn(1, 1, 16, 16))
    assert [(step.kind, tuple(step.maps.shape)) for step in traced.steps] == [
        ("convolution", (4, 16, 16)), ("activation", (4, 16, 16)), ("pooling", (4, 8, 8)),
        ("convolution", (8, 8, 8)), ("activation", (8, 8, 8)), ("pooling", (8, 4, 4)),
    ]  # fmt: skip
    assert traced.macs == 9 * 4 * 256 + 9 * 4 * 8 * 64 + 128 * 3
    assert (traced.steps[1].maps >= 0).all() and (traced.steps[0].maps < 0).any()


def test_lenets_own_layers_are_steps_as_a_whole():
    traced = layers.trace(LeNet5(1, 10).eval(), torch.randn(1, 1, 32, 32))
    assert [(step.kind, tuple(step.maps.shape)) for step in traced.steps] == [
        ("convolution", (6, 28, 28)), ("activation", (6, 28, 28)), ("pooling", (6, 14, 14)),
        ("activation", (6, 14, 14)), ("convolution", (16, 10, 10)), ("activation", (16, 10, 10)),
        ("pooling", (16, 5, 5)), ("activation", (16, 5, 5)),
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["resnet18", "googlenet", "squeezenet1_0", "mobilenet_v3_small"])
def test_any_network_of_torchvision_can_be_looked_into(name):
    network = TorchvisionNet(3, 4, name=name, stem="small").eval().requires_grad_(False)
    x = torch.randn(1, 3, 32, 32)
    before = network(x)
    traced = layers.trace(network, x)
    shown = layers.spread(traced.steps, 12)
    assert 6 <= len(shown) <= 12 and shown[0] is traced.steps[0]
    assert {step.kind for step in traced.steps} >= {"convolution", "activation"}
    heat = grad_cam(network, layers.convolutions(traced.steps)[-1], x, torch.tensor([2]))
    assert heat.shape == (1, 32, 32) and np.isfinite(heat).all()
    assert torch.equal(network(x), before)


def test_a_large_network_gets_less_and_never_nothing():
    wanted = Effort.of(SMALL)
    assert wanted.affordable(10**6, 10**6, 1e12) == wanted
    less = wanted.affordable(15 * 10**9, 3 * 10**9, 1e12)
    assert less.steps <= wanted.steps and less.filters >= 1 and less.windows >= 2 and less.shifted >= 1
    assert wanted.affordable(10**12, 10**12, 1e9).steps == 0


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
    for part in ("A picture is numbers", "Convolution", "after ReLU (rectified): 32 maps of 16 x 16", "softmax",
                 "after pooling (maximum): 32 maps of 8 x 8", "What excites a filter", "Grad-CAM", "occlusion",
                 "Translation", "right answers", "wrong answers"):  # fmt: skip
        assert part in html, part
    assert re.findall(r"(?:src|href)=\"(?!data:)", html) == [] and "<script" not in html and "url(" not in html
    assert 'name="viewport"' in html and "prefers-color-scheme:dark" in html
    assert "pictures keep" in output


def test_the_page_and_its_pictures_are_in_the_run(explained):
    project, _ = explained
    note = json.loads((project / "data/models/classifier/run.json").read_text())
    client = connect(project)
    assert "report/what_the_network_sees.html" in [f.path for f in client.list_artifacts(note["run_id"], "report")]
    logged = {file.path.rpartition("/")[2] for file in client.list_artifacts(note["run_id"], "report/sees")}
    assert {"first_filters.png", "grad_cam.png", "occlusion.png", "shift.png", "shift.csv"} <= logged
    assert 0 < client.get_run(note["run_id"]).data.metrics["shift_kept"] <= 1.2


def test_the_same_model_gives_the_same_page(trained):
    bundle = Bundle.load(trained / "data/models/classifier")
    image = np.random.default_rng(0).integers(0, 256, (16, 16, 1), dtype=np.uint8)
    first, second = (explain_picture(bundle, image, "a.png", "a model", SMALL) for _ in range(2))
    assert first == second and set(SMALL) == set(KNOWN)


def test_the_eye_says_what_is_served(trained):
    from imageset.store import ImageStore
    from lightning_modules.scoring import Scorer

    bundle = Bundle.load(trained / "data/models/classifier")
    images = ImageStore.open(trained / "data/normalized").split("test").batch(np.arange(5))
    assert np.allclose(Eye(bundle).probabilities(images), Scorer(bundle).probabilities(images), atol=1e-4)


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
        assert capsys.readouterr().out.startswith(f"explain: {model} says 7 (")
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
