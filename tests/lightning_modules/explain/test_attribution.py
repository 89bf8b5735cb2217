import pytest
import torch
from torch import nn

from lightning_modules.explain.attribution import grad_cam, occlusion


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
        lost = occlusion(lambda x: network(x).softmax(1), bright, 1, num_windows=4, batch_size=8)
    assert lost.shape == (16, 16)
    assert lost[:8, :8].min() > 0.01
    assert max(abs(lost[12:]).max(), abs(lost[:, 12:]).max()) < 0.02 * lost.max()
