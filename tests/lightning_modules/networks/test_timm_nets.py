import sys

import pytest
import torch

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


def test_without_timm_its_networks_say_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UserError, match=r"timm/resnet26d needs timm: pip install -e '\.\[timm\]'"):
        TimmNet(3, 2, "resnet26d", "small")
