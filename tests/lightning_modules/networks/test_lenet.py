import pytest
import torch

from lightning_modules.networks.lenet import LeNet5


def test_lenet5_has_the_parameters_of_the_paper():
    count = sum(p.numel() for p in LeNet5(1, 10).parameters())
    assert count == 60_000 + (84 * 10 + 10)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("side", [16, 28, 32, 64])
def test_lenet5_takes_grey_and_colour_of_any_size(channels, side):
    assert LeNet5(channels, 7)(torch.zeros(2, channels, side, side)).shape == (2, 7)
