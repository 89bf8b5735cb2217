"""Whole batches, cut from the memory map of a normalized dataset."""

from collections.abc import Iterator

import numpy as np
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from imageset.errors import UserError
from imageset.store import ImageStore, StoreSplit

Batch = tuple[torch.Tensor, torch.Tensor]  # uint8 (N, H, W, C), int64 (N,)


class SplitBatches(Dataset[Batch]):
    """A split that is asked for many positions at a time."""

    def __init__(self, split: StoreSplit) -> None:
        self.split = split

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, positions: np.ndarray) -> Batch:
        images = self.split.batch(positions)
        return torch.from_numpy(images), torch.from_numpy(self.split.labels[positions])


class BatchSampler(Sampler[np.ndarray]):
    """Positions in batches. The order is a function of (seed, epoch) alone, so a resumed run sees the same.

    Args:
        count: pictures in the split.
        batch_size: pictures in a batch.
        seed: shuffles; None keeps the order of the store.
        chances: of each picture to be drawn, with replacement; None: an epoch holds each once.
        rank, num_ranks: each rank takes every `num_ranks`-th batch of the one order. In training, ranks that
            would run short take batches from the start again, since all must make the same number of steps;
            in evaluation they do not, since a picture counted twice would falsify the metric.
    """

    def __init__(
        self,
        count: int,
        batch_size: int,
        *,
        seed: int | None,
        rank: int = 0,
        num_ranks: int = 1,
        chances: np.ndarray | None = None,
    ) -> None:
        self.count, self.batch_size, self.chances = count, batch_size, chances
        self.seed, self.rank, self.num_ranks = seed, rank, num_ranks
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self._turns())

    def __iter__(self) -> Iterator[np.ndarray]:
        order = np.arange(self.count)
        if self.seed is not None:
            generator = np.random.default_rng([self.seed, self.epoch])
            if self.chances is None:
                order = generator.permutation(self.count)
            else:
                order = generator.choice(self.count, self.count, p=self.chances)
        starts = self._starts()
        for turn in self._turns():
            start = starts[turn % len(starts)]
            yield order[start : start + self.batch_size]

    def _turns(self) -> range:
        num_batches = len(self._starts())
        if self.seed is not None:
            num_batches = -(-num_batches // self.num_ranks) * self.num_ranks
        return range(self.rank, num_batches, self.num_ranks)

    def _starts(self) -> range:
        """Where batches start. A last batch of one picture is left out of shuffled epochs: batch
        normalization has nothing to normalize over in it, and another epoch draws that picture."""
        starts = range(0, self.count, self.batch_size)
        if self.seed is not None and len(starts) > 1 and self.count - starts[-1] == 1:
            return starts[:-1]
        return starts


class ImageDataModule(pl.LightningDataModule):
    """The splits of a normalized dataset as batches: uint8 (N, H, W, C) and labels int64 (N,).

    Args:
        store: folder of the normalized dataset.
        batch_size: pictures a step, on each rank.

    Raises:
        UserError: the store is missing or broken, its pictures bear several labels, or the batch size is below 1.
    """

    def __init__(self, store: str, batch_size: int) -> None:
        super().__init__()
        if batch_size < 1:
            raise UserError(f"data.batch_size is {batch_size}; give 1 or more")
        self.store = ImageStore.open(store)
        if self.store.multi_label:
            raise UserError(
                f"{store}: its pictures bear several labels each, and training learns one a picture so far; "
                "give a source with one label a picture"
            )
        self.batch_size = batch_size
        self.seed, self.balanced = 0, False  # balanced: training draws from all classes alike

    def train_dataloader(self) -> DataLoader[Batch]:
        """Drawn by (seed, epoch)."""
        return self._loader("train", self.seed)

    def val_dataloader(self) -> DataLoader[Batch]:
        """In the order of the store."""
        return self._loader("val", None)

    def test_dataloader(self) -> DataLoader[Batch]:
        """In the order of the store."""
        return self._loader("test", None)

    def _loader(self, name: str, seed: int | None) -> DataLoader[Batch]:
        split = self.store.split(name)
        rank, num_ranks = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        chances = balanced_chances(split.labels) if self.balanced and seed is not None else None
        sampler = BatchSampler(
            len(split), self.batch_size, seed=seed, rank=rank, num_ranks=num_ranks, chances=chances
        )
        on_gpu = self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"
        return DataLoader(SplitBatches(split), sampler=sampler, batch_size=None, pin_memory=on_gpu)


def balanced_chances(labels: np.ndarray) -> np.ndarray:
    """The chance of each picture (n,) with which a draw is as likely of one class as of another; they sum to 1."""
    rarity = 1 / np.bincount(labels)[labels]
    return rarity / rarity.sum()
