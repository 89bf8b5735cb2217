import pytest
import torch
import torch.nn.functional as F

from imageset.exceptions import UserError
from lightning_modules.networks.convnet import ConvNet, Pool

PLAIN = {"kernel_size": 3, "stride": 1, "padding": 1, "pool": "max", "pool_window": 2, "grid": 2, "hidden": [16],
         "dropout": 0.0, "batch_norm": False}  # fmt: skip


def convnet(in_channels=1, num_classes=10, filters=(4, 8), **changes):
    return ConvNet(in_channels, num_classes, list(filters), **(PLAIN | changes)).eval()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("side", [(8, 8), (32, 32), (45, 130)])
def test_a_convnet_gives_one_logit_a_class_whatever_the_picture_size(channels, side):
    assert convnet(channels)(torch.zeros(2, channels, *side)).shape == (2, 10)


def test_probabilities_are_the_softmax_of_the_logits():
    network, x = convnet(), torch.randn(3, 1, 16, 16)
    probabilities = network.probabilities(x)
    assert torch.allclose(probabilities.sum(1), torch.ones(3))
    assert torch.equal(probabilities.argmax(1), network(x).argmax(1))


def test_pooling_takes_the_largest_the_mean_or_the_sum_of_each_window():
    x = torch.tensor([[[[1.0, 2.0], [3.0, 6.0]]]])
    assert [Pool(kind, 2)(x).item() for kind in ("max", "avg", "sum")] == [6.0, 3.0, 12.0]


def test_each_convolution_can_have_its_own_kernel_stride_and_padding():
    network = convnet(filters=[4, 8, 8], kernel_size=[5, 3, 1], stride=[2, 1, 1], padding=[2, 1, 0], pool_window=1)
    convolutions = [layer for layer in network.features if isinstance(layer, torch.nn.Conv2d)]
    assert [c.kernel_size[0] for c in convolutions] == [5, 3, 1]
    assert network.features(torch.zeros(1, 1, 32, 32)).shape == (1, 8, 16, 16)


def test_a_list_of_the_wrong_length_is_named():
    with pytest.raises(UserError, match="kernel_size has 3 entries for 2 filters"):
        convnet(kernel_size=[3, 3, 3])


def test_an_unknown_pooling_is_named():
    with pytest.raises(UserError, match="pool is 'median'"):
        convnet(pool="median")


def test_a_convolution_is_the_sum_of_products_written_out():
    network = convnet(filters=[1], padding=0, pool_window=1)
    x = torch.randn(1, 1, 5, 5)
    weight, bias = network.features[0].weight, network.features[0].bias
    by_hand = torch.stack(
        [(x[0, 0, r : r + 3, c : c + 3] * weight[0, 0]).sum() + bias[0] for r in range(3) for c in range(3)]
    )
    assert torch.allclose(network.features(x).flatten(), F.relu(by_hand), atol=1e-6)
