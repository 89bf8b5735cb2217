import itertools

import numpy as np
import psutil
import pytest
import torch

from lightning_modules.augment import shift_and_flip
from lightning_modules.classifier import Normalize, warmup_cosine
from lightning_modules.datamodule import Batches, BatchSampler, ImageDataModule, choose_cache


def drawn(sampler):
    return [batch.tolist() for batch in sampler]


def test_an_epoch_holds_each_picture_once_and_the_order_depends_on_seed_and_epoch_alone():
    sampler = BatchSampler(100, 16, seed=3)
    first = drawn(sampler)
    assert sorted(itertools.chain(*first)) == list(range(100))
    sampler.set_epoch(1)
    second = drawn(sampler)
    assert second != first
    resumed = BatchSampler(100, 16, seed=3)
    resumed.set_epoch(1)
    assert drawn(resumed) == second


@pytest.mark.parametrize("num_ranks", [2, 3])
def test_ranks_together_see_in_each_step_what_one_process_with_the_whole_batch_sees(num_ranks):
    alone = drawn(BatchSampler(200, 12, seed=0))
    parts = [
        drawn(BatchSampler(200, 12 // num_ranks, seed=0, rank=r, num_ranks=num_ranks)) for r in range(num_ranks)
    ]
    assert [list(itertools.chain(*step)) for step in zip(*parts, strict=True)] == alone
    assert {max(map(len, step)) - min(map(len, step)) for step in zip(*parts, strict=True)} <= {0, 1}


def test_in_evaluation_no_picture_is_counted_twice():
    parts = [drawn(BatchSampler(91, 10, seed=None, rank=rank, num_ranks=2)) for rank in (0, 1)]
    assert sorted(itertools.chain(*parts[0], *parts[1])) == list(range(91))


def test_a_last_batch_of_one_picture_is_left_to_another_epoch():
    assert [len(batch) for batch in BatchSampler(33, 16, seed=0)] == [16, 16]
    assert [len(batch) for batch in BatchSampler(33, 16, seed=None)] == [16, 16, 1]
    assert [len(batch) for batch in BatchSampler(1, 16, seed=0)] == [1]
    assert [len(batch) for batch in BatchSampler(35, 8, seed=0, num_ranks=2)] == [8, 8]


def test_a_pass_goes_on_behind_the_batches_that_were_used(digits_project):
    data = ImageDataModule(str(digits_project / "data/normalized"), batch_size=100)
    whole, begun, resumed = (data.train_dataloader() for _ in range(3))
    begun_batches = iter(begun)
    first = [next(begun_batches) for _ in range(4)]
    resumed.load_state_dict(begun.state_dict())
    labels = [batch[1].tolist() for batch in (*first, *resumed)]
    assert labels == [batch[1].tolist() for batch in whole]
    assert len(list(resumed)) == len(whole)


def test_a_batch_is_bytes_and_labels(digits_project):
    data = ImageDataModule(str(digits_project / "data/normalized"), batch_size=8)
    images, labels = next(iter(data.val_dataloader()))
    assert (images.shape, images.dtype) == ((8, 16, 16, 1), torch.uint8)
    assert (labels.shape, labels.dtype) == ((8,), torch.int64)


def test_normalized_training_pictures_have_mean_0_and_deviation_1(digits_project):
    store = ImageDataModule(str(digits_project / "data/normalized"), batch_size=8).store
    train = store.split("train")
    images = torch.from_numpy(np.ascontiguousarray(train.batch(np.arange(len(train)))))
    x = Normalize(store.mean, store.std)(images)
    assert x.shape == (len(train), 1, 16, 16)
    assert x.mean().item() == pytest.approx(0, abs=1e-3)
    assert x.std().item() == pytest.approx(1, abs=1e-2)


def test_each_picture_is_shifted_by_its_own_draw_and_no_value_is_new():
    torch.manual_seed(0)
    images = torch.arange(100, dtype=torch.uint8).view(1, 10, 10, 1).repeat(32, 1, 1, 1)
    moved = shift_and_flip(images, 0.2, flip=False)
    assert moved.shape == images.shape
    assert len({picture.numpy().tobytes() for picture in moved}) > 10
    assert set(moved.flatten().tolist()) <= set(images.flatten().tolist())
    assert torch.equal(shift_and_flip(images, 0.0, flip=False), images)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_shift_moves_rows_and_columns_and_repeats_the_edge(channels):
    torch.manual_seed(1)
    image = torch.arange(100, dtype=torch.uint8).view(1, 10, 10, 1).repeat(1, 1, 1, channels)
    moved = shift_and_flip(image, 0.3, flip=False)[0]
    assert all(torch.equal(moved[..., channel], moved[..., 0]) for channel in range(channels))
    rows, columns = moved[:, 5, 0].int().div(10).floor(), moved[5, :, 0].int().remainder(10)
    assert set(rows.diff().tolist()) <= {0.0, 1.0} and set(columns.diff().tolist()) <= {0, 1}


def test_a_flip_turns_some_pictures_left_right():
    torch.manual_seed(0)
    images = torch.arange(4, dtype=torch.uint8).view(1, 1, 4, 1).repeat(50, 1, 1, 1)
    seen = {tuple(picture.flatten().tolist()) for picture in shift_and_flip(images, 0.0, flip=True)}
    assert seen == {(0, 1, 2, 3), (3, 2, 1, 0)}


def test_normalization_in_one_pass_is_that_of_each_channel():
    images = torch.randint(0, 256, (3, 5, 7, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.1)
    x = Normalize(mean, std)(images)
    assert x.dtype == torch.float32 and x.is_contiguous(memory_format=torch.channels_last)
    plain = images.permute(0, 3, 1, 2) / 255
    expected = (plain - torch.tensor(mean).view(1, 3, 1, 1)) / torch.tensor(std).view(1, 3, 1, 1)
    assert torch.allclose(x, expected, atol=1e-5)


def test_the_learning_rate_rises_then_falls_to_zero():
    factors = [warmup_cosine(step, 100, 0.2) for step in range(101)]
    assert factors[:20] == sorted(factors[:20]) and factors[20:] == sorted(factors[20:], reverse=True)
    assert max(factors) == 1.0 and factors[0] > 0 and factors[100] == pytest.approx(0)
    assert [warmup_cosine(step, 10, 0.0) for step in (0, 10)] == [1.0, pytest.approx(0)]


def test_a_channel_whose_pixels_are_all_alike_is_not_divided_by_zero():
    x = Normalize((0.5, 1.0), (0.25, 0.0))(torch.full((1, 2, 2, 2), 255, dtype=torch.uint8))
    assert x[0, :, 0, 0].tolist() == pytest.approx([2.0, 0.0], abs=1e-6)


@pytest.mark.parametrize("cache", ["ram", "device", "auto"])
def test_the_batches_are_the_same_wherever_the_pictures_are_held(digits_project, cache):
    split = ImageDataModule(str(digits_project / "data/normalized"), batch_size=1).store.split("train")
    mapped = Batches(split, BatchSampler(len(split), 100, seed=0))
    held = Batches(split, BatchSampler(len(split), 100, seed=0), cache)
    for _ in range(2):
        for a, b in zip(mapped, held, strict=True):
            assert torch.equal(a[0], b[0]) and torch.equal(a[1], b[1])
    assert held.held is not None and mapped.held is None
    assert (a[0].dtype, a[1].dtype, b[0].dtype, b[1].dtype) == (torch.uint8, torch.int64) * 2


def test_what_does_not_fit_into_memory_stays_on_the_disk():
    cpu = torch.device("cpu")
    assert choose_cache("auto", 1000, cpu, 1) == "ram"
    assert choose_cache("auto", 2**60, cpu, 1) == "none"
    assert choose_cache("auto", psutil.virtual_memory().available // 4, cpu, 8) == "none"
    assert choose_cache("ram", 2**60, cpu, 1) == "ram"
