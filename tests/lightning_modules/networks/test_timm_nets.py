import pytest
import torch
import torch.nn.functional as F

from imageset.exceptions import UserError
from lightning_modules.networks.timm_nets import TimmNet
from tests.helpers.training import train_few_steps

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("name", ["mobilenetv3_small_050", "regnetx_002"])
def test_a_network_of_timm_learns_too(name, photographs):
    torch.manual_seed(0)
    images, labels = photographs
    for channels in (1, 3):
        losses = train_few_steps(TimmNet(channels, 2, name, "small"), images[:, :channels], labels)
        assert losses[-1] < losses[0], losses


def test_a_mirrored_network_says_the_same_of_an_image_and_its_mirror_image(photographs):
    torch.manual_seed(0)
    images, _ = photographs
    plain, mirrored = (TimmNet(3, 2, "mobilenetv3_small_050", "small", mirror=on).eval() for on in (False, True))
    mirrored.load_state_dict(plain.state_dict())
    expected = (plain(images) + plain(images.flip(-1))) / 2
    assert torch.allclose(mirrored(images), expected, atol=1e-6)
    assert not torch.allclose(plain(images), expected, atol=1e-6)


def test_images_are_enlarged_to_the_size_that_the_weights_know(photographs):
    images, _ = photographs
    torch.manual_seed(0)
    plain = TimmNet(3, 2, "mobilenetv3_small_050", "standard").eval()
    enlarging = TimmNet(3, 2, "mobilenetv3_small_050", "standard", resize_px=96).eval()
    enlarging.load_state_dict(plain.state_dict())
    enlarged = F.interpolate(images, size=(96, 96), mode="bilinear", align_corners=False)
    assert torch.equal(enlarging(images), plain(enlarged))


def test_a_size_below_one_is_refused():
    with pytest.raises(UserError, match="resize_px is 0; give 1 or more, or null"):
        TimmNet(3, 2, "mobilenetv3_small_050", "small", resize_px=0)
