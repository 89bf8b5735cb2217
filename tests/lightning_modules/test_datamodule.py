import itertools

import numpy as np
import pytest
import torch

from lightning_modules.augment import random_flip, random_shift
from lightning_modules.classifier import Normalize, warmup_cosine
from lightning_modules.datamodule import BatchSampler, ImageDataModule


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


def test_ranks_share_the_batches_of_one_order_and_make_as_many_steps():
    alone = drawn(BatchSampler(90, 10, seed=0))
    parts = [drawn(BatchSampler(90, 10, seed=0, rank=rank, num_ranks=2)) for rank in (0, 1)]
    assert parts[0] == alone[0::2]
    assert parts[1][:4] == alone[1::2]
    assert len(parts[0]) == len(parts[1]) == 5


def test_in_evaluation_no_picture_is_counted_twice():
    parts = [drawn(BatchSampler(90, 10, seed=None, rank=rank, num_ranks=2)) for rank in (0, 1)]
    assert sorted(itertools.chain(*parts[0], *parts[1])) == list(range(90))


def test_a_last_batch_of_one_picture_is_left_to_another_epoch():
    assert [len(batch) for batch in BatchSampler(33, 16, seed=0)] == [16, 16]
    assert [len(batch) for batch in BatchSampler(33, 16, seed=None)] == [16, 16, 1]
    assert [len(batch) for batch in BatchSampler(1, 16, seed=0)] == [1]


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
    images = torch.arange(100.0).view(1, 1, 10, 10).repeat(32, 1, 1, 1)
    moved = random_shift(images, 0.2)
    assert moved.shape == images.shape
    assert len({picture.numpy().tobytes() for picture in moved}) > 10
    assert set(moved.flatten().tolist()) <= set(images.flatten().tolist())
    assert torch.equal(random_shift(images, 0.0), images)


def test_a_shift_moves_rows_and_columns_and_repeats_the_edge():
    torch.manual_seed(1)
    image = torch.arange(100.0).view(1, 1, 10, 10)
    moved = random_shift(image, 0.3)[0, 0]
    rows, columns = moved[:, 5].div(10).floor(), moved[5].remainder(10)
    assert set(rows.diff().tolist()) <= {0.0, 1.0} and set(columns.diff().tolist()) <= {0.0, 1.0}


def test_a_flip_turns_some_pictures_left_right():
    torch.manual_seed(0)
    images = torch.arange(4.0).view(1, 1, 1, 4).repeat(50, 1, 1, 1)
    seen = {tuple(picture.flatten().tolist()) for picture in random_flip(images)}
    assert seen == {(0.0, 1.0, 2.0, 3.0), (3.0, 2.0, 1.0, 0.0)}


def test_the_learning_rate_rises_then_falls_to_zero():
    factors = [warmup_cosine(step, 100, 0.2) for step in range(101)]
    assert factors[:20] == sorted(factors[:20]) and factors[20:] == sorted(factors[20:], reverse=True)
    assert max(factors) == 1.0 and factors[0] > 0 and factors[100] == pytest.approx(0)
    assert [warmup_cosine(step, 10, 0.0) for step in (0, 10)] == [1.0, pytest.approx(0)]


def test_a_channel_whose_pixels_are_all_alike_is_not_divided_by_zero():
    x = Normalize((0.5, 1.0), (0.25, 0.0))(torch.full((1, 2, 2, 2), 255, dtype=torch.uint8))
    assert x[0, :, 0, 0].tolist() == [2.0, 0.0]
