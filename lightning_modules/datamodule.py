"""Whole batches, cut from the memory map of a normalized dataset, or from where it is held in memory."""

from collections.abc import Iterator
from typing import Literal

import numpy as np
import psutil
import pytorch_lightning as pl
import torch

from imageset.exceptions import UserError
from imageset.store.reader import ImageStore, StoreSplit

Batch = tuple[torch.Tensor, torch.Tensor]  # uint8 (N, H, W, C); int64 (N,), or uint8 (N, K) of several labels
Cache = Literal["auto", "none", "ram", "device"]
RAM_SHARE, DEVICE_SHARE = 0.5, 0.3  # of what is free, for the pixels of one split with `auto`


class BatchSampler:
    """Positions in batches. The order is a function of (seed, epoch) alone, so a resumed run sees the same.

    Args:
        count: pictures in the split.
        batch_size: pictures in a batch.
        seed: shuffles; None keeps the order of the store.
        chances: of each picture to be drawn, with replacement; None: an epoch holds each once.
        rank, num_ranks: the ranks share each group of `num_ranks * batch_size` pictures, so that a step of all of
            them sees what one process with that batch size would see. The last group is shared out evenly; all
            ranks have as many batches.
    """

    def __init__(
        self,
        num_images: int,
        batch_size: int,
        *,
        seed: int | None,
        rank: int = 0,
        num_ranks: int = 1,
        probabilities: np.ndarray | None = None,
    ) -> None:
        self.count, self.batch_size, self.chances = num_images, batch_size, probabilities
        self.seed, self.rank, self.num_ranks = seed, rank, num_ranks
        self.groups = self._groups()
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self._parts())

    def __iter__(self) -> Iterator[np.ndarray]:
        order = np.arange(self.count)
        if self.seed is not None:
            generator = np.random.default_rng([self.seed, self.epoch])
            if self.chances is None:
                order = generator.permutation(self.count)
            else:
                order = generator.choice(self.count, self.count, p=self.chances)
        for begin, end in self._parts():
            yield order[begin:end]

    def rank_share(self, number: int) -> float:
        """How many pictures this rank's batch has, as a part of the mean over the ranks: not 1 where a group could
        not be divided."""
        start, num = self.groups[number]
        begin, end = self._part(start, num)
        return (end - begin) * self.num_ranks / num

    def _parts(self) -> list[tuple[int, int]]:
        """Where this rank's part of each group begins and ends in the order."""
        return [self._part(start, num) for start, num in self.groups]

    def _part(self, start: int, num: int) -> tuple[int, int]:
        begin, end = (start + num * rank // self.num_ranks for rank in (self.rank, self.rank + 1))
        return begin, end

    def _groups(self) -> list[tuple[int, int]]:
        """Where the pictures of each step begin in the order, and how many they are."""
        group = self.batch_size * self.num_ranks
        starts = range(0, self.count, group)
        if self.seed is not None and len(starts) > 1 and self.count - starts[-1] < 2 * self.num_ranks:
            # a batch of one picture leaves batch normalization nothing to normalize over; another epoch draws them
            starts = starts[:-1]
        groups = [(start, min(group, self.count - start)) for start in starts]
        if len(groups) > 1 and groups[-1][1] < self.num_ranks:  # a rank without a batch would not be waited for
            (start, num), (_, more) = groups[-2:]
            groups[-2:] = [(start, num + more)]
        return groups


def choose_cache(cache: Cache, num_bytes: int, device: torch.device, ranks_here: int) -> Cache:
    """Where `num_bytes` of pixels are held: "none" (in the memory map), "ram", or "device".

    `auto` takes the device if it is a GPU with room to spare, else the memory if each rank of this machine can
    have its own copy there, else the memory map. On a CPU the device is the memory.
    """
    if (
        cache == "auto"
        and device.type == "cuda"
        and num_bytes <= DEVICE_SHARE * torch.cuda.mem_get_info(device)[0]
    ):
        return "device"
    if cache == "auto":
        return "ram" if num_bytes * ranks_here <= RAM_SHARE * psutil.virtual_memory().available else "none"
    return "ram" if cache == "device" and device.type == "cpu" else cache


class BatchLoader:
    """A split, batch by batch; it knows how far an epoch has come, and goes on from there.

    Args:
        split: the pictures.
        sampler: which of them make the next batch.
        cache: where the pixels are held; they are read once, in one go, when the first batch is asked for.
        device: where the batches are needed.
        ranks_here: processes of this machine that do the same.
    """

    batch_sampler = None  # Lightning asks where there is a `sampler`

    def __init__(
        self,
        split: StoreSplit,
        sampler: BatchSampler,
        cache: Cache = "none",
        device: torch.device | None = None,
        ranks_here: int = 1,
    ) -> None:
        self.split, self.sampler = split, sampler
        self.cache, self.device, self.ranks_on_node = cache, device or torch.device("cpu"), ranks_here
        self.cached: Batch | None = None  # all pixels and labels
        self.num_used = self.num_to_skip = 0

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[Batch]:
        skipped, self.num_to_skip = self.num_to_skip, 0
        self._fill_cache()
        for number, positions in enumerate(self.sampler):
            if number >= skipped:
                self.num_used = number + 1
                yield self._take_batch(positions)

    def _fill_cache(self) -> None:
        """Read the split into memory, if that is where it shall be."""
        if self.cache == "none" or self.cached is not None:
            return
        picture = self.split.read_batch(np.arange(min(1, len(self.split))))
        self.cache = choose_cache(self.cache, picture.nbytes * len(self.split), self.device, self.ranks_on_node)
        if self.cache == "none":
            return
        where = self.device if self.cache == "device" else torch.device("cpu")
        pixels = torch.from_numpy(self.split.read_batch(np.arange(len(self.split))))
        self.cached = pixels.to(where), torch.from_numpy(self.split.labels).to(where)

    def _take_batch(self, positions: np.ndarray) -> Batch:
        if self.cached is None:
            batch = torch.from_numpy(self.split.read_batch(positions)), torch.from_numpy(self.split.labels[positions])
        else:
            place = torch.from_numpy(positions).to(self.cached[0].device)
            batch = self.cached[0].index_select(0, place), self.cached[1].index_select(0, place)
        if self.device.type == "cuda" and not batch[0].is_cuda:
            return batch[0].pin_memory(), batch[1].pin_memory()  # the copy to the GPU then waits for nothing
        return batch

    def state_dict(self) -> dict[str, int]:
        """The place in the epoch's order; Lightning keeps it in checkpoints."""
        return {"epoch": self.sampler.epoch, "num_used": self.num_used}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Begin the next pass behind the batches that were used."""
        self.num_to_skip = state_dict["num_used"] % len(self)


class ImageDataModule(pl.LightningDataModule):
    """The splits of a normalized dataset as batches: uint8 (N, H, W, C) and labels int64 (N,), or 0 and 1, uint8
    (N, K), where a picture may bear several labels.

    Args:
        store: folder of the normalized dataset.
        batch_size: pictures a step, on each rank.
        cache: "none" cuts batches from the memory map, "ram" and "device" hold a split in memory or on the GPU,
            "auto" does what fits. The batches are the same.

    Raises:
        UserError: the store is missing or broken, or the batch size is below 1.
    """

    def __init__(self, store: str, batch_size: int, cache: Cache = "auto") -> None:
        super().__init__()
        if batch_size < 1:
            raise UserError(f"data.batch_size is {batch_size}; give 1 or more")
        self.store = ImageStore.open(store)
        self.batch_size, self.cache = batch_size, cache
        self.seed, self.balanced = 0, False  # balanced: training draws from all classes alike

    def train_dataloader(self) -> BatchLoader:
        """Drawn by (seed, epoch)."""
        return self._loader("train", self.seed)

    def val_dataloader(self) -> BatchLoader:
        """In the order of the store."""
        return self._loader("val", None)

    def test_dataloader(self) -> BatchLoader:
        """In the order of the store."""
        return self._loader("test", None)

    def _loader(self, name: str, seed: int | None) -> BatchLoader:
        split, trainer = self.store.split(name), self.trainer
        chances = compute_sampling_probs(split.labels) if self.balanced and seed is not None else None
        if trainer is None:
            return BatchLoader(split, BatchSampler(len(split), self.batch_size, seed=seed, probabilities=chances))
        rank, num_ranks = trainer.global_rank, trainer.world_size
        sampler = BatchSampler(
            len(split), self.batch_size, seed=seed, rank=rank, num_ranks=num_ranks, probabilities=chances
        )
        return BatchLoader(
            split, sampler, self.cache, trainer.strategy.root_device, num_ranks // trainer.num_nodes
        )


def compute_sampling_probs(labels: np.ndarray) -> np.ndarray:
    """The chance of each picture (n,) with which a draw is as likely of one class as of another; they sum to 1.

    Of several labels (n, K) the rarest that a picture bears decides; to bear none is a class of its own.
    """
    if labels.ndim == 2:
        borne = np.column_stack([labels, ~labels.any(axis=1)]).astype(np.float64)
        rarity = (borne / np.maximum(borne.sum(axis=0), 1)).max(axis=1)
    else:
        rarity = 1 / np.bincount(labels)[labels]
    return rarity / rarity.sum()
