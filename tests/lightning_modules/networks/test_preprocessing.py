import numpy as np
import pytest
import torch

from lightning_modules.datamodule import ImageDataModule
from lightning_modules.networks.preprocessing import Normalize


def test_normalized_training_pictures_have_mean_0_and_deviation_1(digits_project):
    store = ImageDataModule(str(digits_project / "data/normalized"), batch_size=8).store
    train = store.split("train")
    images = torch.from_numpy(np.ascontiguousarray(train.read_batch(np.arange(len(train)))))
    x = Normalize(store.mean, store.std)(images)
    assert x.shape == (len(train), 1, 16, 16)
    assert x.mean().item() == pytest.approx(0, abs=1e-3)
    assert x.std().item() == pytest.approx(1, abs=1e-2)


def test_normalization_in_one_pass_is_that_of_each_channel():
    images = torch.randint(0, 256, (3, 5, 7, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.1)
    x = Normalize(mean, std)(images)
    assert x.dtype == torch.float32 and x.is_contiguous(memory_format=torch.channels_last)
    plain = images.permute(0, 3, 1, 2) / 255
    expected = (plain - torch.tensor(mean).view(1, 3, 1, 1)) / torch.tensor(std).view(1, 3, 1, 1)
    assert torch.allclose(x, expected, atol=1e-5)


def test_a_channel_whose_pixels_are_all_alike_is_not_divided_by_zero():
    x = Normalize((0.5, 1.0), (0.25, 0.0))(torch.full((1, 2, 2, 2), 255, dtype=torch.uint8))
    assert x[0, :, 0, 0].tolist() == pytest.approx([2.0, 0.0], abs=1e-6)
