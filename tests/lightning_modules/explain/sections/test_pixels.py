import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lightning_modules.explain.activations import trace_activations
from lightning_modules.explain.sections.page import ExplainPage
from lightning_modules.explain.sections.pixels import describe_pixels, describe_worked_convolution, find_contrast


@pytest.fixture
def image():
    """A colour picture of 20 x 20 whose only contrast is in the lower right."""
    image = np.full((20, 20, 3), 90, np.uint8)
    image[8:, 12:] = np.random.default_rng(0).integers(0, 256, (12, 8, 3))
    return image


def make_model(image):
    info = SimpleNamespace(mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    model = SimpleNamespace(info=info, spec=SimpleNamespace(fit="crop"))
    x = (torch.from_numpy(image[None]).permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.25
    return model, x


@pytest.mark.parametrize(("kernel", "stride", "padding"), [(3, 1, 1), (3, 2, 0), (5, 2, 2), (7, 3, 3)])
def test_the_worked_convolution_is_pytorchs_number(image, kernel, stride, padding):
    torch.manual_seed(kernel)
    network = nn.Sequential(nn.Conv2d(3, 6, kernel, stride, padding), nn.ReLU()).eval()
    model, x = make_model(image)
    worked = describe_worked_convolution(ExplainPage(), model, image, trace_activations(network, x))
    conv = network[0]
    expected = F.conv2d(x, conv.weight, conv.bias, stride, padding)[0].detach()
    at = worked["number"], worked["row"], worked["column"]
    assert worked["total"] == pytest.approx(float(expected[at]), abs=1e-4) == pytest.approx(worked["response"])
    assert sum(channel["sum"] for channel in worked["channels"]) + worked["bias"] == pytest.approx(worked["total"])
    assert worked["output"]["size"] == expected.shape[-1] and worked["num_products"] == 3 * kernel**2
    for c, channel in enumerate(worked["channels"]):
        window, weights = np.array(channel["window"]), np.array(channel["weights"])
        assert np.allclose(np.array(channel["products"]), window * weights)
        assert np.allclose(weights, conv.weight[at[0], c].detach())
        # The pixels beside the window are those that it was computed from.
        assert np.allclose((np.array(channel["pixels"]) / 255 - 0.5) / 0.25, window, atol=1e-5)


def test_the_page_says_where_the_window_lies(image):
    network = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1)).eval()
    model, x = make_model(image)
    worked = describe_worked_convolution(ExplainPage(), model, image, trace_activations(network, x))
    top, left = (int(n) for n in re.findall(r"(?:rows|columns) (\d+)", worked["figure"].caption))
    assert image[top : top + 3, left : left + 3, 1].tolist() == worked["channels"][1]["pixels"]
    assert (top, left) == (2 * worked["row"] - 1, 2 * worked["column"] - 1)


def test_a_network_without_convolution_has_nothing_to_work_out(image):
    model, x = make_model(image)
    network = nn.Sequential(nn.Flatten(), nn.Linear(1200, 2)).eval()
    assert describe_worked_convolution(ExplainPage(), model, image, trace_activations(network, x)) is None


def test_a_colour_picture_is_three_grids_of_the_place_with_contrast(image):
    model, _ = make_model(image)
    section = describe_pixels(ExplainPage(), model, image, "a picture")
    top, left = find_contrast(image, 8)
    assert top >= 8 and left >= 8
    assert [grid["name"] for grid in section["grids"]] == ["red", "green", "blue"]
    for channel, grid in enumerate(section["grids"]):
        assert grid["pixels"] == image[top : top + 8, left : left + 8, channel].tolist()
