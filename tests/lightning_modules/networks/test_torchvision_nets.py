import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn

from imageset.exceptions import UserError
from imageset.sources.benchmark_sets.digits import load_digit_images
from lightning_modules.bundle import Bundle, BundleInfo, save_bundle
from lightning_modules.networks.factory import make_network
from lightning_modules.networks.torchvision_nets import TorchvisionNet
from tests.helpers.training import train_few_steps

# Parameters with 1,000 classes, from the pages of the weights in torchvision's documentation ("num_params").
PUBLISHED = {
    "alexnet": 61_100_840,
    "vgg11": 132_863_336, "vgg11_bn": 132_868_840, "vgg13": 133_047_848, "vgg13_bn": 133_053_736,
    "vgg16": 138_357_544, "vgg16_bn": 138_365_992, "vgg19": 143_667_240, "vgg19_bn": 143_678_248,
    "googlenet": 6_624_904,
    "resnet18": 11_689_512, "resnet34": 21_797_672, "resnet50": 25_557_032, "resnet101": 44_549_160,
    "resnet152": 60_192_808,
    "densenet121": 7_978_856, "densenet161": 28_681_000, "densenet169": 14_149_480, "densenet201": 20_013_928,
}  # fmt: skip
FAMILIES = ("alexnet", "vgg11", "vgg11_bn", "googlenet", "resnet18", "densenet121")  # the smallest of each
SMALLEST = (*FAMILIES, "convnext_tiny", "efficientnet_b0", "inception_v3", "mnasnet0_5", "mobilenet_v2",
            "mobilenet_v3_small", "regnet_x_400mf", "regnet_y_400mf", "resnext50_32x4d", "shufflenet_v2_x0_5",
            "squeezenet1_1", "swin_t")  # fmt: skip
OTHERS = ("inception_v3", "mnasnet0_5", "mobilenet_v3_small", "resnext50_32x4d", "shufflenet_v2_x0_5",
          "squeezenet1_1", "swin_t")  # fmt: skip


pytestmark = pytest.mark.usefixtures("one_thread")


def shaped(in_channels, num_classes, name, stem):
    """A network that has shapes and no numbers: built at once, however large. RegNets compute their widths
    with tensors, so they get their numbers."""
    with torch.device("cpu" if name.startswith("regnet") else "meta"):
        return TorchvisionNet(in_channels, num_classes, name, stem).eval()


def digits(count: int, side: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Real digits: float32 (count, 1, side, side) and labels (count,)."""
    pixels, labels = load_digit_images()
    images = torch.from_numpy(pixels[:count]).unsqueeze(1).float() / 127.5 - 1
    return F.interpolate(images, side), torch.from_numpy(labels[:count])


@pytest.mark.parametrize(
    ("name", "stem"), [*((n, "standard") for n in PUBLISHED), *((n, "small") for n in FAMILIES)]
)
def test_a_network_has_the_published_number_of_parameters(name, stem):
    assert sum(weight.numel() for weight in shaped(3, 1000, name, stem).parameters()) == PUBLISHED[name]


WITH_AUXILIARY = ("googlenet", "inception_v3")  # whose published counts are taken apart from theirs


@pytest.mark.parametrize(
    "name", [name for name in [*SMALLEST, "maxvit_t", "swin_v2_t", "vit_b_32"] if name not in WITH_AUXILIARY]
)
def test_a_network_has_the_number_of_parameters_that_its_published_weights_have(name):
    from torchvision.models import get_model_weights

    published = {weights.meta["num_params"] for weights in get_model_weights(name)}
    assert {sum(weight.numel() for weight in shaped(3, 1000, name, "standard").parameters())} == published


@pytest.mark.parametrize("name", [*FAMILIES, "inception_v3", "vit_b_32"])
def test_the_standard_stem_takes_224_px(name):
    assert shaped(3, 1000, name, "standard").train()(torch.empty(2, 3, 224, 224, device="meta")).shape == (2, 1000)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", [*FAMILIES, *OTHERS])
def test_the_small_stem_takes_28_and_32_px(name, channels):
    network = shaped(channels, 7, name, "small")
    for side in (28, 32):
        assert network(torch.empty(2, channels, side, side, device="meta")).shape == (2, 7)


@pytest.mark.parametrize("name", [name for name in SMALLEST if name not in ("vgg11_bn", "regnet_x_400mf")])
def test_a_few_steps_on_real_pictures_of_32_px_lower_the_loss(name, photographs):
    torch.manual_seed(0)
    losses = train_few_steps(TorchvisionNet(3, 2, name, "small"), *photographs)
    assert losses[-1] < losses[0], losses


def test_grey_digits_are_learned_by_the_same_network():
    torch.manual_seed(0)
    losses = train_few_steps(TorchvisionNet(1, 10, "resnet18", "small"), *digits(4, 28))
    assert losses[-1] < losses[0], losses


def test_the_small_stem_takes_every_pixel_and_the_standard_one_a_quarter_of_each_side():
    sides = {}
    for stem in ("standard", "small"):
        network = shaped(3, 10, "resnet18", stem)
        network.network.layer1.register_forward_hook(
            lambda *call, stem=stem: sides.update({stem: call[-1].shape[-1]})
        )
        network(torch.empty(1, 3, 32, 32, device="meta"))
    assert sides == {"standard": 8, "small": 32}


@pytest.mark.parametrize("name", ["resnet18", "squeezenet1_1"])
def test_grey_is_seen_as_three_equal_channels_would_be(name):
    grey, colour = (seeded(channels, name) for channels in (1, 3))
    images, _ = digits(2, 32)
    with torch.no_grad():
        assert torch.allclose(grey(images), colour(images.expand(-1, 3, -1, -1)), atol=1e-4)


def seeded(channels: int, name: str) -> nn.Module:
    torch.manual_seed(3)
    return TorchvisionNet(channels, 10, name, "small").eval()


def test_probabilities_are_the_softmax_of_the_logits():
    network, (images, _) = seeded(1, "squeezenet1_1"), digits(3, 32)
    assert torch.allclose(network.probabilities(images).sum(1), torch.ones(3))
    assert torch.equal(network.probabilities(images).argmax(1), network(images).argmax(1))


@pytest.mark.parametrize("name", ["resnet18", "swin_t"])
def test_a_bundle_gives_the_same_network_back(name, tmp_path):
    torch.manual_seed(0)
    info = BundleInfo(
        network={"class_path": "lightning_modules.networks.TorchvisionNet",
                 "init_args": {"name": name, "stem": "small"}},
        classes=tuple("0123456789"),
        decode={"size": 32, "channels": 1, "fit": "crop", "interpolation": "bilinear", "max_pixels": 10**6},
        mean=(0.5,), std=(0.5,), dataset={}, metrics={},
    )  # fmt: skip
    network = make_network(info.network, 1, 10).to(memory_format=torch.channels_last).eval()
    save_bundle(tmp_path, info, network)
    assert load_file(tmp_path / "weights.safetensors").keys() == network.state_dict().keys()
    images, _ = digits(2, 32)
    with torch.no_grad():
        assert torch.allclose(Bundle.load(tmp_path).network(images), network(images), atol=1e-6)


@pytest.mark.parametrize(
    ("name", "stem", "said"),
    [
        ("resnet19", "small", "torchvision has no network 'resnet19'; did you mean 'resnet18'?"),
        ("ResNet-18", "small", "did you mean 'resnet18'?"),
        ("resnet18", "tiny", "stem is 'tiny'; choose standard or small"),
        ("vit_b_16", "small", "vit_b_16 takes 224 px only"),
    ],
)
def test_a_wrong_name_or_stem_is_named(name, stem, said):
    with pytest.raises(UserError) as caught:
        shaped(3, 10, name, stem)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("name", "side", "said"),
    [
        ("alexnet", 32, "takes pictures of 63 px and more, these have 32 x 32; set stem: small"),
        ("vgg11", 28, "takes pictures of 32 px and more"),
        ("vit_b_32", 64, "takes pictures of 224 px only, these have 64 x 64; set normalize.size_px: 224"),
    ],
)
def test_pictures_too_small_for_the_standard_stem_are_refused_in_words(name, side, said):
    with pytest.raises(UserError) as caught:
        shaped(3, 10, name, "standard")(torch.empty(1, 3, side, side, device="meta"))
    assert said in str(caught.value)


def test_torchvision_is_imported_when_such_a_network_is_built_and_not_before():
    code = "import sys, lightning_modules.networks; print('torchvision' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
