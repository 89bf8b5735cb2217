import numpy as np
import pytest
import torch
from torch import nn

from lightning_modules.explain.attribution import (
    choose_shift_distances,
    grad_cam,
    measure_shift_curve,
    occlusion,
    shift_images,
)


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


def test_moved_pictures_keep_their_edge():
    image = np.arange(9, dtype=np.uint8).reshape(1, 3, 3, 1)
    assert shift_images(image, 0, 1)[0, ..., 0].tolist() == [[0, 0, 1], [3, 3, 4], [6, 6, 7]]
    assert shift_images(image, -1, 0)[0, ..., 0].tolist() == [[3, 4, 5], [6, 7, 8], [6, 7, 8]]


def test_a_network_that_only_counts_light_keeps_all_of_its_probability():
    images = np.zeros((2, 20, 20, 1), np.uint8)
    images[:, 8:12, 8:12] = 255

    def by_light(x):
        share = x.mean(axis=(1, 2, 3)) / 255
        return np.stack([share, 1 - share], axis=1)

    def by_place(x):
        share = 0.4 + 0.6 * (x[:, 9:11, 9:11].mean(axis=(1, 2, 3)) / 255)
        return np.stack([share, 1 - share], axis=1)

    assert measure_shift_curve(by_light, images, choose_shift_distances(20, 4)).kept_share == pytest.approx(1)
    assert measure_shift_curve(by_place, images, choose_shift_distances(20, 4)).kept_share < 0.95
