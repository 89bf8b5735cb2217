import numpy as np
import pytest
import torch
from torch import nn

from imageset.store.reader import StoreSplit
from imageset.utils.progress import SilentProgress
from lightning_modules.features import frozen_features
from lightning_modules.features.frozen_features import FeatureCache, FeatureNetwork, compute_features
from lightning_modules.networks.preprocessing import Normalize
from tests.helpers.datasets import make_store
from tests.helpers.images import make_image_folder

CPU = torch.device("cpu")

pytestmark = pytest.mark.usefixtures("one_thread")


class CountingNetwork(nn.Module):
    """Two pooled colours and a head; counts the images that went through."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, self.head, self.num_seen = nn.Conv2d(3, 6, 3, stride=2), nn.Linear(6, 2), 0

    def forward(self, x):
        self.num_seen += len(x)
        weights = torch.linspace(0, 1, x.shape[-1])  # the mirror image is another image
        return self.head(self.body(x * weights).mean((2, 3)))


@pytest.fixture
def split(tmp_path) -> StoreSplit:
    return make_store(tmp_path, make_image_folder(tmp_path / "set", num_each=40)).split("train")


@pytest.fixture
def network() -> FeatureNetwork:
    return FeatureNetwork(Normalize((0.5,) * 3, (0.5,) * 3), CountingNetwork(), 2)


def compute(network, split, cache):
    (features,) = compute_features(network, [split], cache, CPU, SilentProgress())
    return features


def test_features_are_the_input_of_the_head(network, split, tmp_path):
    features = compute(network, split, FeatureCache(tmp_path / "features", {}))
    images = torch.from_numpy(split.read_batch(np.arange(len(split))))
    with torch.no_grad():
        logits = network.network(network.normalize(images))
        mirrored = network.network(network.normalize(images.flip(2)))
        assert torch.allclose(network.network.head(torch.from_numpy(features.plain)), logits, atol=2e-3)
        assert torch.allclose(network.network.head(torch.from_numpy(features.mirrored)), mirrored, atol=2e-3)
    assert not np.allclose(features.plain, features.mirrored, atol=1e-3)
    assert np.allclose(features.mean, (features.plain + features.mirrored) / 2)


def test_new_images_alone_are_computed(network, split, tmp_path):
    cache = FeatureCache(tmp_path / "features", {"weights": "a"})
    some = StoreSplit(split.store, split.rows.slice(0, len(split) - 3))
    before = compute(network, some, cache)
    network.network.num_seen = 0
    after = compute(network, split, cache)
    assert network.network.num_seen == 2 * frozen_features.CPU_BATCH_SIZE  # a padded batch, and its mirror images
    assert np.array_equal(after.plain[:-3], before.plain)
    network.network.num_seen = 0
    assert np.array_equal(compute(network, split, cache).mirrored, after.mirrored)
    assert network.network.num_seen == 0


def test_features_do_not_depend_on_the_other_images(network, split, tmp_path):
    together = compute(network, split, FeatureCache(tmp_path / "a", {}))
    backwards = StoreSplit(split.store, split.rows.take(np.arange(len(split))[::-1]))
    assert np.array_equal(
        compute(network, backwards, FeatureCache(tmp_path / "b", {})).plain[::-1], together.plain
    )


def test_an_interrupted_computation_goes_on(network, split, tmp_path, monkeypatch):
    monkeypatch.setattr(frozen_features, "IMAGES_PER_FILE", 16)
    cache = FeatureCache(tmp_path / "features", {})

    class Interrupted(SilentProgress):
        def advance(self, num: int = 1) -> None:
            if len(list(cache.folder.glob("*.safetensors"))) == 2:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compute_features(network, [split], cache, CPU, Interrupted())
    assert len(cache.read()) == 32
    network.network.num_seen = 0
    resumed = compute(network, split, cache)
    assert network.network.num_seen < 2 * len(split)
    assert np.array_equal(resumed.plain, compute(network, split, FeatureCache(tmp_path / "other", {})).plain)


def test_a_damaged_file_is_removed_named_and_computed_again(network, split, tmp_path, capsys):
    cache = FeatureCache(tmp_path / "features", {})
    before = compute(network, split, cache)
    (path, *_) = cache.folder.glob("*.safetensors")
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert np.array_equal(compute(network, split, cache).plain, before.plain)
    assert "damaged and removed" in capsys.readouterr().out


def test_a_network_is_left_in_the_mode_that_it_was_in(network, split, tmp_path):
    network.network.train()
    network.network.body.eval()  # as a frozen layer
    compute(network, split, FeatureCache(tmp_path / "features", {}))
    assert network.network.training and network.network.head.training and not network.network.body.training


def test_other_weights_have_a_folder_of_their_own(tmp_path):
    one, other = (FeatureCache(tmp_path, {"weights": name}) for name in "ab")
    assert one.folder != other.folder
