import numpy as np
import pytest
import torch

from lightning_modules.explain import activations
from lightning_modules.explain.attribution import grad_cam
from lightning_modules.networks.convnet import ConvNet
from lightning_modules.networks.lenet import LeNet5
from lightning_modules.networks.torchvision_nets import TorchvisionNet
from tests.helpers.training import SMALL_CONVNET


def test_the_steps_of_a_convnet_are_convolution_relu_pooling_with_their_sizes():
    traced = activations.trace_activations(ConvNet(1, 3, **SMALL_CONVNET).eval(), torch.randn(1, 1, 16, 16))
    assert [(step.kind, tuple(step.maps.shape)) for step in traced.activations] == [
        ("convolution", (4, 16, 16)), ("activation", (4, 16, 16)), ("pooling", (4, 8, 8)),
        ("convolution", (8, 8, 8)), ("activation", (8, 8, 8)), ("pooling", (8, 4, 4)),
    ]  # fmt: skip
    assert traced.macs == 9 * 4 * 256 + 9 * 4 * 8 * 64 + 128 * 3
    assert (traced.activations[1].maps >= 0).all() and (traced.activations[0].maps < 0).any()


def test_lenets_own_layers_are_steps_as_a_whole():
    traced = activations.trace_activations(LeNet5(1, 10).eval(), torch.randn(1, 1, 32, 32))
    assert [(step.kind, tuple(step.maps.shape)) for step in traced.activations] == [
        ("convolution", (6, 28, 28)), ("activation", (6, 28, 28)), ("pooling", (6, 14, 14)),
        ("activation", (6, 14, 14)), ("convolution", (16, 10, 10)), ("activation", (16, 10, 10)),
        ("pooling", (16, 5, 5)), ("activation", (16, 5, 5)),
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["resnet18", "googlenet", "squeezenet1_0", "mobilenet_v3_small"])
def test_any_network_of_torchvision_can_be_looked_into(name):
    network = TorchvisionNet(3, 4, name=name, stem="small").eval().requires_grad_(False)
    x = torch.randn(1, 3, 32, 32)
    before = network(x)
    traced = activations.trace_activations(network, x)
    shown = activations.select_layers(traced.activations, 12)
    assert 6 <= len(shown) <= 12 and shown[0] is traced.activations[0]
    assert {step.kind for step in traced.activations} >= {"convolution", "activation"}
    heat = grad_cam(network, activations.find_convolutions(traced.activations)[-1], x, torch.tensor([2]))
    assert heat.shape == (1, 32, 32) and np.isfinite(heat).all()
    assert torch.equal(network(x), before)
