import numpy as np
import pytest
import torch
from torch import nn

from lightning_modules.explain.activations import trace_activations
from lightning_modules.explain.sections.image_grids import apply_colours, scale_map
from lightning_modules.explain.sections.layers import (
    count_weights,
    describe_pooled,
    describe_rectified,
    describe_row,
)
from lightning_modules.networks.convnet import ConvNet
from tests.helpers.training import SMALL_CONVNET


@pytest.fixture
def traced():
    torch.manual_seed(0)
    return trace_activations(ConvNet(1, 3, **SMALL_CONVNET).eval(), torch.randn(1, 1, 16, 16))


def test_the_weights_are_those_of_the_network():
    network = ConvNet(1, 3, filters=[4, 8], hidden=[5], grid=2)
    weights = count_weights(network)
    assert weights["convolutions"] == 9 * 4 + 9 * 4 * 8
    assert weights["linear"] == 8 * 4 * 5 + 5 + 5 * 3 + 3
    assert weights["rest"] == 2 * (4 + 8)  # scale and shift of each map
    assert weights["total"] == sum(p.numel() for p in network.parameters())


def test_a_row_of_the_table_says_what_pytorch_did(traced):
    first, _, pooling, *_ = traced.activations
    row = describe_row(1, first)
    assert (row["window"], row["stride"], row["padding"], row["output"]) == ("3 x 3", "1", "1", "4 x 16 x 16")
    assert (row["num_weights"], row["sees"]) == (first.module.weight.numel(), "3 px")
    row = describe_row(2, pooling)
    assert (row["window"], row["stride"], row["output"], row["num_weights"]) == ("2 x 2", "2", "4 x 8 x 8", 0)


def test_relu_and_pooling_are_shown_with_the_numbers_of_the_network(traced):
    rectified = describe_rectified(traced.activations)
    before, after = np.array(rectified["before"]), np.array(rectified["after"])
    assert (before < 0).any() and (before > 0).any() and np.allclose(after, before.clip(0))
    pooled = describe_pooled(traced.activations)
    windows = np.array(pooled["before"]).reshape(2, 2, 2, 2)  # rows of windows, rows in one, and columns likewise
    assert np.allclose(windows.max(axis=(1, 3)), pooled["after"]) and pooled["sizes"] == (16, 8)


@pytest.mark.parametrize("stride", [1, 2])
def test_windows_of_a_pooling_may_overlap(stride):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.AvgPool2d(3, stride, padding=1)).eval()
    pooled = describe_pooled(trace_activations(network, torch.randn(1, 1, 20, 20)).activations)
    before = np.array(pooled["before"])
    expected = [[before[r : r + 3, c : c + 3].mean() for c in (0, stride)] for r in (0, stride)]
    assert np.allclose(expected, pooled["after"], atol=1e-5)


def test_a_dark_map_with_one_bright_spot_is_scaled_to_be_visible():
    values = np.random.default_rng(0).normal(0, 0.01, (50, 50))
    values[0, 0] = 100  # one number of 2,500 would make all others the same colour
    shares, (low, high) = scale_map(values)
    assert (low, high) == pytest.approx(tuple(np.percentile(values, (1, 99))))
    assert high < 0.1 and 0.2 < shares.std() < 0.4 and shares[0, 0] == 1
    assert scale_map(np.zeros((4, 4)))[1] == (0, 0)


def test_colours_grow_brighter_with_the_number():
    colours = apply_colours(np.linspace(0, 1, 11)[None], "viridis")[0].astype(float)
    assert (np.diff(colours @ [0.2126, 0.7152, 0.0722]) > 0).all()
