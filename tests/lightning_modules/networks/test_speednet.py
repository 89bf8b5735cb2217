import pytest
import torch
import torch.nn.functional as F

from lightning_modules.networks.speednet import SpeedNet


@pytest.mark.parametrize("channels", [1, 3])
def test_the_first_layer_of_speednet_gives_uncorrelated_outputs_of_variance_1(channels):
    torch.manual_seed(0)
    smooth = F.avg_pool2d(torch.randn(64, channels, 36, 36), 5, 1)  # neighbours alike, as in pictures
    x = (smooth - smooth.mean()) / smooth.std()
    network = SpeedNet(channels, 10)
    network.whiten(x)
    half = 4 * channels
    seen = F.conv2d(x, network.patches.weight, stride=2).permute(1, 0, 2, 3).flatten(1)  # (2 * half, patches)
    covariance = seen[:half] @ seen[:half].T / seen.shape[1]
    strong = covariance.diagonal() > 0.9  # the others are below the least variance
    assert strong.sum() >= half // 2
    assert (covariance - covariance.diagonal().diag()).abs().max() < 0.02
    assert torch.equal(seen[:half], -seen[half:])
    assert not network.patches.weight.requires_grad


@pytest.mark.parametrize(
    ("channels", "widths", "found"), [(1, None, (32, 96, 192)), (3, None, (64, 256, 256)), (3, (8, 16), (8, 16))]
)
def test_speednet_is_narrow_for_grey_and_wide_for_colour_unless_it_is_told(channels, widths, found):
    network = SpeedNet(channels, 10, widths=widths)
    assert tuple(block[0].out_channels for block in network.blocks) == found
    assert network(torch.zeros(2, channels, 32, 32)).shape == (2, 10)


@pytest.mark.parametrize("side", [16, 28, 32, 64])
def test_speednet_takes_any_size_from_16_px_and_sees_a_picture_as_its_mirror_image(side):
    torch.manual_seed(0)
    network, x = SpeedNet(1, 10).eval(), torch.randn(2, 1, side, side)
    assert network(x).shape == (2, 10)
    assert torch.allclose(network(x), network(x.flip(-1)), atol=1e-6)
    plain = SpeedNet(1, 10, mirror=False).eval()
    assert not torch.allclose(plain(x), plain(x.flip(-1)), atol=1e-6)
