import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lightning_modules.explain.activations import find_filter_layers, record_responses, trace_activations
from lightning_modules.explain.receptive_field import Window
from lightning_modules.networks.lenet import LeNet5
from lightning_modules.networks.timm_nets import TimmNet


class Padded(nn.Module):
    """Zeros on two sides, a convolution of stride 2, a pooling, a dilated convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 2, 3, stride=2)
        self.second = nn.Conv2d(2, 2, 3, padding=2, dilation=2)

    def forward(self, x):
        x = torch.relu(self.first(F.pad(x, (0, 1, 0, 1))))
        return torch.relu(self.second(F.avg_pool2d(x, 2)))


class Resized(nn.Module):
    """A picture that is enlarged before a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3, padding=1)

    def forward(self, x):
        return torch.relu(self.conv(F.interpolate(x, size=(64, 64), mode="bilinear", align_corners=False)))


@pytest.mark.parametrize("network", [Padded(), Resized(), LeNet5(1, 10)])
def test_the_receptive_field_is_where_the_gradient_is_not_zero(network):
    network = network.eval()
    for parameter in network.parameters():
        parameter.data.abs_().add_(0.01)  # no path is cut off by ReLU, no two cancel
    trace = trace_activations(network, torch.rand(1, 1, 32, 32))
    layer = find_filter_layers(trace.activations, 3)[-1]
    x = torch.rand(1, 1, 32, 32, requires_grad=True)
    maps = record_responses(network, x, [layer.number])[layer.number]
    middle = layer.maps.shape[-1] // 2
    maps[0, 0, middle, middle + 1].backward()
    seen = x.grad[0, 0] != 0
    rows, columns = seen.any(dim=1).nonzero().flatten(), seen.any(dim=0).nonzero().flatten()
    first, end = layer.fields[0].pixels(middle, 32)
    left, right = layer.fields[1].pixels(middle + 1, 32)
    for found, (start, stop) in ((rows, (first, end)), (columns, (left, right))):
        # An enlarged map mixes two neighbours, so its fields begin and end between pixels.
        slack = 1 if isinstance(network, Resized) else 0
        assert abs(int(found[0]) - start) <= slack and abs(int(found[-1]) + 1 - stop) <= slack


@pytest.mark.parametrize(("kernel", "stride", "padding", "dilation"), [(3, 1, 1, 1), (5, 2, 0, 1), (3, 2, 3, 2)])
def test_the_formula_gives_the_sizes_of_pytorch(kernel, stride, padding, dilation):
    maps = nn.Conv2d(1, 1, kernel, stride, padding, dilation)(torch.zeros(1, 1, 23, 23))
    assert Window(kernel, stride, padding, dilation).output_size(23) == maps.shape[-1]


def test_zeros_that_are_added_before_a_convolution_are_counted():
    trace = trace_activations(Padded().eval(), torch.rand(1, 1, 32, 32))
    assert [layer.zeros for layer in trace.activations if layer.kind == "convolution"] == [(0, 1), (0, 0)]


def test_fields_of_efficientnet_lite0_are_as_published():
    """851 px before the last convolution's activation, 32 px apart: the recurrence by hand over its 16 blocks."""
    network = TimmNet(3, 2, "tf_efficientnet_lite0", stem="standard").eval()
    trace = trace_activations(network, torch.rand(1, 3, 64, 64))
    layer = find_filter_layers(trace.activations, 3)[-1]
    size, step = 1, 1
    for kernel, stride in [(3, 2), (3, 1), (3, 2), (3, 1), (5, 2), (5, 1), (3, 2), (3, 1), (3, 1), (5, 1), (5, 1),
                           (5, 1), (5, 2), (5, 1), (5, 1), (5, 1), (3, 1)]:  # fmt: skip
        size, step = size + (kernel - 1) * step, step * stride
    assert (layer.fields[0].size, layer.fields[0].step) == (size, step) == (851, 32)
    assert trace.pools_to_one and trace.linear_shapes == [(2, 1280)]


def test_a_network_without_any_convolution_has_no_layers_to_show():
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 2)).eval()
    trace = trace_activations(network, torch.rand(1, 1, 8, 8))
    assert trace.activations == [] and find_filter_layers(trace.activations, 3) == []
    assert trace.macs == 64 * 8 + 16 and trace.linear_shapes == [(8, 64), (2, 8)]
