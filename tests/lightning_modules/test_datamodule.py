import itertools

import numpy as np
import psutil
import pytest
import torch

from lightning_modules.datamodule import (
    BatchLoader,
    BatchSampler,
    ImageDataModule,
    choose_cache,
    compute_sampling_probs,
)
from tests.helpers.training import make_label_sets


def draw_epoch(sampler):
    return [batch.tolist() for batch in sampler]


def test_an_epoch_holds_each_picture_once_and_the_order_depends_on_seed_and_epoch_alone():
    sampler = BatchSampler(100, 16, seed=3)
    first = draw_epoch(sampler)
    assert sorted(itertools.chain(*first)) == list(range(100))
    sampler.set_epoch(1)
    second = draw_epoch(sampler)
    assert second != first
    resumed = BatchSampler(100, 16, seed=3)
    resumed.set_epoch(1)
    assert draw_epoch(resumed) == second


@pytest.mark.parametrize("num_ranks", [2, 3])
def test_ranks_together_see_in_each_step_what_one_process_with_the_whole_batch_sees(num_ranks):
    alone = draw_epoch(BatchSampler(200, 12, seed=0))
    parts = [
        draw_epoch(BatchSampler(200, 12 // num_ranks, seed=0, rank=r, num_ranks=num_ranks))
        for r in range(num_ranks)
    ]
    assert [list(itertools.chain(*step)) for step in zip(*parts, strict=True)] == alone
    assert {max(map(len, step)) - min(map(len, step)) for step in zip(*parts, strict=True)} <= {0, 1}


def test_in_evaluation_no_picture_is_counted_twice():
    parts = [draw_epoch(BatchSampler(91, 10, seed=None, rank=rank, num_ranks=2)) for rank in (0, 1)]
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


@pytest.mark.parametrize("cache", ["ram", "device", "auto"])
def test_the_batches_are_the_same_wherever_the_pictures_are_held(digits_project, cache):
    split = ImageDataModule(str(digits_project / "data/normalized"), batch_size=1).store.split("train")
    mapped = BatchLoader(split, BatchSampler(len(split), 100, seed=0))
    held = BatchLoader(split, BatchSampler(len(split), 100, seed=0), cache)
    for _ in range(2):
        for a, b in zip(mapped, held, strict=True):
            assert torch.equal(a[0], b[0]) and torch.equal(a[1], b[1])
    assert held.cached is not None and mapped.cached is None
    assert (a[0].dtype, a[1].dtype, b[0].dtype, b[1].dtype) == (torch.uint8, torch.int64) * 2


def test_what_does_not_fit_into_memory_stays_on_the_disk():
    cpu = torch.device("cpu")
    assert choose_cache("auto", 1000, cpu, 1) == "ram"
    assert choose_cache("auto", 2**60, cpu, 1) == "none"
    assert choose_cache("auto", psutil.virtual_memory().available // 4, cpu, 8) == "none"
    assert choose_cache("ram", 2**60, cpu, 1) == "ram"


@pytest.mark.parametrize("count", [4, 19, 20, 21, 41, 43])
@pytest.mark.parametrize("seed", [None, 0])
def test_all_ranks_have_as_many_batches_and_no_picture_is_seen_twice(count, seed):
    ranks = [BatchSampler(count, 5, seed=seed, rank=rank, num_ranks=4) for rank in range(4)]
    batches = [list(rank) for rank in ranks]
    assert {len(rank) for rank in ranks} == {len(of_rank) for of_rank in batches} == {len(batches[0])}
    assert all(len(batch) for of_rank in batches for batch in of_rank)
    seen = [int(one) for of_rank in batches for batch in of_rank for one in batch]
    assert len(set(seen)) == len(seen)
    assert sorted(seen) == list(range(count)) if seed is None else len(seen) > count - 8


def test_a_rank_with_one_picture_more_counts_as_much_more():
    ranks = [BatchSampler(13, 4, seed=None, rank=rank, num_ranks=2) for rank in range(2)]
    assert [rank.compute_rank_share(0) for rank in ranks] == [1, 1]
    assert [rank.compute_rank_share(1) for rank in ranks] == [2 * 2 / 5, 2 * 3 / 5]


def test_the_balanced_sampler_draws_all_classes_alike_by_seed_and_epoch():

    labels = np.array([0] * 900 + [1] * 100)
    sampler = BatchSampler(1000, 50, seed=1, probabilities=compute_sampling_probs(labels))
    first = np.concatenate(list(sampler))
    assert labels[first].mean() == pytest.approx(0.5, abs=0.05)
    assert np.array_equal(first, np.concatenate(list(sampler)))
    sampler.set_epoch(1)
    assert not np.array_equal(first, np.concatenate(list(sampler)))
    probabilities = compute_sampling_probs(labels)
    parts = [
        list(BatchSampler(1000, 50, seed=1, rank=r, num_ranks=2, probabilities=probabilities)) for r in (0, 1)
    ]
    assert sorted(np.concatenate([*parts[0], *parts[1]]).tolist()) == sorted(first.tolist())


def test_of_several_labels_the_rarest_decides_how_often_a_picture_is_drawn():
    labels = make_label_sets()
    labels[0, 1] = 1
    chances = compute_sampling_probs(labels)
    assert chances.sum() == pytest.approx(1)
    assert chances[labels[:, 1] == 1].sum() == pytest.approx(1 / 3, abs=0.01)
    assert chances[~labels.any(axis=1)].sum() == pytest.approx(1 / 3, abs=0.01)
